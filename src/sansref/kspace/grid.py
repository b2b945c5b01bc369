"""Geometry of the k-space grid: the central box, the distance from DC, the fully sampled centre."""

from __future__ import annotations

import torch
from torch import Tensor

from sansref.errors import SettingError

Shape = tuple[int, int]

UNITS = 256.0
"""Distances are given in samples of a grid of this side, whatever the size of the grid."""


def central_box(shape: Shape, sides: Shape) -> tuple[slice, slice]:
    """Rows and columns of the box of ``sides`` samples around DC (index ``n // 2``).

    The box starts at ``(n - side + 1) // 2``, as fastMRI places its low frequencies. A side longer than the
    axis means all of the axis.
    """
    rows, columns = (min(side, n) for n, side in zip(shape, sides, strict=True))
    top, left = (shape[0] - rows + 1) // 2, (shape[1] - columns + 1) // 2
    return slice(top, top + rows), slice(left, left + columns)


def central_mask(shape: Shape, sides: Shape, device: torch.device | None = None) -> Tensor:
    """The :func:`central_box` as a mask, bool (height, width)."""
    mask = torch.zeros(shape, dtype=torch.bool, device=device)
    mask[central_box(shape, sides)] = True
    return mask


def fraction_sides(shape: Shape, fraction: float) -> Shape:
    """Sides of the central box that takes ``fraction`` of each side, rounded to samples.

    An axis of a single sample is all centre: there a plane stands for a line of columns.

    Raises
    ------
    SettingError
        If ``fraction`` is not between 0 and 1.
    """
    if not 0 <= fraction <= 1:
        raise SettingError(f"a full centre of {fraction:g} of the side is impossible: give a fraction from 0 to 1")
    rows, columns = (1 if n == 1 else round(n * fraction) for n in shape)
    return rows, columns


def distance(shape: Shape, device: torch.device | None = None) -> Tensor:
    """Distance of each location from DC in samples of a 256 x 256 grid, float64 (height, width).

    Each axis is scaled on its own, so that half a side is 128 along both axes of a rectangular grid.
    """
    rows, columns = (
        (torch.arange(n, dtype=torch.float64, device=device) - n // 2) * (UNITS / n if n > 1 else 0.0) for n in shape
    )
    return torch.hypot(rows[:, None], columns[None, :])


def full_centre(array: Tensor) -> Shape:
    """Sides of the largest fully sampled box around DC, grown by one row and one column in turn.

    Parameters
    ----------
    array
        bool (height, width), DC-centred.

    Returns
    -------
    tuple of int
        Rows and columns of the box, (0, 0) where DC itself is not sampled.
    """
    height, width = array.shape
    if not array[height // 2, width // 2]:
        return 0, 0
    sides = [1, 1]
    growing = [0, 1]
    while growing:
        for axis in tuple(growing):
            larger = sides.copy()
            larger[axis] += 1
            # An axis that cannot grow now cannot grow later either: the box it would have to fill only gets larger.
            if (
                larger[axis] > array.shape[axis]
                or not array[central_box((height, width), (larger[0], larger[1]))].all()
            ):
                growing.remove(axis)
            else:
                sides = larger
    return sides[0], sides[1]
