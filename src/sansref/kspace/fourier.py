"""Centered orthonormal Fourier transforms.

The convention of fastMRI, sigpy and BART: DC sits at index ``n // 2`` of each axis, for even and odd
sizes, in k-space and in image space, and the transform is unitary.
"""

from __future__ import annotations

import torch
from torch import Tensor

PLANE = (-2, -1)


def fft2c(image: Tensor) -> Tensor:
    """Image to k-space.

    Parameters
    ----------
    image
        Complex or real, (..., height, width).

    Returns
    -------
    Tensor
        Complex k-space of the same shape, DC in the center, same l2 norm.
    """
    return _forward(image, PLANE)


def ifft2c(kspace: Tensor) -> Tensor:
    """K-space to image: the inverse and the adjoint of :func:`fft2c`."""
    return _inverse(kspace, PLANE)


def fft1c(image: Tensor, dim: int) -> Tensor:
    """Centered orthonormal transform along the axis ``dim`` alone."""
    return _forward(image, (dim,))


def ifft1c(kspace: Tensor, dim: int) -> Tensor:
    """Inverse and adjoint of :func:`fft1c`."""
    return _inverse(kspace, (dim,))


def _forward(image: Tensor, dims: tuple[int, ...]) -> Tensor:
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(image, dims), dim=dims, norm="ortho"), dims)


def _inverse(kspace: Tensor, dims: tuple[int, ...]) -> Tensor:
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(kspace, dims), dim=dims, norm="ortho"), dims)
