"""Where images lie in the patient.

Acquisitions carry the centre of their image and the directions of readout, phase encoding and slices, in millimetres
from the isocentre in the patient's coordinates of DICOM (to the left, posterior, superior).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sansref.data.mrd.acquisitions import Heads
from sansref.data.mrd.header import MrdHeader
from sansref.scan import Geometry

Vector = npt.NDArray[np.float64]

#: By how much directions (dimensionless) may differ from being of unit length, orthogonal and alike in all slices.
DIRECTION_TOLERANCE = 1e-3
#: By how many millimetres slices may lie beside their place on an even stack.
POSITION_TOLERANCE = 0.05
DIRECTIONS = ("read_dir", "phase_dir", "slice_dir")


def stack_order(heads: Heads) -> npt.NDArray[np.int64]:
    """The order in which slices follow each other along the slice direction.

    Parameters
    ----------
    heads
        One acquisition header per slice.

    Returns
    -------
    numpy.ndarray
        Indices, by position along ``slice_dir`` of the first header; as given where positions are equal.
    """
    along = heads["position"].astype(np.float64) @ heads["slice_dir"][0].astype(np.float64)
    # Positions are single precision; differences below this are none.
    order: npt.NDArray[np.int64] = np.argsort(np.round(along, 3), kind="stable")
    return order if np.isfinite(along).all() else np.arange(len(heads))


def geometry_of(header: MrdHeader, heads: Heads, size: tuple[int, int, int]) -> Geometry | None:
    """Place a stack of slices, or a 3-D slab, in the patient.

    Parameters
    ----------
    header
        How the data were encoded.
    heads
        One acquisition header per slice, in the order of the stack; one in all for a slab.
    size
        Rows, columns and slices of the array to be placed (the images after they are cropped).

    Returns
    -------
    Geometry or None
        Affine (RAS+) of the array (rows, columns, slices); None where directions are missing or are no rotation, or
        slices are not parallel and evenly spaced.
    """
    directions = np.stack([heads[name].astype(np.float64) for name in DIRECTIONS], axis=-1)
    centres = heads["position"].astype(np.float64)
    if not (np.isfinite(centres).all() and _is_rotation(directions[0])):
        return None
    if not np.abs(directions - directions[0]).max() <= DIRECTION_TOLERANCE:  # nor where it is NaN
        return None
    axes = header.direction_sign * directions[0] * np.array(header.spacing)
    first = centres[0]
    if header.encoded[2] > 1:
        if len(heads) > 1:
            return None  # several slabs
        first = first - (size[2] // 2) * axes[:, 2]
    else:
        axes[:, 2] = _step(directions[0][:, 2] * header.encoded_fov[2], centres)
        if not _is_even(centres, axes[:, 2]):
            return None
    origin = first - (size[0] // 2) * axes[:, 0] - (size[1] // 2) * axes[:, 1]
    return Geometry(_affine(axes, origin), slice_axis=2)


def _is_rotation(directions: Vector) -> bool:
    """Whether the columns are orthonormal."""
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() <= DIRECTION_TOLERANCE)


def _step(alone: Vector, centres: Vector) -> Vector:
    """From one slice to the next; ``alone`` where there is no next one."""
    count = len(centres)
    return alone if count == 1 else (centres[-1] - centres[0]) / (count - 1)


def _is_even(centres: Vector, step: Vector) -> bool:
    places = centres[0] + np.arange(len(centres))[:, None] * step
    return bool(np.linalg.norm(step) > POSITION_TOLERANCE and np.abs(centres - places).max() <= POSITION_TOLERANCE)


def _affine(axes: Vector, origin: Vector) -> tuple[tuple[float, float, float, float], ...]:
    """Columns and origin in DICOM's coordinates (LPS) to the rows of a NIfTI affine (RAS+)."""
    flip = np.array([-1.0, -1.0, 1.0])
    rows = np.vstack([flip[:, None] * np.column_stack([axes, origin]), [0, 0, 0, 1]])
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in rows + 0.0)  # no negative zeros
