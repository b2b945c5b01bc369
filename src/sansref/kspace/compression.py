"""Coil compression: many receive channels to a few virtual ones that hold nearly all of the signal.

The virtual coils are the principal components of calibration samples (Buehrer et al., MRM 57:1131, 2007; Huang et al.,
MRI 26:133, 2008), by one matrix for the whole plane. Geometric compression (Zhang et al., MRM 69:571, 2013) has a
matrix for each place along a fully sampled readout, which not every scan has.
"""

from __future__ import annotations

import torch
from torch import Tensor


def compression_matrix(samples: Tensor, coils: int) -> Tensor:
    """The combinations of coils that hold most of the energy of calibration samples.

    Parameters
    ----------
    samples
        Complex (coils, ...), at least one of them not zero.
    coils
        Number of virtual coils, from 1 to the number of coils.

    Returns
    -------
    Tensor
        Complex (virtual coils, coils). The rows are orthonormal, so that noise which is white and of equal strength in
        all coils, as after pre-whitening, is so in the virtual ones too; they come in the order of falling energy.

    Raises
    ------
    ValueError
        If there is no such number of virtual coils.
    """
    if not 1 <= coils <= len(samples):
        raise ValueError(f"{len(samples)} coils cannot be compressed to {coils}")
    flat = samples.flatten(1)
    # Single precision would square the condition number of what may span many orders of magnitude.
    covariance = flat.to(torch.complex128) @ flat.to(torch.complex128).mH
    _, vectors = torch.linalg.eigh(covariance)
    principal = vectors.flip(-1)[:, :coils].mH
    return _with_real_largest(principal).to(samples.dtype)


def compressed(kspace: Tensor, matrix: Tensor) -> Tensor:
    """Virtual coils (virtual coils, ...) of k-space (coils, ...), where nothing acquired stays exactly zero."""
    return torch.tensordot(matrix, kspace, dims=1)


def _with_real_largest(rows: Tensor) -> Tensor:
    """Turn each row's largest entry to the positive real axis: eigenvectors have no phase of their own."""
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return rows * (largest.conj() / largest.abs())
