"""Noise pre-whitening: coils whose noise is of one strength and uncorrelated.

Pruessmann et al., Magn Reson Med 46(4), 2001, section on sample decorrelation; Kellman & McVeigh, Magn Reson Med
54(6), 2005, for the scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

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
    covariance = torch.cov(noise)  # takes out the mean: an offset of the receiver is no noise
    covariance = covariance.reshape(coils, coils)
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
    """Mix coils by a whitening matrix.

    Parameters
    ----------
    data
        Complex (coils, ...).
    matrix
        Complex (coils, coils), from :func:`whitening_matrix`.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``data``.

    Raises
    ------
    ValueError
        If the numbers of coils differ.
    """
    if matrix.shape != (data.shape[0], data.shape[0]):
        raise ValueError(f"a matrix of {tuple(matrix.shape)} does not fit {data.shape[0]} coils")
    return (matrix.to(data.dtype) @ data.flatten(1)).reshape(data.shape)
