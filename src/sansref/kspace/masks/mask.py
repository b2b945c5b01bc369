"""Sampling masks: their record, densities, and draws of locations of unequal probability."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sansref.errors import SettingError
from sansref.kspace.grid import UNITS, Shape, central_mask, distance, full_center

_TELLING = 5  # samples elsewhere from which on an empty border is none of chance


class SamplingMask(NamedTuple):
    """Which k-space locations are acquired, and how likely each of them was.

    Attributes
    ----------
    array
        bool (height, width), DC at ``n // 2``, True where acquired. Omega in the papers.
    density
        float32 (height, width), the probability with which the law behind the mask acquires each location, 1 in the
        full center.
    """

    array: Tensor
    density: Tensor


def check_request(shape: Shape, acceleration: float) -> None:
    """Refuse, with a SettingError, an acceleration that is not a finite number of at least 1."""
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be two positive integers (height, width), got {shape}")
    if not 1 <= acceleration < math.inf:
        raise SettingError(f"an acceleration of {acceleration:g} is impossible: give a number of at least 1, such as 4")


def sample_budget(total: int, full: int, acceleration: float, what: str = "samples") -> int:
    """Number of samples, or of ``what`` else is counted, that the acceleration allows of ``total``.

    Raises ``SettingError`` if the ``full`` ones of the center, or a single sample, are more than that.
    """
    wanted = round(total / acceleration)
    if wanted < max(full, 1):
        need = f"the {full} of the full center" if full else "one"
        largest = math.floor(100 * total / max(full, 1)) / 100
        raise SettingError(
            f"an acceleration of {acceleration:g} leaves {wanted} of {total} {what}, fewer than {need}: "
            f"use an acceleration of at most {largest:g}{' or a smaller center' if full else ''}"
        )
    return wanted


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


def estimated_density(array: Tensor, columns: bool, least: float = 0.0, within: Tensor | None = None) -> Tensor:
    """Density of the law behind a mask, estimated from the mask alone.

    The sampled fraction of rings around DC, two samples thick; of a column mask, of bands of columns at like
    distance on both sides of DC, 1/32 of the width each. One without samples, as chance or a lattice leaves them, is
    taken together with the next outer one that has some. The fully sampled center is left out of the rings
    and has density 1; where the scan was zero-padded, it is 0. One mask says little about its law: use a law's own
    density where it is known.

    Parameters
    ----------
    array
        bool (height, width), DC-centered.
    columns
        Whether the mask is 1-D along the last axis, see :func:`sansref.kspace.grid.is_columns`.
    least
        Samples that a ring without any counts as, where the law may sample everywhere.
    within
        Where the law samples at all, bool (height, width), and outside of which the density is 0; None is everywhere
        but in zero padding.

    Returns
    -------
    Tensor
        float32 (height, width) in [0, 1], above 0 wherever ``array`` is True.
    """
    line = array.any(0, keepdim=True) if columns else array
    resolved = _within_padding(array.sum(1))[:, None] & _within_padding(line.sum(0))
    shape = line.shape[0], line.shape[1]
    center = central_mask(shape, full_center(line), line.device)
    ring = (distance(shape, line.device) / (UNITS / 32 if columns else 2 * UNITS / min(shape))).long()
    rings = int(ring.max()) + 1
    inside = resolved.any(0, keepdim=True) if columns else resolved
    inside = inside if within is None else inside & within
    outer = inside & ~center
    members = torch.bincount(ring[outer], minlength=rings)
    hits = torch.bincount(ring[outer], weights=line[outer].double(), minlength=rings)
    # Corners of a plane that is sampled in a disc are not reached; columns are, up to the border.
    density = _pooled(hits.clamp(min=least), members, whole=columns)[ring]
    density = torch.where(center, 1.0, torch.where(inside, density, 0.0)).float()
    return torch.where(resolved, density, 0.0).contiguous()


def _pooled(hits: Tensor, members: Tensor, whole: bool) -> Tensor:
    """Hits over members of each ring, together with the rings without hits that lie inside of it.

    Those beyond the last one with hits have density 0, or are taken together with it if they are part of the ``whole``.
    """
    density, begin = torch.zeros_like(hits), 0
    ends = [int(ring) + 1 for ring in hits.nonzero()]
    if ends and whole:
        ends[-1] = len(hits)
    for end in ends:
        density[begin:end] = hits[begin:end].sum() / members[begin:end].sum().clamp(min=1)
        begin = end
    return density


def _within_padding(samples: Tensor) -> Tensor:
    """The rows, or columns, that are no zero padding, bool, by the number of samples in each.

    Padding is empty on both sides of DC; what partial Fourier leaves out is not. It is told from what chance leaves
    empty by the samples in as wide a rim further inside, see :data:`_TELLING`.
    """
    dc = len(samples) // 2
    away = (torch.arange(len(samples), device=samples.device) - dc).abs()
    far = int(away[samples > 0].max()) if samples.any() else len(samples)
    width = len(samples) - 1 - dc - far  # behind DC; before it, there is one more where the number is even
    rim = (away <= far) & (away > far - width)
    if width <= 0 or samples[rim].sum() < _TELLING:
        return torch.ones_like(away, dtype=torch.bool)
    return away <= far


def reached(array: Tensor) -> Tensor:
    """Where the law behind a mask can sample, bool (height, width), as far as the mask alone tells.

    Everywhere, but beyond the outermost samples of a partial Fourier scan or an asymmetric echo. It is one where five
    samples or more lie opposite to an empty border, since a law that is even in k leaves a border empty that has n
    samples opposite with a probability of 2**-n.
    """
    rows, columns = (_span(array.sum(axis)) for axis in (1, 0))
    found = torch.zeros_like(array)
    found[rows, columns] = True
    return found


def _span(samples: Tensor) -> slice:
    """The rows, or columns, that can have been reached, by the number of samples in each."""
    dc, places = len(samples) // 2, samples.nonzero().flatten()
    if not len(places):
        return slice(0, len(samples))
    first, stop = int(places[0]), int(places[-1]) + 1
    before, behind = samples[2 * dc - first + 1 :].sum(), samples[: max(2 * dc - stop + 1, 0)].sum()
    return slice(first if before >= _TELLING else 0, stop if behind >= _TELLING else len(samples))


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
