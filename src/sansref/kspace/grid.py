"""The k-space grid: central boxes, distance from DC, crops, and which part of the grid a scan reached."""

from __future__ import annotations

import math

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

    An axis of a single sample is all center: there a plane stands for a line of columns.

    Raises
    ------
    SettingError
        If ``fraction`` is not between 0 and 1.
    """
    if not 0 <= fraction <= 1:
        raise SettingError(f"a full center of {fraction:g} of the side is impossible: give a fraction from 0 to 1")
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


def full_center(array: Tensor) -> Shape:
    """Sides of the largest fully sampled box around DC, grown by one row and one column in turn.

    Parameters
    ----------
    array
        bool (height, width), DC-centered.

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


def center_crop(data: Tensor, size: tuple[int, int]) -> Tensor:
    """The central part of the last two axes.

    Index ``n // 2`` of the input, where DC and the image's center lie, stays at ``n // 2`` of the
    output for even and odd sizes.

    Parameters
    ----------
    data
        (..., height, width).
    size
        Height and width of the part.

    Returns
    -------
    Tensor
        A view, (..., *size).

    Raises
    ------
    ValueError
        If a size is not positive or exceeds the input's.
    """
    plane = data.shape[-2:]
    for wanted, available in zip(size, plane, strict=True):
        if not 0 < wanted <= available:
            raise ValueError(f"size {tuple(size)} must be positive and fit into {tuple(plane)}")
    top, left = (available // 2 - wanted // 2 for wanted, available in zip(size, plane, strict=True))
    return data[..., top : top + size[0], left : left + size[1]]


def center_pad(data: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero-pad the last two axes to at least ``size``, the old center in the new center.

    Parameters
    ----------
    data
        (..., height, width).
    size
        Height and width; an axis that is larger stays as it is.
    """
    pads: list[int] = []
    for wanted, old in zip(reversed(size), reversed(data.shape[-2:]), strict=True):
        new = max(wanted, old)
        before = new // 2 - old // 2
        pads += [before, new - old - before]
    return torch.nn.functional.pad(data, pads)


ASYMMETRY = 1 / 10
"""Share of the columns by which the padding of a full scan may differ between its sides; 7/8 partial Fourier leaves out
more."""


def is_full(mask: Tensor) -> bool:
    """Whether a mask, bool (height, width), is that of a scan without gaps.

    Outer columns may be missing, since files are often zero-padded in the phase-encoding direction, but no more than
    half of them, and about as many on both sides: what partial Fourier leaves out on one side was not acquired.
    """
    first, stop = acquired_columns(mask)
    inside, width = mask[:, first:stop], mask.shape[1]
    lopsided = abs((width - stop) - first) > ASYMMETRY * width + 1
    return bool(inside.all()) and 2 * inside.shape[1] > width and not lopsided


def acquired_columns(mask: Tensor) -> tuple[int, int]:
    """First and one past the last column with samples, of a mask (height, width); 0 and 0 where there are none."""
    columns = mask.any(dim=0).nonzero()
    return (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)


def columns_within(mask: Tensor, width: int) -> tuple[int, int]:
    """First and one past the last column that a full scan reached, on the grid of another field of view.

    Parameters
    ----------
    mask
        bool (height, width) of a full scan: a block of columns about DC.
    width
        Columns of the new grid. It reaches as far in k-space as the old one, in steps of another size.
    """
    first, stop = acquired_columns(mask)
    old = mask.shape[1]
    if stop - first == old:
        return 0, width
    steps = width / old
    low = math.ceil((first - old // 2) * steps)
    high = math.floor((stop - 1 - old // 2) * steps)
    return max(width // 2 + low, 0), min(width // 2 + high + 1, width)
