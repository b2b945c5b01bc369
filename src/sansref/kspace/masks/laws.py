"""Sampling laws by name: functions that draw a mask.

Column laws acquire whole columns (phase-encoding lines, the last axis). Point laws have two phase-encoding axes, as a
3-D scan seen along its readout.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from sansref.errors import SettingError
from sansref.kspace.grid import UNITS, Shape, central_mask, distance, fraction_sides
from sansref.kspace.masks.mask import (
    SamplingMask,
    check_request,
    dense_region,
    estimated_density,
    order_sample,
    sample_budget,
    variable_density_profile,
)


def random_columns(
    shape: Shape, acceleration: float, generator: Generator, *, center: float = 0.08, exact: bool = True
) -> SamplingMask:
    """Full central columns, and every other column with the same probability.

    The law of fastMRI's ``RandomMaskFunc``: ``n = round(width * center)`` central columns, and each other one
    with ``p = (width / acceleration - n) / (width - n)``.

    Parameters
    ----------
    shape, acceleration, generator, center
        As for :func:`draw_mask`.
    exact
        Take exactly ``round(width / acceleration)`` columns. False is fastMRI's law, where the number of
        columns varies from mask to mask.
    """
    low, wanted = _low_frequencies(shape, acceleration, center)
    outer = torch.nonzero(~low).flatten()
    taken = low.clone()
    if exact:
        chosen = torch.randperm(len(outer), generator=generator)[: wanted - int(low.sum())]
        taken[outer[chosen]] = True
        probability = (wanted - int(low.sum())) / max(len(outer), 1)
    else:
        # The rounding of n can put it a little above width / acceleration.
        probability = max(shape[1] / acceleration - int(low.sum()), 0.0) / max(len(outer), 1)
        taken[outer] = torch.rand(len(outer), dtype=torch.float64, generator=generator) < probability
    density = torch.where(low, 1.0, probability)
    return _from_line(shape, taken, density)


def equispaced_columns(
    shape: Shape, acceleration: float, generator: Generator, *, center: float = 0.08, exact: bool = True
) -> SamplingMask:
    """Full central columns, and equally spaced columns with a random offset.

    The spacing is ``acceleration * (width - n) / (width - n * acceleration)`` columns, so that the total
    acceleration is right together with the ``n`` central columns; positions are rounded to columns.

    Parameters
    ----------
    shape, acceleration, generator, center
        As for :func:`draw_mask`.
    exact
        Take exactly ``round(width / acceleration)`` columns: the spaced columns are counted over the outer
        columns only, so that none falls into the center, with a continuous random offset (every outer column
        is equally likely). False is the law of fastMRI's ``EquispacedMaskFractionFunc``, where the columns run
        through the center, the offset is an integer and the number of columns varies a little.
    """
    low, wanted = _low_frequencies(shape, acceleration, center)
    if wanted in (int(low.sum()), len(low)):  # no other column, or every one: there is nothing to space
        taken = torch.full_like(low, wanted == len(low)) | low
        density = taken.double()
    elif exact:
        taken, density = _systematic(low, wanted, generator)
    else:
        taken, density = _fastmri_equispaced(low, acceleration, generator)
    return _from_line(shape, taken, density)


def _systematic(low: Tensor, wanted: int, generator: Generator) -> tuple[Tensor, Tensor]:
    outer = torch.nonzero(~low).flatten()
    count = wanted - int(low.sum())
    taken = low.clone()
    steps = torch.arange(count) + torch.rand((), dtype=torch.float64, generator=generator)
    taken[outer[(steps * (len(outer) / count)).long()]] = True
    return taken, torch.where(low, 1.0, count / len(outer))


def _fastmri_equispaced(low: Tensor, acceleration: float, generator: Generator) -> tuple[Tensor, Tensor]:
    width, central = len(low), int(low.sum())
    spacing = acceleration * (width - central) / (width - central * acceleration)
    masks = low.repeat(round(spacing), 1)  # one for each offset, all equally likely
    for offset, mask in enumerate(masks):
        mask[torch.arange(offset, max(width - 1, offset), spacing, dtype=torch.float64).round().long()] = True
    drawn = int(torch.randint(len(masks), (), generator=generator))
    return masks[drawn], masks.double().mean(0)


def _low_frequencies(shape: Shape, acceleration: float, center: float) -> tuple[Tensor, int]:
    check_request(shape, acceleration)
    line = (1, shape[1])
    low = central_mask(line, fraction_sides(line, center))[0]
    return low, sample_budget(shape[1], int(low.sum()), acceleration, "columns")


def _from_line(shape: Shape, taken: Tensor, density: Tensor) -> SamplingMask:
    return SamplingMask(taken.expand(shape).clone(), density.float().expand(shape).clone())


def uniform_random(
    shape: Shape,
    acceleration: float,
    generator: Generator,
    *,
    center: float = 0.08,
    exact: bool = True,
) -> SamplingMask:
    """A full central box, and every other point with the same probability.

    Parameters
    ----------
    shape, acceleration, generator, center
        As for :func:`draw_mask`.
    exact
        Take exactly ``round(height * width / acceleration)`` points; False draws each point on its own.
    """
    check_request(shape, acceleration)
    full = central_mask(shape, fraction_sides(shape, center))
    wanted = sample_budget(full.numel(), int(full.sum()), acceleration)
    expected = wanted if exact else full.numel() / acceleration
    outer = max(int((~full).sum()), 1)
    probability = torch.where(full, 1.0, max(expected - int(full.sum()), 0.0) / outer).double()
    return _draw(probability, wanted if exact else None, generator)


def variable_density(
    shape: Shape, acceleration: float, generator: Generator, *, center: float = 24 / 256, exact: bool = True
) -> SamplingMask:
    """A full central box, and points whose density falls exponentially with the distance from DC.

    The density is that of :func:`sansref.kspace.masks.mask.variable_density_profile`, fitted to the masks of
    Hu et al. (MICCAI 2021); within 8/256 of the side from DC everything is sampled, even with ``center=0``.
    Parameters are those of :func:`draw_mask`; without ``exact``, each point is drawn on its own.
    """
    check_request(shape, acceleration)
    full = dense_region(shape, fraction_sides(shape, center))
    wanted = sample_budget(full.numel(), int(full.sum()), acceleration)
    mean = wanted / full.numel() if exact else max(1 / acceleration, int(full.sum()) / full.numel())
    probability = variable_density_profile(full, torch.ones_like(full), mean)
    return _draw(probability, wanted if exact else None, generator)


def _draw(probability: Tensor, count: int | None, generator: Generator) -> SamplingMask:
    if count is None:
        array = torch.rand(probability.shape, dtype=torch.float64, generator=generator) < probability
    else:
        array = order_sample(probability, count, generator)
    return SamplingMask(array, probability.float())


GROWTH = 3.0
"""The exclusion radius at half a side from DC is ``1 + GROWTH`` times the one at DC."""


def poisson_disc(
    shape: Shape, acceleration: float, generator: Generator, *, center: float = 24 / 256, exact: bool = True
) -> SamplingMask:
    """A full central box, and points around which a disc is kept free that grows linearly with the distance from DC.

    Darts are thrown at all points in random order; each one that sticks bars the points closer than its radius.
    The scale of the radii is found by bisection. The density has no closed form and is estimated as a radial average of
    the mask itself, above 0 everywhere.

    Parameters
    ----------
    shape, acceleration, generator, center
        As for :func:`draw_mask`.
    exact
        Remove a random few points outside the box (about 1 %, the bisection's tolerance) to be left with exactly
        ``round(height * width / acceleration)``.
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
    return SamplingMask(array, estimated_density(array, columns=False, least=0.5))


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
    """Throw darts at flat indices of the grid in this order; each that sticks bars the points closer than its radius.

    Radii are those of each point in samples, (height, width). Given are the darts that stuck, in order: of any two of
    them, the later is at least the radius of the earlier away.
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


class MaskLaw(Protocol):
    """A sampling law: a plain function that draws a mask."""

    def __call__(
        self, shape: Shape, acceleration: float, generator: Generator, *, center: float = ..., exact: bool = ...
    ) -> SamplingMask:
        """Draw a mask; ``center`` is the fraction of the side that is fully sampled around DC."""
        ...


MASK_LAWS: dict[str, MaskLaw] = {
    "random_columns": random_columns,
    "equispaced_columns": equispaced_columns,
    "uniform_random": uniform_random,
    "variable_density": variable_density,
    "poisson_disc": poisson_disc,
}


def draw_mask(
    law: str,
    shape: Shape,
    acceleration: float,
    generator: Generator,
    center: float | None = None,
    exact: bool = True,
) -> SamplingMask:
    """Draw a sampling mask by the name of its law.

    Parameters
    ----------
    law
        A key of :data:`MASK_LAWS`.
    shape
        Height and width of the k-space grid.
    acceleration
        All samples of the grid over the acquired ones, those of the full center included; at least 1, which gives a
        full mask.
    generator
        Source of randomness: the same state gives the same mask.
    center
        Fraction of the side (of each side, in 2-D) that is fully sampled around DC. None is the law's own default:
        0.08 for the column laws and for ``uniform_random``, 24/256 for ``variable_density`` and
        ``poisson_disc``. fastMRI pairs an acceleration of 4 with 0.08 and of 8 with 0.04.
    exact
        Reach the acceleration exactly (up to rounding to whole samples) instead of on average.

    Raises
    ------
    SettingError
        If there is no such law or the request is impossible.
    """
    if law not in MASK_LAWS:
        raise SettingError(f"there is no sampling law {law!r}: choose one of {', '.join(MASK_LAWS)}")
    draw = MASK_LAWS[law]
    if center is None:
        return draw(shape, acceleration, generator, exact=exact)
    return draw(shape, acceleration, generator, center=center, exact=exact)
