"""Noise: its level from undersampled k-space, more of it, and coils made independent of each other.

Whitening: Pruessmann et al., Magn Reson Med 46(4), 2001, section on sample decorrelation; Kellman & McVeigh, Magn Reson
Med 54(6), 2005.
"""

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
    """Complex white noise of the shape (coils, height, width) and the dtype of ``kspace``.

    ``level`` is the standard deviation of the real, and of the imaginary, part, as :func:`noise_level` gives it.
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


#: A coil whose noise is weaker than this part of the strongest coil's is not connected.
DEAD = 1e-5
#: What must be left of a coil's noise, as a part of it, once the other coils' has been taken out.
INDEPENDENT = 1e-3


def whitening_matrix(noise: Tensor) -> Tensor:
    """The matrix that makes the noise of the coils uncorrelated, of unit strength.

    With Psi the covariance of the coils and L its Cholesky factor (Psi = L L'), this is sqrt(2) inv(L): the real
    and the imaginary part of whitened noise each have a standard deviation of 1.

    Parameters
    ----------
    noise
        Complex (coils, samples), acquired without signal.

    Returns
    -------
    Tensor
        complex64 (coils, coils), lower triangular.

    Raises
    ------
    ValueError
        If the samples are too few or not finite, a coil is dead, or coils are linearly dependent.
    """
    if noise.ndim != 2 or not noise.is_complex():
        raise ValueError(f"noise must be complex (coils, samples), got {noise.dtype} {tuple(noise.shape)}")
    coils, samples = noise.shape
    if samples <= 2 * coils:
        raise ValueError(f"{samples} noise samples are too few for {coils} coils: more than {2 * coils} are needed")
    noise = noise.to(torch.complex128)
    if not torch.isfinite(torch.view_as_real(noise)).all():
        raise ValueError("the noise samples are not all finite")
    covariance = torch.cov(noise).reshape(coils, coils)  # without the mean: an offset of the receiver is no noise
    strength = covariance.diagonal().real.clamp(min=0).sqrt()
    dead = (strength <= DEAD * strength.max()).nonzero().flatten().tolist()
    if dead:
        raise ValueError(f"coils without noise, counted from 0: {', '.join(map(str, dead))}")
    # Of the correlation, not of the covariance: gains of the coils may differ by orders of magnitude.
    correlation = covariance / (strength[:, None] * strength)
    factor, failed = torch.linalg.cholesky_ex(correlation)
    independent = factor.diagonal().real
    if int(failed) or float(independent.min()) < INDEPENDENT:
        coil = int(failed) - 1 if int(failed) else int(independent.argmin())
        raise ValueError(f"the noise of coil {coil}, counted from 0, is a combination of that of other coils")
    identity = torch.eye(coils, dtype=torch.complex128)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    return (math.sqrt(2) * inverse / strength).to(torch.complex64)


def whitened(data: Tensor, matrix: Tensor) -> Tensor:
    """Mix the coils of complex data (coils, ...) by a :func:`whitening_matrix` (coils, coils); the dtype stays.

    Raises ``ValueError`` if the numbers of coils differ.
    """
    if matrix.shape != (data.shape[0], data.shape[0]):
        raise ValueError(f"a matrix of {tuple(matrix.shape)} does not fit {data.shape[0]} coils")
    return (matrix.to(data.dtype) @ data.flatten(1)).reshape(data.shape)
