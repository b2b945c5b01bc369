"""The 2-D Poisson-disc law: random points that keep a distance from each other."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from sansref.kspace.grid import UNITS, Shape, central_mask, distance, fraction_sides
from sansref.kspace.masks.density import estimated_density
from sansref.kspace.masks.mask import SamplingMask, check_request, sample_budget

GROWTH = 3.0
"""The exclusion radius at half a side from DC is ``1 + GROWTH`` times the one at DC."""


def poisson_disc(
    shape: Shape, acceleration: float, generator: Generator, *, center: float = 24 / 256, exact: bool = True
) -> SamplingMask:
    """A full central box, and points around which a disc is kept free that grows linearly with the distance from DC.

    Darts are thrown at all points in random order; each one that sticks bars the points closer than its radius.
    The scale of the radii is found by bisection.

    Parameters
    ----------
    shape
        Height and width of the grid.
    acceleration
        At least 1; the central box counts.
    generator
        Source of randomness.
    center
        Fraction of each side that the fully sampled box takes.
    exact
        Remove a random few points outside the box (about 1 %, the bisection's tolerance) to be left with exactly
        ``round(height * width / acceleration)``.

    Returns
    -------
    SamplingMask
        Its density has no closed form and is estimated as a radial average of the mask itself, above 0 everywhere.

    Raises
    ------
    SettingError
        If the request is impossible.
    """
    check_request(shape, acceleration)
    full = central_mask(shape, fraction_sides(shape, center))
    wanted = sample_budget(full.numel(), int(full.sum()), acceleration) - int(full.sum())
    outer = torch.nonzero(~full.flatten()).flatten()
    order = outer[torch.randperm(len(outer), generator=generator)].tolist()
    unit_radius = (1 + GROWTH * distance(shape) / (UNITS / 2)).numpy()
    stuck = torch.tensor(_stick_at_least(wanted, order, unit_radius), dtype=torch.long)
    if exact:
        stuck = stuck[torch.randperm(len(stuck), generator=generator)[:wanted]]
    array = full.flatten()
    array[stuck] = True
    array = array.view(shape)
    # Another draw of the law may have samples in a ring where this one has none.
    density = estimated_density(array, columns=False, least=0.5)
    return SamplingMask(array, density, False, "poisson_disc", float(acceleration))


def _stick_at_least(wanted: int, order: list[int], unit_radius: NDArray[np.float64]) -> list[int]:
    """Darts of the largest discs that still let ``wanted`` darts stick, to 1 %."""
    best, low, high = order, 0.0, 1.0
    largest = math.hypot(*unit_radius.shape)  # a single dart bars everything
    while len(trial := throw_darts(order, high * unit_radius)) >= wanted and high < largest:
        best, low, high = trial, high, 2 * high
    for _ in range(20):
        if len(best) <= 1.01 * wanted:
            break
        middle = (low + high) / 2
        trial = throw_darts(order, middle * unit_radius)
        if len(trial) >= wanted:
            best, low = trial, middle
        else:
            high = middle
    return best


def throw_darts(order: list[int], radius: NDArray[np.float64]) -> list[int]:
    """Throw darts in the given order; each that sticks bars the points closer than its radius.

    Parameters
    ----------
    order
        Flat indices of the grid.
    radius
        Exclusion radius at each point in samples, (height, width).

    Returns
    -------
    list of int
        The darts that stuck, in order. Of any two of them, the later is at least the radius of the earlier away.
    """
    height, width = radius.shape
    margin = min(math.ceil(radius.max()), max(height, width))
    stride = width + 2 * margin  # with a margin, discs at the edge need no clipping
    barred = np.zeros((height + 2 * margin) * stride, dtype=bool)
    rows, columns = np.divmod(np.arange(height * width), width)
    places = ((rows + margin) * stride + columns + margin).tolist()
    # The largest squared distance, an integer, that is below the squared radius: it names the disc.
    reaches = np.maximum(np.ceil(radius**2) - 1, 0).astype(int).ravel().tolist()
    discs: dict[int, NDArray[np.intp]] = {}
    stuck = []
    for dart in order:
        place, reach = places[dart], reaches[dart]
        if barred[place]:
            continue
        stuck.append(dart)
        if reach:
            if reach not in discs:
                discs[reach] = _disc(reach, margin, stride)
            barred[place + discs[reach]] = True
    return stuck


def _disc(reach: int, margin: int, stride: int) -> NDArray[np.intp]:
    side = min(math.isqrt(reach), margin)
    step = np.arange(-side, side + 1)
    rows, columns = np.nonzero(step[:, None] ** 2 + step**2 <= reach)
    return (rows - side) * stride + (columns - side)
