"""Draws of an exact number of locations without replacement, with unequal probabilities."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def order_sample(probability: Tensor, count: int, generator: Generator) -> Tensor:
    """Draw exactly ``count`` locations, each with (very nearly) its own probability.

    Pareto order sampling (Rosén, J. Stat. Plan. Inference 1997): the locations with the smallest ratio of the
    odds of a uniform number to the odds of the probability. Where the probability is 1 the location is always
    drawn, where it is 0 never.

    Parameters
    ----------
    probability
        float64, any shape, with a sum of about ``count``.
    count
        Locations to draw.
    generator
        Source of the uniform numbers, on the device of ``probability``.

    Returns
    -------
    Tensor
        bool of the same shape.
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
        bool (...), what can be drawn.
    count
        Locations to draw, at most those available.
    generator
        Source of the times, on the device of ``available``.

    Returns
    -------
    Tensor
        bool (...).
    """
    times = torch.empty(available.shape, dtype=torch.float64, device=available.device)
    arrival = torch.where(available, times.exponential_(generator=generator).log() - log_weight, torch.inf)
    return _smallest(arrival, count)


def successive_probability(log_weight: Tensor, available: Tensor, count: int) -> Tensor:
    """Probability of each location to be among the ``count`` that :func:`successive_sample` draws.

    The asymptotic ``1 - exp(-weight * t)`` (Rosén, Ann. Math. Stat. 1972), with the time t at which ``count``
    have arrived in expectation; off by about one over the number available.

    Returns
    -------
    Tensor
        float64 (...), also where not available: the probability that a location there would have.
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
