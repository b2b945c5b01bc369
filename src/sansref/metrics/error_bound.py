r"""A bound of the error of an image without any reference: its shape by the bootstrap, its size by held-out samples.

**Energy.** Let x be the reconstruction of all acquired samples y = E x* + n, with noise of variance 2 sigma^2 a sample,
and e = x - x*. The coil maps S are normalised, so that by Parseval's theorem the energy of e is that of its samples,

.. math:: |e|^2 = \sum_k \sum_c |(F S_c e)_k|^2 ,

over all locations k and coils c. It has two parts.

*Locations that were not acquired.* Acquired samples are held out in folds, and x_{-j} is reconstructed without those of
fold j. The noise of a held-out sample is not in x_{-j}, so that

.. math:: E |(F S x_{-j})_k - y_k|^2 - 2 \sigma^2 = E |(F S e_{-j})_k|^2 ,

the error where the reconstruction was given nothing. With p_k the probability of the sampling law, a sample stands for
(1 - p_k) / p_k locations that were not acquired (Horvitz and Thompson, J. Am. Stat. Assoc. 47:663, 1952). How many of
them there are is known, and the weights are scaled to sum up to it (Hajek's ratio estimator; Sarndal, Swensson and
Wretman, Model Assisted Survey Sampling, 1992, section 5.7).

x_{-j} has a few samples less than x, so that its error is larger than that of x, by some per cent with ten folds. The
noise that is seen in a scan without air is a little too high, and takes about as much off.

*Acquired locations.* An image may be smoother than the samples, or hold them as they are. Stein's unbiased estimate of
the risk (Ann. Stat. 9:1135, 1981) knows both: with d = E x - y and N samples of all coils,

.. math:: E |E e|^2 = |d|^2 - 2 \sigma^2 N + 2 \sigma^2 div ,

the divergence of the prediction E x(y) by one finite difference along noise (Ramani, Blu and Unser, IEEE TIP 17:1540,
2008). Where an image of one coil holds its samples as they are this is their noise, 2 sigma^2 N.

**Shape.** The equivariant bootstrap (Tachella and Pereyra, arXiv 2310.11838): the image takes the place of the truth. A
view T x of it, mirrored or conjugate, is acquired by another mask of the scan's kind, with noise, and reconstructed.
The squared difference from T x, of which for magnitudes only a part counts, shows where the method errs.
Yet this image is smoother than the truth, and has less of it to lose, above all beside edges: half of the energy is
spread evenly over the body.

**Bound.** In a normal distribution of the energy and the shape so found, the quantile at each pixel.

**Peak.** PSNR is relative to the largest magnitude of x*. That of x is smaller, where a network dims the brightest
spot; what the held-out samples want more there (:func:`sansref.metrics.contradiction.missing_signal`) is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, log, log10, sqrt
from statistics import NormalDist, fmean

import torch
from torch import Tensor

from sansref.kspace.noise import Noise

SMOOTHING = 1.0
"""Standard deviation in pixels of the Gaussian on the squares of the bootstrap: few replicates leave them rough."""

EVEN = 0.5
"""Part of the energy that is spread evenly over the body."""

NUDGE = 0.1
"""Of the noise: the finite difference along which the divergence is taken."""

NOISE_DOUBT = (0.1, 0.5)
"""How far the estimated variance of the noise may be off, as a part of it, at least and at most."""

MAPS_DOUBT = 0.2
"""Part of the energy that errors of the coil maps may add, which no held-out sample tells: predictions share them."""

SYSTEMATIC = 0.2
"""Standard deviation of the natural logarithm of the estimated energy over the true one, from person to person and
method to method, which the scatter of the folds does not know; as found on subjects that no result is reported on."""


@dataclass(frozen=True)
class Estimated:
    """A number with its interval of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """In decibels."""
        return f"{self.value:.1f} dB [{self.low:.1f}, {self.high:.1f}]"


def mean_of(estimates: Sequence[Estimated]) -> Estimated:
    """The mean of estimates and of the ends of their intervals, whose errors may be of one sign."""
    value, low, high = (fmean(getattr(one, name) for one in estimates) for name in ("value", "low", "high"))
    return Estimated(value, low, high)


@dataclass(frozen=True)
class Energy:
    """Squared error of an image over its whole plane, complex, without a reference.

    Attributes
    ----------
    safe
        Where noise may be weaker than it seems, and more is unseen.
    value
        As estimated.
    spread
        Standard deviation of the natural logarithm of ``value``.
    """

    safe: float
    value: float
    spread: float


