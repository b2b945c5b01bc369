"""What every acquisition is to a network: linear operators, conjugate gradients to invert them, and their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sansref.kspace.fourier import PLANE


class Physics(Protocol):
    """A linear acquisition y = E x, batched.

    Samples have the shape ``(batch, coils, *samples)``, where ``samples`` is the shape of a mask: (height, width) on a
    Cartesian grid, (spokes, readout) along radial lines. Where ``mask`` is False nothing was acquired: :meth:`forward`
    gives zero there, and :meth:`adjoint` reads nothing.
    """

    def forward(self, image: Tensor) -> Tensor:
        """E x: complex image (batch, height, width) to the acquired samples ``(batch, coils, *samples)``."""
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


def regularised_inverse(
    normal: Callable[[Tensor], Tensor], image: Tensor, mu: Tensor, start: Tensor, steps: int
) -> Tensor:
    """Solve (E^H E + mu) x = image by conjugate gradients, with gradients of ``image`` and ``mu``.

    The gradient is that of the exact solution and costs a second solution (Aggarwal et al., IEEE TMI 38:394, 2019,
    section III-C): no step of the first one is kept for it, however many there were. Neither the operator nor ``start``
    gets a gradient.

    Parameters
    ----------
    normal
        E^H E, Hermitian, on images (batch, height, width).
    image
        Right-hand side, complex (batch, height, width), or real where the operator is.
    mu
        Positive scalar.
    start
        Where to begin, shaped like ``image``; the nearer to the solution, the fewer steps are needed.
    steps
        Number of steps.

    Returns
    -------
    Tensor
        The solution, shaped like ``image``.
    """
    solution: Tensor = _RegularisedInverse.apply(image, mu, start, normal, steps)  # type: ignore[no-untyped-call]
    return solution


class _RegularisedInverse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, mu: Tensor, start: Tensor, normal: Callable[[Tensor], Tensor], steps: int
    ) -> Tensor:
        def system(x: Tensor) -> Tensor:
            return normal(x) + mu * x

        solution, _ = conjugate_gradients(system, start, image - system(start), steps)
        ctx.system, ctx.steps = system, steps
        ctx.save_for_backward(solution, mu)
        return solution

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        solution, mu = ctx.saved_tensors
        # The inverse is Hermitian: its adjoint is the same system.
        passed, _ = conjugate_gradients(ctx.system, torch.zeros_like(gradient), gradient, ctx.steps)
        of_mu = -_product(passed, solution).sum().reshape(mu.shape) if ctx.needs_input_grad[1] else None
        return passed, of_mu, None, None, None


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Real inner products of images, one a slice, (batch, 1, 1)."""
    return (first.conj() * second).real.sum(PLANE, keepdim=True)
