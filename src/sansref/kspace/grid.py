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

    An axis of a single sample is all center: there a grid stands for a line of columns. Raises ``SettingError`` if
    ``fraction`` is not between 0 and 1.
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
    """Rows and columns of the largest fully sampled box around DC, grown by one row and one column in turn.

    The array is bool (height, width), DC-centered; the box has none where DC itself is not sampled.
    """
    height, width = array.shape
    if not array[height // 2, width // 2]:
        return 0, 0
    sides, growing = [1, 1], [0, 1]
    while growing:
        for axis in tuple(growing):
            sides[axis] += 1
            # An axis that cannot grow now cannot grow later either: the box it would have to fill only gets larger.
            if sides[axis] > array.shape[axis] or not array[central_box((height, width), (sides[0], sides[1]))].all():
                sides[axis] -= 1
                growing.remove(axis)
    return sides[0], sides[1]


def center_crop(data: Tensor, size: tuple[int, int]) -> Tensor:
    """The center of (..., height, width), a view of height and width ``size``.

    Index ``n // 2`` of the input, where DC and the image's center lie, stays at ``n // 2`` of the
    output for even and odd sizes.

    Raises
    ------
    ValueError
        If a size is not positive or exceeds the input's.
    """
    whole = data.shape[-2:]
    if any(not 0 < new <= old for new, old in zip(size, whole, strict=True)):
        raise ValueError(f"size {tuple(size)} must be positive and fit into {tuple(whole)}")
    top, left = (old // 2 - new // 2 for new, old in zip(size, whole, strict=True))
    return data[..., top : top + size[0], left : left + size[1]]


def center_pad(data: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero-pad (..., height, width) to at least ``size``, the old center in the new one; a larger axis stays."""
    pads: list[int] = []
    for least, old in zip(reversed(size), reversed(data.shape[-2:]), strict=True):
        new = max(least, old)
        before = new // 2 - old // 2
        pads += [before, new - old - before]
    return torch.nn.functional.pad(data, pads)


def center_fit(data: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop or zero-pad (..., height, width) to height and width ``size``, along each axis about its center."""
    return center_crop(center_pad(data, size), size)


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
    lopsided = abs((width - stop) - first) > max(2, ASYMMETRY * width)
    return bool(inside.all()) and 2 * inside.shape[1] > width and not lopsided


def is_columns(mask: Tensor) -> bool:
    """Whether a mask (height, width) is 1-D: every column acquired whole or not at all.

    Whole within a block of rows, since asymmetric echoes leave out the first or the last rows of all columns.
    """
    first, stop = acquired_columns(mask.mT)  # rows, of the transposed mask
    block = mask[first:stop]
    return bool((block == block[:1]).all())


def is_rows(mask: Tensor) -> bool:
    """Whether a mask (height, width) leaves out whole rows: the phase encoding lies where the readout belongs."""
    return is_columns(mask.mT) and not is_columns(mask)


def acquired_columns(mask: Tensor) -> tuple[int, int]:
    """First and one past the last column with samples, of a mask (height, width); 0 and 0 where there are none."""
    columns = mask.any(dim=0).nonzero()
    return (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)


def columns_within(mask: Tensor, width: int) -> tuple[int, int]:
    """First and one past the last column that a full scan reached, on the grid of another field of view.

    The mask, bool (height, width), is a block of columns about DC. The new grid, of ``width`` columns, reaches as far
    in k-space as the old one, in steps of another size.
    """
    first, stop = acquired_columns(mask)
    old = mask.shape[1]
    if stop - first == old:
        return 0, width
    steps = width / old
    before = math.ceil((first - old // 2) * steps)
    after = math.floor((stop - 1 - old // 2) * steps)
    return max(width // 2 + before, 0), min(width // 2 + after + 1, width)
