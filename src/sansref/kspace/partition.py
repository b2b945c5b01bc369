"""Partitions of the acquired samples: which the network is given and which the loss sees.

Every splitter splits either single points or, with ``unit="column"``, whole phase-encoding columns (last axis),
and draws from an explicit generator that lives on the device of ``acquired``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from sansref.errors import SettingError
from sansref.kspace.density import dense_region, variable_density_profile
from sansref.kspace.draws import order_sample, successive_probability, successive_sample
from sansref.kspace.grid import Shape, central_mask, fraction_sides
from sansref.kspace.units import Partition, Unit, check_fraction, in_units, plane_shape

__all__ = [
    "Partition",
    "Unit",
    "hold_out",
    "multi",
    "never_held_out",
    "select_variable_density",
    "split_gaussian",
    "split_uniform",
]

SPARED = 16 / 256
"""Part of each side around DC that is never held out."""


def split_uniform(
    acquired: Tensor, ratio: float, generator: Generator, *, block: Shape = (4, 4), unit: Unit = "point"
) -> Partition:
    """SSDU's uniform split: the target is drawn with equal probability from the acquired samples.

    Parameters
    ----------
    acquired
        bool (height, width), DC-centred. Omega.
    ratio
        The target's part of the acquired samples outside the block (rho of SSDU, there 0.4), rounded to samples.
    generator
        Source of randomness.
    block
        Sides of the box around DC that always stays in the input.
    unit
        Split points or whole columns; then the block is that of columns.

    Returns
    -------
    Partition
        Disjoint, together all of ``acquired``.

    Raises
    ------
    SettingError
        If there are too few samples to split.

    References
    ----------
    Yaman et al., Magn. Reson. Med. 2020.
    """
    return in_units(
        acquired,
        unit,
        lambda plane: _set_apart(plane, torch.zeros_like(plane, dtype=torch.float64), ratio, generator, block),
    )


def split_gaussian(
    acquired: Tensor,
    ratio: float,
    generator: Generator,
    *,
    block: Shape = (4, 4),
    width: float = 0.25,
    unit: Unit = "point",
) -> Partition:
    """SSDU's Gaussian split: the target is drawn mostly from the low frequencies.

    The samples of the target are drawn one after the other, without replacement, each with a probability
    proportional to a Gaussian around DC of standard deviation ``width * (n - 1)`` along an axis of n samples.
    The official code draws normal positions until they hit, which is the same law; its loop takes one sample too
    many, counts ``ratio`` on all of Omega, and centres on the strongest row and column rather than on ``n // 2``.

    Parameters
    ----------
    acquired, ratio, generator, block, unit
        As for :func:`split_uniform`.
    width
        Standard deviation as a part of the axis.

    Returns
    -------
    Partition
        Disjoint, together all of ``acquired``. ``selected`` is the asymptotic inclusion probability of successive
        sampling (Rosén 1972), exact to about one over the number of samples.

    Raises
    ------
    SettingError
        If there are too few samples to split or the width is not positive.
    """
    if not 0 < width < math.inf:
        raise SettingError(
            f"a Gaussian width of {width:g} is impossible: give a positive part of the axis, such as 0.25"
        )

    def split(plane: Tensor) -> Partition:
        rows, columns = (
            ((torch.arange(n, dtype=torch.float64, device=plane.device) - n // 2) / (width * max(n - 1, 1))) ** 2
            for n in plane.shape
        )
        return _set_apart(plane, -(rows[:, None] + columns) / 2, ratio, generator, block)

    return in_units(acquired, unit, split)


def hold_out(
    acquired: Tensor,
    fraction: float,
    generator: Generator,
    *,
    center: float = SPARED,
    least: int = 0,
    unit: Unit = "point",
) -> Partition:
    """Hold samples out of the input, to score a reconstruction on them without a reference.

    Parameters
    ----------
    acquired
        bool (height, width), DC-centred.
    fraction
        Part of the acquired samples outside the low frequencies that is held out, each with the same probability.
    generator
        Source of randomness.
    center
        Part of each side around DC that is never held out.
    least
        Samples of each side around DC that are not held out either.
    unit
        Hold out points or whole columns.

    Returns
    -------
    Partition
        ``target`` is held out, ``input`` the rest.

    Raises
    ------
    SettingError
        If there are too few samples to split.
    """
    block = never_held_out(plane_shape(acquired), center, least)
    return split_uniform(acquired, fraction, generator, block=block, unit=unit)


def never_held_out(shape: Shape, center: float = SPARED, least: int = 0) -> Shape:
    """Sides of the block around DC of which :func:`hold_out` takes nothing."""
    rows, columns = (min(n, max(side, least)) for n, side in zip(shape, fraction_sides(shape, center), strict=True))
    return rows, columns


def select_variable_density(
    acquired: Tensor,
    generator: Generator,
    *,
    fraction: float = 0.5,
    center: float = 16 / 256,
    unit: Unit = "point",
) -> Partition:
    """IDR's random selection Lambda of the acquired samples; the loss sees all of them.

    Meets the paper's three criteria: different each time, most of the low and some of the high frequencies, about
    half of the acquired samples. Selection follows the variable-density profile of
    :func:`sansref.kspace.density.variable_density_profile` with a full centre.

    Parameters
    ----------
    acquired
        bool (height, width), DC-centred. Omega.
    generator
        Source of randomness.
    fraction
        Part of the acquired samples that is selected, exact up to rounding.
    center
        Part of each side around DC whose acquired samples are always selected.
    unit
        Select points or whole columns.

    Returns
    -------
    Partition
        ``input`` is the intersection of Lambda and Omega, ``target`` is Omega; see :meth:`Partition.disjoint`.

    Raises
    ------
    SettingError
        If the centre holds more than ``fraction`` of the samples, or there are too few to select from.
    """
    check_fraction(fraction)

    def select(plane: Tensor) -> Partition:
        shape = plane_shape(plane)
        full = dense_region(shape, fraction_sides(shape, center), plane.device)
        total, kept = int(plane.sum()), int((plane & full).sum())
        count = round(fraction * total)
        if not max(kept, 1) <= count < total:
            raise SettingError(
                f"cannot select {count} of {total} acquired samples where the kept centre holds {kept}: "
                f"use a smaller centre, another fraction than {fraction:g} or a lower acceleration"
            )
        probability = variable_density_profile(full, plane, count / total)
        chosen = order_sample(torch.where(plane, probability, 0.0), count, generator)
        return Partition(chosen, plane.clone(), probability.float())

    return in_units(acquired, unit, select)


def multi(split: Callable[[], Partition], count: int) -> list[Partition]:
    """Several partitions of the same samples, for multi-mask SSDU (Yaman et al., NMR Biomed. 2022).

    Parameters
    ----------
    split
        Draws one partition, for instance ``lambda: split_uniform(acquired, 0.4, generator)``.
    count
        Number of partitions, at least 1.

    Raises
    ------
    SettingError
        If ``count`` is below 1.
    """
    if count < 1:
        raise SettingError(f"{count} partitions are impossible: give at least 1")
    return [split() for _ in range(count)]


def _set_apart(acquired: Tensor, log_weight: Tensor, ratio: float, generator: Generator, block: Shape) -> Partition:
    """Draw the target outside the block in proportion to ``exp(log_weight)``."""
    check_fraction(ratio)
    kept = central_mask(plane_shape(acquired), block, acquired.device)
    available = acquired & ~kept
    outside = int(available.sum())
    count = round(ratio * outside)
    if not 0 < count < int(acquired.sum()):
        raise SettingError(
            f"cannot set {ratio:g} of the {outside} acquired samples outside the central block apart: "
            "use a smaller block, another ratio or a lower acceleration"
        )
    target = successive_sample(log_weight, available, count, generator)
    taken = successive_probability(log_weight, available, count)
    return Partition(acquired & ~target, target, torch.where(kept, 1.0, 1 - taken).float())
