"""Which part of k-space a scan reached, and whether it left gaps there."""

from __future__ import annotations

import math

from torch import Tensor

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
