"""Sampling densities: the variable-density profile, the density that a mask seems to have, and unequal draws."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sansref.kspace.grid import UNITS, Shape, central_mask, distance, full_center

PLATEAU = 8.0
"""Radius around DC, in samples of a 256 grid, where the profile is 1."""
DECAY = 17.0
"""Length over which the profile falls by 1/e, in samples of a 256 grid."""


def dense_region(shape: Shape, sides: Shape, device: torch.device | None = None) -> Tensor:
    """Where a variable-density law samples everything: the central box and the plateau, bool (height, width)."""
    return central_mask(shape, sides, device) | (distance(shape, device) <= PLATEAU)


def variable_density_profile(full: Tensor, over: Tensor, mean: float) -> Tensor:
    """Probability ``f + (1 - f) exp(-max(r - 8, 0) / 17)``, 1 where ``full``, with a given mean.

    The profile fits the radial density of the 2-D masks of Hu et al. (MICCAI 2021); r is in samples of a
    256 grid. The floor f is set so that the mean over ``over`` is ``mean``; where even f = 0 is too dense,
    f stays 0 and the decay length shrinks instead.

    Parameters
    ----------
    full
        bool (height, width) containing :func:`dense_region`.
    over
        bool (height, width), the locations over which the mean is taken.
    mean
        At least the part of ``over`` that is ``full``, at most 1.

    Returns
    -------
    Tensor
        float64 (height, width), also outside ``over``.
    """
    reach = (distance((full.shape[0], full.shape[1]), full.device) - PLATEAU).clamp(min=0)
    rest = over & ~full
    if not rest.any():
        return torch.ones_like(reach)
    mean_of_rest = (mean * int(over.sum()) - int((over & full).sum())) / int(rest.sum())
    profile = torch.exp(-reach / DECAY)
    average = float(profile[rest].mean())
    if average <= mean_of_rest:
        floor = (mean_of_rest - average) / (1 - average)
        profile = floor + (1 - floor) * profile
    else:
        profile = torch.exp(-reach / _decay_length(reach[rest], mean_of_rest))
    return torch.where(full, 1.0, profile)


def _decay_length(reach: Tensor, mean: float) -> float:
    shorter, longer = 0.0, DECAY
    for _ in range(50):
        middle = (shorter + longer) / 2
        if float(torch.exp(-reach / middle).mean()) > mean:
            longer = middle
        else:
            shorter = middle
    return longer


def estimated_density(array: Tensor, columns: bool, least: float = 0.0) -> Tensor:
    """Density of the law behind a mask, estimated from the mask alone.

    The sampled fraction of rings around DC, two samples thick; of a column mask, of bands of columns at like
    distance on both sides of DC, 1/32 of the width each. The fully sampled center is left out of the rings
    and has density 1. One mask says little about its law: use a law's own density where it is known.

    Parameters
    ----------
    array
        bool (height, width), DC-centered.
    columns
        Whether the mask is 1-D along the last axis.
    least
        Samples that a ring without any counts as, where the law may sample everywhere; 0 where nothing is known of
        places without samples, such as padding.

    Returns
    -------
    Tensor
        float32 (height, width) in [0, 1], above 0 wherever ``array`` is True.
    """
    height, width = array.shape
    center = central_mask((height, width), full_center(array), array.device)
    if columns:
        away, thickness = distance((1, width), array.device).expand(height, width), UNITS / 32
    else:
        away, thickness = distance((height, width), array.device), 2 * UNITS / min(height, width)
    ring = (away / thickness).long()
    rings = int(ring.max()) + 1
    members = torch.bincount(ring[~center], minlength=rings)
    hits = torch.bincount(ring[~center], weights=array[~center].double(), minlength=rings)
    density = (hits.clamp(min=least) / members.clamp(min=1))[ring]
    return torch.where(center, 1.0, density).float()


def order_sample(probability: Tensor, count: int, generator: Generator) -> Tensor:
    """Draw exactly ``count`` locations, each with (very nearly) its own probability.

    Pareto order sampling (Rosén, J. Stat. Plan. Inference 1997): the locations with the smallest ratio of the
    odds of a uniform number to the odds of the probability. Where the probability is 1 the location is always
    drawn, where it is 0 never. Probabilities are float64 of any shape, with a sum of about ``count``, on the device of
    the generator; the result is bool of the same shape.
    """
    uniform = torch.rand(probability.shape, dtype=probability.dtype, device=probability.device, generator=generator)
    keys = uniform * (1 - probability) / (probability * (1 - uniform))
    return _smallest(torch.where(probability > 0, keys, torch.inf), count)


def successive_sample(log_weight: Tensor, available: Tensor, count: int, generator: Generator) -> Tensor:
    """Draw ``count`` locations one after the other, each in proportion to its weight among those left.

    Drawn at once, as the first to arrive of independent exponential times whose rates are the weights.

    Parameters
    ----------
    log_weight
        Logarithm of the weights, float64 (...).
    available
        bool (...), what can be drawn: at least ``count`` locations.
    generator
        Source of the times, on the device of ``available``.
    """
    times = torch.empty(available.shape, dtype=torch.float64, device=available.device)
    arrival = torch.where(available, times.exponential_(generator=generator).log() - log_weight, torch.inf)
    return _smallest(arrival, count)


def successive_probability(log_weight: Tensor, available: Tensor, count: int) -> Tensor:
    """Probability of each location to be among the ``count`` that :func:`successive_sample` draws.

    The asymptotic ``1 - exp(-weight * t)`` (Rosén, Ann. Math. Stat. 1972), with the time t at which ``count``
    have arrived in expectation; off by about one over the number available. It is float64 (...), also where not
    available: the probability that a location there would have.
    """
    rates = log_weight[available]
    early, late = -float(rates.max()) - 40, -float(rates.min()) + 40  # logarithm of the time: nothing, everything
    for _ in range(40):
        middle = (early + late) / 2
        if float(-torch.expm1(-torch.exp(rates + middle)).sum()) < count:
            early = middle
        else:
            late = middle
    return -torch.expm1(-torch.exp(log_weight + late))


def _smallest(keys: Tensor, count: int) -> Tensor:
    drawn = torch.zeros_like(keys, dtype=torch.bool).flatten()
    drawn[keys.flatten().topk(count, largest=False).indices] = True
    return drawn.view(keys.shape)
