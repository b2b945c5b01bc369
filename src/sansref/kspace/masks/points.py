"""2-D sampling laws with independent points: uniform and variable density.

Two phase-encoding axes, as in a 3-D scan seen along its readout. ``center`` is a fraction of each side.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from sansref.kspace.grid import Shape, central_mask, fraction_sides
from sansref.kspace.masks.density import dense_region, order_sample, variable_density_profile
from sansref.kspace.masks.mask import SamplingMask, check_request, sample_budget


def uniform_random(
    shape: Shape,
    acceleration: float,
    generator: Generator,
    *,
    center: float = 0.08,
    center_is: Literal["side", "area"] = "side",
    exact: bool = True,
) -> SamplingMask:
    """A full central box, and every other point with the same probability.

    Parameters
    ----------
    shape
        Height and width of the grid.
    acceleration
        At least 1; the central box counts.
    generator
        Source of randomness.
    center
        Size of the fully sampled box.
    center_is
        ``"side"``: the box takes ``center`` of each side; ``"area"``: of the area of the grid.
    exact
        Take exactly ``round(height * width / acceleration)`` points; False draws each point on its own.

    Raises
    ------
    SettingError
        If the request is impossible.
    """
    check_request(shape, acceleration)
    side = math.sqrt(center) if center_is == "area" and center > 0 else center
    full = central_mask(shape, fraction_sides(shape, side))
    wanted = sample_budget(full.numel(), int(full.sum()), acceleration)
    expected = wanted if exact else full.numel() / acceleration
    outer = max(int((~full).sum()), 1)
    probability = torch.where(full, 1.0, max(expected - int(full.sum()), 0.0) / outer).double()
    return _draw(probability, wanted if exact else None, generator, "uniform_random", acceleration)


def variable_density(
    shape: Shape, acceleration: float, generator: Generator, *, center: float = 24 / 256, exact: bool = True
) -> SamplingMask:
    """A full central box, and points whose density falls exponentially with the distance from DC.

    The density is that of :func:`sansref.kspace.masks.density.variable_density_profile`, fitted to the masks of
    Hu et al. (MICCAI 2021); within 8/256 of the side from DC everything is sampled, even with ``center=0``.

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
        Take exactly ``round(height * width / acceleration)`` points; False draws each point on its own.

    Raises
    ------
    SettingError
        If the request is impossible.
    """
    check_request(shape, acceleration)
    full = dense_region(shape, fraction_sides(shape, center))
    wanted = sample_budget(full.numel(), int(full.sum()), acceleration)
    mean = wanted / full.numel() if exact else max(1 / acceleration, int(full.sum()) / full.numel())
    probability = variable_density_profile(full, torch.ones_like(full), mean)
    return _draw(probability, wanted if exact else None, generator, "variable_density", acceleration)


def _draw(probability: Tensor, count: int | None, generator: Generator, law: str, acceleration: float) -> SamplingMask:
    if count is None:
        array = torch.rand(probability.shape, dtype=torch.float64, generator=generator) < probability
    else:
        array = order_sample(probability, count, generator)
    return SamplingMask(array, probability.float(), columns=False, law=law, asked=float(acceleration))
