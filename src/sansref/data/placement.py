"""Slices in the patient: where they lie, and how they are turned to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sansref.errors import FileError
from sansref.scan import Geometry, ScanMeta

Vector = npt.NDArray[np.float64]
Picture = TypeVar("Picture", Tensor, npt.NDArray[Any])

RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
"""From the axes of NIfTI to those of DICOM and MRD; its own inverse."""

MOST_SHEAR = 1e-3
"""Largest cosine of the angle between rows and columns that passes for a right angle, given rounded affines."""

LEAST_VOLUME = 1e-3
"""What three directions span at least, as a part of what they do at right angles."""

DISPLAY_DIRECTIONS = {"L": "L", "R": "L", "A": "P", "P": "P", "S": "I", "I": "I"}
"""Where rows and columns lead on a radiologist's screen: to the patient's left, to posterior, to inferior."""

VERTICAL_PREFERENCE = "LPI"
"""Of the two directions of a slice, the later one here runs down the screen."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Slices in the patient coordinates of DICOM and MRD (LPS+), in millimetres.

    ``origin`` is the center of the first pixel of the first slice; ``down``, ``across`` and ``through`` are the steps
    from one row, column and slice to the next, (3,) each, the first two at right angles. ``known`` is False where the
    source does not say where it lies, and a place was made up. ``stack`` and ``thickness`` are as in
    :class:`~sansref.scan.Geometry`.
    """

    origin: Vector
    down: Vector
    across: Vector
    through: Vector
    known: bool = True
    stack: int | None = None
    thickness: float | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of rows, columns and slices."""
        normal = np.cross(self.across, self.down)
        distance = abs(float(self.through @ normal)) / float(np.linalg.norm(normal))
        return float(np.linalg.norm(self.down)), float(np.linalg.norm(self.across)), distance

    def pixel(self, slice_: int, row: float, column: float) -> Vector:
        """Where a pixel's center lies, (3,)."""
        _, place = self.count(slice_)
        return self.origin + place * self.through + row * self.down + column * self.across

    def count(self, slice_: int) -> tuple[int, int]:
        """The volume that a slice belongs to, and its place in it."""
        return divmod(slice_, self.stack) if self.stack else (0, slice_)


def placement_of(source: Path, geometry: Geometry | None, spacing: tuple[float, float] | None) -> Placement:
    """Where the slices of the file ``source`` lie.

    Without a geometry they are axial, 1 mm apart about the origin, with this row and column spacing (None is 1 mm).
    Raises ``FileError`` if the affine has no extent or is sheared within the slices, which neither DICOM nor MRD can
    say.
    """
    if geometry is None:
        rows, columns = spacing or (1.0, 1.0)
        steps = np.diag([columns, rows, 1.0])
        return Placement(np.zeros(3), steps[1], steps[0], steps[2], known=False)
    affine = np.array(geometry.affine, dtype=np.float64)[:3] * RAS_TO_LPS[:, None]
    down, across = (affine[:, axis] for axis in in_plane_axes(geometry))
    through = affine[:, geometry.slice_axis]
    place = Placement(affine[:, 3], down, across, through, geometry.known, geometry.stack, geometry.thickness)
    if not is_placing(affine):
        raise FileError(
            source, "has an affine that does not place its slices in space", "Repair it, or use --format nifti"
        )
    height, width, _ = place.spacing
    cosine = float(down @ across) / (height * width)
    if abs(cosine) > MOST_SHEAR:
        problem = "has an affine whose rows and columns are not at right angles, which this output format cannot say"
        raise FileError(source, problem, "Use --format nifti")
    # What rounding has left is taken out: readers compare with a right angle exactly.
    straight = down - (down @ across) / (across @ across) * across
    return replace(place, down=straight * height / np.linalg.norm(straight))


