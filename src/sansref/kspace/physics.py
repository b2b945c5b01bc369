"""What every acquisition is to a network: three linear operators, and conjugate gradients to invert them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sansref.kspace.fourier import PLANE


class Physics(Protocol):
    """A linear acquisition y = E x, batched.

    Samples have the shape (batch, coils, *samples), where ``samples`` is the shape of a mask: (height, width) on a
    Cartesian grid, (spokes, readout) along radial lines. Where ``mask`` is False nothing was acquired: :meth:`forward`
    gives zero there, and :meth:`adjoint` reads nothing.
    """

    def forward(self, image: Tensor) -> Tensor:
        """E x: complex image (batch, height, width) to the acquired samples (batch, coils, *samples)."""
        ...

    def transform(self, image: Tensor) -> Tensor:
        """The same without the mask: what would have been measured at every sample, acquired or not."""
        ...

    def adjoint(self, kspace: Tensor) -> Tensor:
        """E^H y: samples to the zero-filled image (batch, height, width)."""
        ...

    def normal(self, image: Tensor) -> Tensor:
        """E^H E x."""
        ...


def conjugate_gradients(
    system: Callable[[Tensor], Tensor],
    image: Tensor,
    residual: Tensor,
    steps: int,
    precondition: Callable[[Tensor], Tensor] = lambda residual: residual,
) -> tuple[Tensor, Tensor]:
    """Improve a solution of A x = b, slice by slice (Hestenes and Stiefel, J. Res. NBS 49:409, 1952).

    Parameters
    ----------
    system
        A, Hermitian and positive, on complex images (batch, height, width).
    image
        Where to begin, complex (batch, height, width).
    residual
        b - A x there.
    steps
        Number of steps.
    precondition
        Approximate inverse of A, Hermitian and positive.

    Returns
    -------
    tuple
        The better image and its residual.
    """
    tiny = torch.finfo(residual.real.dtype).tiny
    direction, before = torch.zeros_like(residual), None
    for _ in range(steps):
        steepest = precondition(residual)
        now = _product(residual, steepest)
        direction = steepest if before is None else steepest + now / before.clamp(min=tiny) * direction
        applied = system(direction)
        length = now / _product(direction, applied).clamp(min=tiny)
        image, residual, before = image + length * direction, residual - length * applied, now
    return image, residual


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Real inner products of images, one a slice, (batch, 1, 1)."""
    return (first.conj() * second).real.sum(PLANE, keepdim=True)
