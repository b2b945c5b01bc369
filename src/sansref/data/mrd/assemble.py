"""From the lines of an image to scans, and where these lie in the patient.

What was not acquired stays zero and out of the mask: lines that were left out (acceleration, partial Fourier), the
missing part of an asymmetric echo, and padding. Acquisitions carry the center of their image and the directions of
readout, phase encoding and slices, in millimetres from the isocenter in DICOM's coordinates of the patient (LPS+).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sansref.data.mrd.acquisitions import Data, Heads, Lines
from sansref.data.mrd.calibration import Whitening, calibration_kspace, calibration_lines
from sansref.data.mrd.gridding import CURE, GridPlaces, Integers, Mask, grid_mask, measured_lines, place, planar
from sansref.data.mrd.header import MrdHeader
from sansref.errors import FileError
from sansref.kspace.fourier import fft1c, ifft1c, ifft2c
from sansref.kspace.grid import center_crop, is_full
from sansref.kspace.noise import whitened
from sansref.scan import Geometry, Scan, ScanMeta

#: Samples of scanners stay far below; the square of larger ones is infinite in single precision.
LARGEST = 1e18


@dataclass(frozen=True, slots=True)
class Layout:
    """What the scans of an image will look like, as told by the headers of its lines alone.

    The mask, bool (rows, columns), is the same for all partitions; ``scans`` is 1, or the number of partitions of a 3-D
    slab without its oversampling. Readout oversampling is ``cut`` but where a part of the readout is missing: the
    samples beside the gap would take up errors from it. ``crop`` is the part of the image inside the reconstructed
    field of view.
    """

    mask: Tensor
    scans: int
    coils: int
    cut: bool
    crop: tuple[int, int]


def layout_of(source: Path | str, header: MrdHeader, heads: Heads) -> Layout:
    """Describe the scans that :func:`assemble` will make of lines with these headers.

    Raises ``FileError`` if no image can be made of them.
    """
    heads = heads[measured_lines(header, heads)]
    header = planar(header, heads)
    if not len(heads):
        raise FileError(source, "has no imaging line", "Give a complete measurement")
    coils = np.unique(heads["active_channels"])
    if len(coils) > 1:
        raise FileError(source, f"has lines of {coils[0]} and of {coils[1]} coils in one image", CURE)
    mask = _shared_mask(source, grid_mask(header, place(source, header, heads)))
    height, width, scans = header.pixels
    columns = mask.any(0)
    cut = height < header.encoded[0] and bool(mask[:, columns].all())
    kept = columns.repeat(height, 1) if cut else mask
    return Layout(kept, scans, int(coils[0]), cut, (height, width))


def assemble(
    source: Path | str,
    header: MrdHeader,
    lines: Lines,
    meta: ScanMeta,
    whitening: Whitening | None = None,
    others: Lines | None = None,
) -> list[Scan]:
    """Make scans of the lines of one image: one of a 2-D image; of a 3-D slab the partitions, in order.

    Lines of the same place (averages, repeats) are averaged; lines that are for neither the image nor its calibration
    are passed over. Readout oversampling is removed where the readout is complete. A fully sampled image of one coil is
    also given as ``reference``. Calibration lines beside the image's grid, or ``others`` where it has none, are given
    as ``calibration`` where there are several coils. Where whitening makes the noise 1 in each part of a sample, the
    scans know their noise, which is less where lines are averaged. Raises ``FileError`` if no image can be made of
    them: no line, lines outside the grid, a number of coils that changes, partitions that are not fully sampled, NaN,
    or nothing but zeros.

    Parameters
    ----------
    meta
        Subject, source, index of the first scan and geometry; spacing and crop are set here.
    whitening
        How the coils are mixed; None leaves them as they are.
    """
    header = planar(header, lines.heads)
    layout = layout_of(source, header, lines.heads)
    apart = (others or calibration_lines(header, lines)) if layout.coils > 1 else None
    grid, level = _gridded(source, header, lines, layout.coils, whitening)
    if header.encoded[2] > 1:
        grid = _slab_to_slices(grid, layout.scans)
    noise = (level,) * layout.coils if whitening is not None and whitening.unit else None
    meta = replace(meta, spacing=header.spacing[:2], crop=layout.crop, noise=noise)
    scans = [
        _scan(source, grid_of_slice, layout, replace(meta, slice=meta.slice + k))
        for k, grid_of_slice in enumerate(grid)
    ]
    size = (layout.mask.shape[0], layout.mask.shape[1])
    found = None if apart is None else calibration_kspace(header, apart, layout.coils, layout.scans, size)
    if found is None:
        return scans
    seen = found if whitening is None else [whitened(each, whitening.matrix) for each in found]
    return [replace(scan, calibration=each) for scan, each in zip(scans, seen, strict=True)]


def _shared_mask(source: Path | str, mask: Mask) -> Tensor:
    """The mask (rows, columns) that all partitions share."""
    if not (mask == mask[0]).all():
        missing = int((mask.any(0) & ~mask).any(-1).sum())
        problem = f"is a 3-D scan in which {missing} lines of some partitions were not acquired"
        raise FileError(source, problem, "Give 2-D scans, or 3-D scans that are fully sampled along the partitions")
    return torch.from_numpy(mask[0]).T.contiguous()


def _gridded(
    source: Path | str, header: MrdHeader, lines: Lines, coils: int, whitening: Whitening | None
) -> tuple[Tensor, float]:
    """The mean of the lines at each place, complex64 (partitions, columns, coils, rows), and how it lowers noise.

    The latter is the root mean square over all places of 1 / sqrt(lines).
    """
    x, y, z = header.encoded
    chosen = measured_lines(header, lines.heads)
    places = place(source, header, lines.heads[chosen])
    total = np.zeros((z, y, coils, x), np.complex64)
    count = np.zeros((z, y, 1, x), np.float32)
    with np.errstate(all="ignore"):  # what is no number is found below, once
        for at, samples in _spans(places, _data(source, lines, chosen)):
            total[at] += samples
            count[at] += 1
        total /= np.maximum(count, 1)
    grid = torch.from_numpy(total)
    if whitening is not None:
        grid = torch.stack([whitened(each.transpose(0, 1), whitening.matrix).transpose(0, 1) for each in grid])
    taken = count[count > 0]
    return grid, float(np.sqrt((1 / taken).mean())) if len(taken) else 1.0


def _data(source: Path | str, lines: Lines, chosen: Integers) -> Iterator[Data]:
    """The samples of some lines, checked against their headers."""
    for index in chosen:
        head, data = lines.heads[index], lines.data[index]
        declared = (int(head["active_channels"]), int(head["number_of_samples"]))
        if data.shape != declared:
            raise FileError(source, f"has a line of {data.shape} coils and samples, not {declared} as declared", CURE)
        yield data


def _spans(places: GridPlaces, data: Iterable[Data]) -> Iterator[tuple[tuple[int | slice, ...], Data]]:
    """Each line's place on the grid (partition, column, all coils, rows) and the samples that go there."""
    where = zip(places.partitions, places.columns, places.rows, places.stop_rows, strict=True)
    kept = zip(places.first, places.stop, places.reverse, strict=True)
    for samples, (partition, column, row, row_stop), (first, stop, reverse) in zip(data, where, kept, strict=True):
        ordered = samples[:, ::-1] if reverse else samples
        yield (int(partition), int(column), slice(None), slice(row, row_stop)), ordered[:, first:stop]