def is_placing(affine: npt.NDArray[np.float64]) -> bool:
    """Whether a matrix, of 4 columns and at least 3 rows, gives each voxel a place of its own."""
    with np.errstate(all="ignore"):  # numbers of a damaged header may be larger than their squares can be
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        if not np.isfinite([*affine.flat, *sizes]).all() or not (sizes > 0).all():
            return False
        # Of directions, since the volume of small voxels is small as well.
        return bool(abs(np.linalg.det(affine[:3, :3] / sizes)) > LEAST_VOLUME)


def in_plane_axes(geometry: Geometry) -> tuple[int, int]:
    """The array axes of a slice's rows and columns."""
    rows, columns = (axis for axis in range(3) if axis != geometry.slice_axis)
    return rows, columns


@dataclass(frozen=True, slots=True)
class Orientation:
    """Flips of the order of rows and of columns, and then perhaps an exchange of rows and columns."""

    flip_rows: bool = False
    flip_columns: bool = False
    transpose: bool = False

    def image(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The image (height, width), turned."""
        image = image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return image.T if self.transpose else image

    def placement(self, place: Placement, height: int, width: int) -> Placement:
        """Where slices of this size lie when their images are turned."""
        first = place.pixel(0, (height - 1) * self.flip_rows, (width - 1) * self.flip_columns)
        down = -place.down if self.flip_rows else place.down
        across = -place.across if self.flip_columns else place.across
        down, across = (across, down) if self.transpose else (down, across)
        return replace(place, origin=first, down=down, across=across)


def upright(geometry: Geometry | None) -> Orientation:
    """How slices are turned to stand as a radiologist expects them; not at all where the directions are unknown."""
    import nibabel

    if geometry is None or not geometry.known:
        return Orientation()
    codes: tuple[str, ...] = nibabel.aff2axcodes(np.array(geometry.affine))  # type: ignore[no-untyped-call]
    if None in codes:  # A degenerate affine names no directions.
        return Orientation()
    rows, columns = (codes[axis] for axis in in_plane_axes(geometry))
    down, right = DISPLAY_DIRECTIONS[rows], DISPLAY_DIRECTIONS[columns]
    transpose = VERTICAL_PREFERENCE.index(down) < VERTICAL_PREFERENCE.index(right)
    return Orientation(rows != down, columns != right, transpose)


def for_people(image: Picture, geometry: Geometry | None) -> Picture:
    """A slice (height, width) as every picture for people shows it: :func:`upright`; images in files are not turned."""
    orientation = upright(geometry)
    if isinstance(image, Tensor):
        return torch.from_numpy(np.ascontiguousarray(orientation.image(image.detach().cpu().numpy())))
    return orientation.image(image)


def recut(
    meta: ScanMeta, size: Sequence[int], crop: tuple[int, int] | None, matrix: tuple[int, int] | None
) -> ScanMeta:
    """The pixel spacing and the place in the patient of a slice whose field of view or resolution has changed.

    Parameters
    ----------
    meta
        Place and pixels of the slice as it was read.
    size
        Its height and width.
    crop
        Height and width that it was cut, or zero-padded, to; index ``n // 2`` stays at ``n // 2``. None for all.
    matrix
        Height and width of the same field of view in other pixels; None for the same.
    """
    field = tuple(crop or size)
    shown = tuple(matrix or field)
    steps = tuple(before / after for before, after in zip(field, shown, strict=True))
    spacing = None if meta.spacing is None else (meta.spacing[0] * steps[0], meta.spacing[1] * steps[1])
    if meta.geometry is None:
        return replace(meta, spacing=spacing)
    affine = np.array(meta.geometry.affine)
    # A geometry is that of the part which is exported.
    placed = meta.crop or size
    for axis, before, after, step in zip(in_plane_axes(meta.geometry), placed, shown, steps, strict=True):
        affine[:3, 3] += affine[:3, axis] * (before // 2 - step * (after // 2))
        affine[:3, axis] *= step
    rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
    return replace(meta, spacing=spacing, geometry=replace(meta.geometry, affine=rows))
