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
        Number of slices to take from each file, evenly spaced over its central part; 0 takes all.
    central
        Fraction of a file, around its middle slice, from which ``slices`` are taken.
    crop
        Crop or zero-pad images to this height and width around their center, at the same resolution.
    matrix
        Keep only this central part (height, width) of k-space: a lower resolution, the same field of view.
    max_crop
        Like crop, but for larger images only; smaller ones keep their size.
    max_matrix
        Like matrix, but for larger images only; smaller ones, and measured k-space, keep their size.
    array
        Name of the array to read from a file that holds several (MATLAB, .npz, HDF5).
    axes
        Meaning of each axis of an array, such as coil,row,column. The words are slice, partition (a fully sampled
        k-space axis of a 3-D scan), coil, row, column, complex (real and imaginary parts alternate) and x (an axis of
        length 1).
    subject_from
        How to tell whose scan a file is: folder (one person per folder), file (one person per file), or a regular
        expression that matches the person's name in the path (its group, if it has one). null goes by patient ids in
        the files, BIDS and IXI names, and folders with files of equal names, and stops if these leave doubt.
    maps
        Coil maps to use instead of estimated ones: a file that fits every scan, or a folder of files named like the
        scans. null uses the maps in the scan's own file, if there are any; none always estimates.
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
    noise = scan.meta.noise
    if slices.crop is not None:
        calibration = None  # of another field of view now; a full scan needs none
        if not is_full(scan.mask):
            raise FileError(scan.meta.source, "is undersampled, its field of view is fixed", "Leave out --crop")
        kspace = fft2c(center_fit(ifft2c(kspace), slices.crop))
        # Zeros that are put round an image have no noise.
        more = math.prod(max(new / old, 1.0) for new, old in zip(slices.crop, scan.mask.shape, strict=True))
        noise = noise and tuple(level / math.sqrt(more) for level in noise)
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
    meta = replace(recut(scan.meta, scan.mask.shape, slices.crop, slices.matrix), crop=None, noise=noise)
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