def _slab_to_slices(grid: Tensor, kept: int) -> Tensor:
    """Transform (partitions, columns, ...) to slices, in place a column at a time, and cut off slice oversampling."""
    for column in range(grid.shape[1]):
        grid[:, column] = ifft1c(grid[:, column], 0)
    first = grid.shape[0] // 2 - kept // 2
    return grid[first : first + kept]


def _scan(source: Path | str, grid: Tensor, layout: Layout, meta: ScanMeta) -> Scan:
    kspace = grid.permute(1, 2, 0)  # to (coils, rows, columns)
    if layout.cut:
        images = ifft1c(kspace, -2)
        kspace = fft1c(center_crop(images, (layout.mask.shape[0], images.shape[-1])), -2)
    kspace = kspace.masked_fill(~layout.mask, 0).contiguous()
    if not kspace.abs().max() <= LARGEST:  # nor where it is NaN
        problem = f"holds k-space in slice {meta.slice} that is NaN, infinite or beyond any scanner's"
        raise FileError(source, problem, "Export it again, or leave it out")
    if not kspace.any():
        raise FileError(source, f"holds only zeros in the k-space of slice {meta.slice}", "Leave it out")
    reference = ifft2c(kspace)[0] if layout.coils == 1 and is_full(layout.mask) else None
    return Scan(kspace, layout.mask.clone(), meta, reference=reference)


