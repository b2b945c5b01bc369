"""Which slices of a file are used, how large, and in how many pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sansref.data.placement import recut
from sansref.data.readers import Plane, ReaderOptions
from sansref.data.readers.reader import NO_MAPS
from sansref.errors import FileError, SettingError, SizeError
from sansref.kspace.coils import normalised
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop, center_fit, columns_within, is_full
from sansref.scan import Scan

LONGEST_SIDE = 8192
"""Pixels that a slice is cut or padded to at most."""


@dataclass(frozen=True)
class Slices:
    """Which slices of a file are used, and how large.

    Attributes
    ----------
    plane
        Plane in which image volumes are sliced; native is the one with the finest matrix.
    slices
        Slices per file, evenly spaced over its central part; 0 takes every slice.
    central
        The share of the slices around the middle of the file that ``slices`` are taken from.
    crop
        Crop or zero-pad images to this height and width around their center; the resolution stays.
    matrix
        Keep only this central part (height, width) of k-space; the field of view stays.
    max_crop
        Upper bound in the place of crop, for settings that many data share: smaller images keep their size.
    max_matrix
        Upper bound in the place of matrix: smaller images keep their size, and measured k-space stays whole.
    array
        Name of the array, for files that hold several (MATLAB, .npz, HDF5).
    axes
        What the axes of an array are, such as coil,row,column: slice, partition, coil, row, column, or x for an axis
        of length 1. A partition is a fully sampled k-space axis of a 3-D scan; complex is an axis along which real and
        imaginary parts take turns.
    subject_from
        Whose scans the files of a folder are: folder (one person a folder), file (one person a file), or a regular
        expression that finds the person's name in a path, by its group where it has one; null goes by patient ids in
        files, BIDS and IXI names, and folders that have files of equal names, and refuses where that is not sure.
    maps
        Coil maps that are taken instead of estimated ones: a file, which must fit each scan, or a folder of files that
        are named as the scans are; null takes those in the scan's own file, if any, and none always estimates.
    """

    plane: Plane = "native"
    slices: int = 0
    central: float = 0.6
    crop: tuple[int, int] | None = None
    matrix: tuple[int, int] | None = None
    max_crop: tuple[int, int] | None = None
    max_matrix: tuple[int, int] | None = None
    array: str | None = None
    axes: str | None = None
    subject_from: str | None = None
    maps: str | None = None

    def __post_init__(self) -> None:
        if self.maps not in (None, NO_MAPS):
            # A run goes on from other folders than the one that it was started in.
            object.__setattr__(self, "maps", str(Path(str(self.maps)).resolve()))
        _ = self.reader_options  # refuses axes that cannot be understood
        if not 0 < self.central <= 1 or self.slices < 0:
            told = f"got {self.central} and {self.slices}"
            raise SettingError(f"central must lie in (0, 1] and slices must not be negative, {told}")
        for name in ("crop", "matrix", "max_crop", "max_matrix"):
            size: tuple[int, int] | None = getattr(self, name)
            if size is not None and not 1 <= min(size) <= max(size) <= LONGEST_SIDE:
                sizes = f"got {size[0]} and {size[1]}"
                raise SettingError(f"{name} must be a positive height and width of at most {LONGEST_SIDE}, {sizes}")

    @property
    def reader_options(self) -> ReaderOptions:
        """How files are read."""
        return ReaderOptions(self.plane, self.array, self.axes, subject_from=self.subject_from, maps=self.maps)

    def bounded(self, size: Sequence[int]) -> Slices:
        """The crop and the matrix of a magnitude image (height, width) in the place of their upper bounds."""
        crop = self.crop or _bound(self.max_crop, size)
        return replace(self, crop=crop, matrix=self.matrix or _bound(self.max_matrix, crop or size))

    def indices(self, count: int) -> list[int]:
        """The slices chosen from a file of ``count`` slices."""
        if self.slices == 0:
            return list(range(count))
        number = min(self.slices, count)
        first, span = (1 - self.central) / 2 * count, self.central * count
        # Rounded first: 2.9999999 is slice 3.
        return sorted({int(round(first + (i + 0.5) / number * span, 6)) for i in range(number)})


def _bound(limit: tuple[int, int] | None, size: Sequence[int]) -> tuple[int, int] | None:
    """The smaller of both along each axis; None where that is all there is."""
    if limit is None or all(most >= n for most, n in zip(limit, size, strict=True)):
        return None
    return min(limit[0], size[0]), min(limit[1], size[1])


def resized_image(image: Tensor, slices: Slices) -> Tensor:
    """Crop or zero-pad a magnitude image (height, width), then reduce its resolution; upper bounds do nothing."""
    if slices.crop is not None:
        image = center_fit(image, slices.crop)
    if slices.matrix is not None:
        fewer = ifft2c(center_crop(fft2c(image), _smaller(slices.matrix, image))).abs()
        image = fewer * math.sqrt(fewer.numel() / image.numel())  # of the orthonormal transforms: keeps grey values
    return image


def resized_kspace(scan: Scan, slices: Slices) -> Scan:
    """Crop the field of view of a fully sampled scan, then reduce the resolution of any scan."""
    kspace, mask, maps, calibration = scan.kspace, scan.mask, scan.maps, scan.calibration
    if slices.crop is not None:
        calibration = None  # of another field of view now; a full scan needs none
        if not is_full(scan.mask):
            raise FileError(scan.meta.source, "is undersampled, its field of view is fixed", "Leave out --crop")
        kspace = fft2c(center_fit(ifft2c(kspace), slices.crop))
        first, stop = columns_within(mask, slices.crop[1])
        mask = torch.zeros(slices.crop, dtype=torch.bool)
        mask[:, first:stop] = True
        kspace = kspace * mask
        maps = None if maps is None else center_fit(maps, slices.crop)
    if slices.matrix is not None:
        matrix = _smaller(slices.matrix, kspace)
        kspace, mask = center_crop(kspace, matrix), center_crop(mask, matrix)
        maps = None if maps is None else resampled_maps(maps, matrix)
        calibration = None if calibration is None else center_crop(calibration, matrix)
    if kspace is scan.kspace:
        return scan
    reference = None if scan.reference is None else ifft2c(kspace).squeeze(0)
    meta = replace(recut(scan.meta, scan.mask.shape, slices.crop, slices.matrix), crop=None)
    scan = replace(scan, reference=None, maps=None, calibration=None, kspace=kspace, mask=mask, meta=meta)
    return replace(scan, reference=reference, maps=maps, calibration=calibration)


def resampled_maps(maps: Tensor, matrix: tuple[int, int]) -> Tensor:
    """Maps (coils, height, width) of the same field of view in other pixels, between which they are interpolated.

    They are no images: the low-pass of a smaller matrix would ring at the edges of what they cover.
    """
    places = [
        ((torch.arange(new) - new // 2) * (old / new) + old // 2) * 2 / (old - 1) - 1
        for new, old in zip(matrix, maps.shape[-2:], strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*places, indexing="ij"), -1).flip(-1)[None]
    numbers = torch.cat((maps.real, maps.imag))[None]
    numbers = torch.nn.functional.grid_sample(numbers, grid, align_corners=True, padding_mode="border")[0]
    return normalised(torch.complex(*numbers.chunk(2)))


def _smaller(matrix: tuple[int, int], data: Tensor) -> tuple[int, int]:
    size = tuple(data.shape[-2:])
    if any(new > old for new, old in zip(matrix, size, strict=True)):
        raise SizeError(f"the matrix {matrix} is larger than the scan's {size}: choose a smaller --matrix")
    return matrix
