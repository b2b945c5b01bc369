"""Partitions of the acquired samples: which the network is given and which the loss sees.

Every splitter splits either single points or, with ``unit="column"``, whole phase-encoding columns (last axis).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor

from sansref.errors import SettingError
from sansref.kspace.grid import Shape, central_mask, fraction_sides, is_columns
from sansref.kspace.masks.mask import (
    dense_region,
    order_sample,
    successive_probability,
    successive_sample,
    variable_density_profile,
)

Unit = Literal["point", "column"]


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """A split of the acquired samples Omega.

    Attributes
    ----------
    input
        bool (height, width), what the network is given: Theta of SSDU, the intersection of Lambda and Omega of IDR.
    target
        bool (height, width), what the loss sees. May overlap ``input``.
    selected
        float32 (height, width), the probability q that a location, if acquired, is in ``input``.
    """

    input: Tensor
    target: Tensor
    selected: Tensor

    def disjoint(self) -> Partition:
        """The same input, and as target only what is not in it."""
        return replace(self, target=self.target & ~self.input)


def in_units(acquired: Tensor, unit: Unit, split: Callable[[Tensor], Partition]) -> Partition:
    """Split ``acquired``, bool (height, width), or its columns as the points of a single row.

    Raises ``SettingError`` if only a part of a column is acquired, within the rows that are acquired at all.
    """
    shape_of(acquired)
    if unit not in ("point", "column"):
        raise ValueError(f"unit must be 'point' or 'column', got {unit!r}")
    if unit == "point":
        return split(acquired)
    if not is_columns(acquired):
        raise SettingError(
            "some columns are only partly acquired, and cannot be split as whole ones: use --unit point, or full scans"
            " with a mask of whole columns (--mask random_columns)"
        )
    line = split(acquired.any(0, keepdim=True))
    selected = line.selected.expand(acquired.shape).clone()
    return Partition(input=line.input & acquired, target=line.target & acquired, selected=selected)


def check_fraction(fraction: float) -> None:
    """Refuse, with a SettingError, to split off nothing or everything."""
    if not 0 < fraction < 1:
        raise SettingError(f"a part of {fraction:g} of the acquired samples is impossible: give one between 0 and 1")


def shape_of(acquired: Tensor) -> Shape:
    """Height and width of ``acquired``; ValueError if it is not bool (height, width)."""
    if acquired.ndim != 2 or acquired.dtype != torch.bool:
        raise ValueError(f"acquired must be bool (height, width), got {acquired.dtype} {tuple(acquired.shape)}")
    return acquired.shape[0], acquired.shape[1]


SPARED = 16 / 256
"""Share of each side around DC that is never held out."""


def split_uniform(
    acquired: Tensor, ratio: float, generator: Generator, *, block: Shape = (4, 4), unit: Unit = "point"
) -> Partition:
    """SSDU's uniform split: the target is drawn with equal probability from the acquired samples.

    Parameters
    ----------
    acquired
        bool (height, width), DC-centered. Omega.
    ratio
        The target's share of the acquired samples outside the block (rho of SSDU, there 0.4), rounded to samples.
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

    def split(points: Tensor) -> Partition:
        return _set_apart(points, torch.zeros_like(points, dtype=torch.float64), ratio, generator, block, unit)

    return in_units(acquired, unit, split)


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
    many, counts ``ratio`` on all of Omega, and centers on the strongest row and column rather than on ``n // 2``.

    Parameters
    ----------
    acquired, ratio, generator, block, unit
        As for :func:`split_uniform`.
    width
        Standard deviation as a share of the axis.

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
        raise SettingError(f"a Gaussian width of {width:g} is impossible: give a positive part of the axis, as 0.25 is")

    def split(points: Tensor) -> Partition:
        rows, columns = (
            ((torch.arange(n, dtype=torch.float64, device=points.device) - n // 2) / (width * max(n - 1, 1))) ** 2
            for n in points.shape
        )
        return _set_apart(points, -(rows[:, None] + columns) / 2, ratio, generator, block, unit)

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
        bool (height, width), DC-centered.
    fraction
        Share of the acquired samples outside the low frequencies that is held out, each with the same probability.
    generator
        Source of randomness.
    center
        Share of each side around DC that is never held out.
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
    block = never_held_out(shape_of(acquired), center, least)
    return split_uniform(acquired, fraction, generator, block=block, unit=unit)


def never_held_out(shape: Shape, center: float = SPARED, least: int = 0) -> Shape:
    """Sides of the block around DC of which :func:`hold_out` takes nothing; it has a sample at least."""
    rows, columns = (min(n, max(side, least, 1)) for n, side in zip(shape, fraction_sides(shape, center), strict=True))
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
    :func:`sansref.kspace.masks.mask.variable_density_profile` with a full center.

    Parameters
    ----------
    acquired
        bool (height, width), DC-centered. Omega.
    generator
        Source of randomness.
    fraction
        Share of the acquired samples that is selected, exact up to rounding.
    center
        Share of each side around DC whose acquired samples are always selected.
    unit
        Select points or whole columns.

    Returns
    -------
    Partition
        ``input`` is the intersection of Lambda and Omega, ``target`` is Omega; see :meth:`Partition.disjoint`.

    Raises
    ------
    SettingError
        If the center holds more than ``fraction`` of the samples, or there are too few to select from.
    """
    check_fraction(fraction)

    def select(points: Tensor) -> Partition:
        shape = shape_of(points)
        full = dense_region(shape, fraction_sides(shape, center), points.device)
        total, kept = int(points.sum()), int((points & full).sum())
        count = round(fraction * total)
        if not max(kept, 1) <= count < total:
            raise SettingError(
                f"cannot select {count} of {total} acquired samples when the kept center already holds {kept}: "
                f"use a smaller center, another fraction than {fraction:g} or a lower acceleration"
            )
        probability = variable_density_profile(full, points, count / total)
        chosen = order_sample(torch.where(points, probability, 0.0), count, generator)
        return Partition(chosen, points.clone(), probability.float())

    return in_units(acquired, unit, select)


def _set_apart(
    acquired: Tensor, log_weight: Tensor, ratio: float, generator: Generator, block: Shape, unit: Unit
) -> Partition:
    """Draw the target outside the block in proportion to ``exp(log_weight)``."""
    check_fraction(ratio)
    kept = central_mask(shape_of(acquired), block, acquired.device)
    available = acquired & ~kept
    outside, total = int(available.sum()), int(acquired.sum())
    count = round(ratio * outside)
    if not 0 < count < total:
        what, place = ("columns", f"{block[1]}") if unit == "column" else ("samples", f"{block[0]} x {block[1]}")
        found = f"{total} {what} were acquired, {outside} of them outside the central {place}"
        if count:
            raise SettingError(f"{found}: a share of {ratio:g} would leave none of them to learn from; choose less")
        raise SettingError(
            f"{found}: a share of {ratio:g} can be set apart only from {math.floor(0.5 / ratio) + 1} or more; "
            "acquire more, or set a larger share apart"
        )
    target = successive_sample(log_weight, available, count, generator)
    taken = successive_probability(log_weight, available, count)
    return Partition(acquired & ~target, target, torch.where(kept, 1.0, 1 - taken).float())


def k_weights(density: Tensor, selected: Tensor) -> Tensor:
    """Weights (1 - K)^(-1/2) of the residual on the disjoint target, after Millard & Chiew.

    With p the probability that a location is acquired and q that it is selected for the input if acquired,
    ``K = (1 - p) / (1 - p q)``, and ``1 - K = p (1 - q) / (1 - p q)`` is the probability that a location which
    is not in the input is in the disjoint target. Multiplying the residual (target minus output, in k-space) by
    this weight before a squared norm makes every location that the network does not see count alike in expectation.

    Parameters
    ----------
    density
        p, real (height, width), of the sampling law.
    selected
        q, of the same shape, of the partition.

    Returns
    -------
    Tensor
        Of the same shape and the dtype of ``density``, finite and at least 1. Locations that can never be in
        the disjoint target (p = 0 or q = 1) get 1.

    References
    ----------
    Millard and Chiew, IEEE Trans. Comput. Imaging 2023.
    """
    p, q = density.double(), selected.double()
    in_target = p * (1 - q)
    possible = in_target > 0
    weight = torch.sqrt((1 - p * q) / torch.where(possible, in_target, 1.0))
    return torch.where(possible, weight, 1.0).to(density.dtype)