Vector = npt.NDArray[np.float64]

#: By how much directions (dimensionless) may differ from being of unit length, orthogonal and alike in all slices.
DIRECTION_TOLERANCE = 1e-3
#: By how many millimetres slices may lie beside their place on an even stack.
POSITION_TOLERANCE = 0.05
DIRECTIONS = ("read_dir", "phase_dir", "slice_dir")


def stack_order(heads: Heads) -> npt.NDArray[np.int64]:
    """Indices of slices, a header each, by position along ``slice_dir`` of the first, then as given."""
    along = heads["position"].astype(np.float64) @ heads["slice_dir"][0].astype(np.float64)
    # Positions are single precision; differences below this are none.
    order: npt.NDArray[np.int64] = np.argsort(np.round(along, 3), kind="stable")
    return order if np.isfinite(along).all() else np.arange(len(heads))


def geometry_of(header: MrdHeader, heads: Heads, size: tuple[int, int, int]) -> Geometry | None:
    """Place a stack of slices, or a 3-D slab, in the patient.

    Headers are one per slice, in the order of the stack; one in all for a slab. The size is that of the array to be
    placed (rows, columns, slices), after images are cropped; the affine (RAS+) is for this order. None where directions
    are missing or are no rotation, or slices are not parallel and evenly spaced.
    """
    directions = np.stack([heads[name].astype(np.float64) for name in DIRECTIONS], axis=-1)
    centers = heads["position"].astype(np.float64)
    if not (np.isfinite(centers).all() and _is_rotation(directions[0])):
        return None
    if not np.abs(directions - directions[0]).max() <= DIRECTION_TOLERANCE:  # nor where it is NaN
        return None
    axes = header.direction_sign * directions[0] * np.array(header.spacing)
    first = centers[0]
    if header.encoded[2] > 1:
        if len(heads) > 1:
            return None  # several slabs
        first = first - (size[2] // 2) * axes[:, 2]
    else:
        axes[:, 2] = _step(directions[0][:, 2] * header.encoded_fov[2], centers)
        if not _is_even(centers, axes[:, 2]):
            return None
    origin = first - (size[0] // 2) * axes[:, 0] - (size[1] // 2) * axes[:, 1]
    thickness = header.recon_fov[2] / header.recon[2] if header.encoded[2] == 1 else None
    return Geometry(_affine(axes, origin), slice_axis=2, thickness=thickness)


def _is_rotation(directions: Vector) -> bool:
    """Whether the columns are orthonormal."""
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() <= DIRECTION_TOLERANCE)


def _step(alone: Vector, centers: Vector) -> Vector:
    """From one slice to the next; ``alone`` where there is no next one."""
    count = len(centers)
    return alone if count == 1 else (centers[-1] - centers[0]) / (count - 1)


def _is_even(centers: Vector, step: Vector) -> bool:
    places = centers[0] + np.arange(len(centers))[:, None] * step
    return bool(np.linalg.norm(step) > POSITION_TOLERANCE and np.abs(centers - places).max() <= POSITION_TOLERANCE)


def _affine(axes: Vector, origin: Vector) -> tuple[tuple[float, float, float, float], ...]:
    """Columns and origin in DICOM's coordinates (LPS) to the rows of a NIfTI affine (RAS+)."""
    flip = np.array([-1.0, -1.0, 1.0])
    rows = np.vstack([flip[:, None] * np.column_stack([axes, origin]), [0, 0, 0, 1]])
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in rows + 0.0)  # no negative zeros
