"""White noise: how strong it is, from undersampled k-space alone, and more of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sansref.kspace.grid import distance

FALL = 3.0
"""The power of an image's edges, averaged over all directions, falls with this power of the distance from DC."""

INNER = 0.4
"""Of the largest distance: nearer samples are those of shapes and contrasts rather than of edges and noise."""

RINGS = 12


def noise_level(kspace: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation of the noise in each coil.

    ``A r^-3 + 2 sigma^2`` is fitted to the power of the acquired outer samples, by least squares of the relative error
    with A and sigma^2 not negative. Power is taken in rings of equally many samples, as their median over ln 2: that of
    white complex noise is exponentially distributed, and a few strong samples do not count.

    Parameters
    ----------
    kspace
        Acquired samples, complex (coils, height, width).
    mask
        Where they were acquired, bool (height, width).

    Returns
    -------
    Tensor
        Of the real, and of the imaginary, part, real (coils, 1, 1), in the units of ``kspace``; 0 where the fit finds
        none, or without samples.
    """
    far = distance((mask.shape[0], mask.shape[1]), mask.device)[mask]
    outer = far > INNER * far.max() if len(far) else far > 0
    if int(outer.sum()) < RINGS:
        return kspace.real.new_zeros(kspace.shape[0], 1, 1)
    power = kspace[:, mask][:, outer].abs().square().double()
    rings = far[outer].argsort(stable=True).chunk(RINGS)
    falling = torch.stack([far[outer][ring].mean() for ring in rings]) ** -FALL
    measured = torch.stack([power[:, ring].median(dim=1).values for ring in rings], dim=1) / math.log(2)
    return (_floor(falling, measured) / 2).sqrt().to(kspace.real.dtype)[:, None, None]


def white_noise(kspace: Tensor, level: Tensor | float, generator: torch.Generator) -> Tensor:
    """Complex white noise in the shape of ``kspace``.

    Parameters
    ----------
    kspace
        Complex, (coils, height, width).
    level
        Standard deviation of the real, and of the imaginary, part, as :func:`noise_level` gives it.
    generator
        The only source of randomness.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``kspace``.
    """
    # A complex normal number of torch has variance 1/2 in each part.
    return math.sqrt(2) * level * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)


def _floor(falling: Tensor, measured: Tensor) -> Tensor:
    """The constant c of the fit of ``A * falling + c`` to ``measured`` (coils, rings), both not negative."""
    weight = 1 / measured.clamp(min=torch.finfo(measured.dtype).tiny ** 0.25)
    signal = falling * weight
    ss, sw, ww = (signal * signal).sum(1), (signal * weight).sum(1), (weight * weight).sum(1)
    s1, w1 = signal.sum(1), weight.sum(1)
    determinant = ss * ww - sw * sw
    amplitude, constant = (s1 * ww - w1 * sw) / determinant, (w1 * ss - s1 * sw) / determinant
    constant = torch.where(amplitude < 0, w1 / ww, constant.clamp(min=0))
    # A ring of zeros is one that was filtered away, or of an image without noise.
    return torch.where(measured.amin(1) > 0, constant, 0.0)