def error_energy(
    acquired: float,
    held_out: Sequence[Tensor],
    weights: Sequence[Tensor],
    missing: float,
    noise: float = 0.0,
    doubt: float = NOISE_DOUBT[1],
    unseen: float = 0.0,
) -> Energy:
    """Put the energy of the error together, see the top of this file.

    Parameters
    ----------
    acquired
        Of the acquired locations.
    held_out
        Squared residuals of all coils less their noise, at the samples of each fold.
    weights
        (1 - p) / p of the samples of each fold.
    missing
        Number of locations that were not acquired and may have been.
    noise
        What was taken off for the noise in all, in proportion to its variance; may be negative.
    doubt
        Of the noise, see :func:`noise_doubt`.
    unseen
        Part of the energy that may come on top of it: :data:`MAPS_DOUBT` where there are coil maps.
    """

    def whole(left_out: int | None = None) -> float:
        kept = [fold for fold in range(len(held_out)) if fold != left_out]
        outside = sum(float((weights[fold] * held_out[fold]).sum()) for fold in kept)
        # Noise alone can make them negative.
        return max(acquired, 0.0) + missing * max(outside, 0.0) / sum(float(weights[fold].sum()) for fold in kept)

    safe = value = whole()
    # The jackknife over folds (Efron and Stein, Ann. Stat. 9:586, 1981).
    folds = len(held_out)
    without = [log(max(whole(fold), TINY)) for fold in range(folds)]
    mean = sum(without) / folds
    variance = (folds - 1) / folds * sum((one - mean) ** 2 for one in without)
    unsure = doubt * noise
    # Where noise hides all of the error, it is not 0 but unknown.
    value = max(value, 0.1 * unsure)
    spread = sqrt(variance + SYSTEMATIC**2 + unseen**2 + (unsure / max(value, TINY)) ** 2)
    return Energy((1 + unseen) * safe + max(unsure, 0.0), value, spread)


def noise_doubt(noise: Noise) -> float:
    """How far the variance of the noise of all coils together may be off, as a part of it.

    One slice of one coil tells little about its noise where it shows no air. With many coils, what it is too high in
    one and too low in another cancels out, as in the sum that is taken off the residuals.
    """
    low, level, high = (float(one.double().square().sum()) for one in (noise.low, noise.level, noise.high))
    least, most = NOISE_DOUBT
    return min(max((high - low) / (2 * level), least), most) if level > 0 else most


TINY = 1e-30


def error_shape(image: Tensor, replicates: Tensor, body: Tensor) -> Tensor:
    """How an error of energy 1 spreads over the magnitudes of the pixels.

    In air the truth may be zero, where a magnitude takes all of a complex error: there complex differences count, in
    the body those of magnitudes.

    Parameters
    ----------
    image
        The reconstruction that takes the place of the truth, complex (height, width).
    replicates
        Reconstructions from it, their view undone, complex (replicates, height, width).
    body
        bool (height, width), not empty, False in air.

    Returns
    -------
    Tensor
        Variance of each pixel, float64 (height, width), smoothed; its sum is at most 1.
    """
    from scipy import ndimage

    whole = (replicates - image).abs().double().square().mean(0)
    if not whole.sum() > 0:
        return torch.full_like(whole, 1 / whole.numel())
    squares = torch.where(body, (replicates.abs() - image.abs()).double().square().mean(0), whole)
    smooth = torch.from_numpy(ndimage.gaussian_filter(squares.numpy(), SMOOTHING, mode="wrap")).clamp(min=0)
    even = body * (squares[body].sum() / whole[body].sum().clamp(min=TINY) / body.sum())
    return (1 - EVEN) * smooth / whole.sum() + EVEN * even


def two_sided_quantile(level: float) -> float:
    """What a standard normal number stays below, in magnitude, with probability ``level``: 1.645 for 0.9."""
    return NormalDist().inv_cdf((1 + level) / 2)


def estimated_psnr(peak: float, of_peak: float, error: Tensor, spread: float) -> Estimated:
    """PSNR in dB, as :func:`sansref.metrics.quality.psnr` would give it with a reference.

    Parameters
    ----------
    peak
        The largest magnitude of the reference, as estimated.
    of_peak
        Standard deviation of that estimate, as a part of it.
    error
        Standard deviation of the error of each magnitude, real (height, width), in the units of ``peak``.
    spread
        Standard deviation of the natural logarithm of the energy of the error.
    """
    mean = max(float(error.double().square().mean()), TINY)
    reach = two_sided_quantile(0.95) * hypot(spread, 2 * of_peak)
    value, aside = 10 * log10(max(peak, sqrt(TINY)) ** 2 / mean), 10 * reach / log(10)
    return Estimated(value, value - aside, value + aside)
