"""Compressed sensing with total variation: the image is made of few edges, after Block et al. (MRM 57:1086, 2007)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sansref.kspace.encoding import EncodingOperator
from sansref.kspace.fourier import PLANE
from sansref.methods.batch import Measured
from sansref.methods.wavelet import largest_gain

EDGE = 0.03
"""How far an iteration shrinks differences of pixels, part of max |E^H y|: speed, not result, depends on it."""

SMALLEST = 1e-6
"""Where the regularisation is less, the penalty of ADMM is that of this regularisation; it must not be 0."""

INNER_STEPS = 2
"""Conjugate gradient steps an iteration, for several coils: with one, weak regularisation converges far slower."""


def total_variation(given: Measured, regularisation: float, iterations: int = 100, edge: float = EDGE) -> Tensor:
    r"""Minimise 1/2 |E x - y|^2 + lambda TV(x), isotropic and complex, by ADMM.

    .. math:: TV(x) = \sum_{ij} \sqrt{|x_{i+1,j} - x_{ij}|^2 + |x_{i,j+1} - x_{ij}|^2}

    with periodic borders, so that differences are a product in k-space. This is split Bregman (Goldstein and Osher,
    SIAM J. Imaging Sci. 2:323, 2009) with D x = z and penalty rho: for one coil the linear step is solved exactly by
    one Fourier transform and its inverse; for several, it is improved from the last image by conjugate gradients, which
    converges to the same image (Eckstein and Bertsekas, Math. Program. 55:293, 1992). DC of one coil stays 0
    where it was not acquired: nothing tells it.

    Parameters
    ----------
    given
        With a batch axis; k-space of several coils needs maps.
    regularisation
        lambda as a fraction of each slice's max |E^H y|, which makes it independent of the scanner's units.
    iterations
        Of ADMM.
    edge
        lambda / rho as a fraction of max |E^H y| over the largest gain of E^H E.

    Returns
    -------
    Tensor
        Complex (batch, height, width).

    Raises
    ------
    ValueError
        For several coils without maps.
    """
    encoding = EncodingOperator(given.mask, given.maps)
    zero_filled = encoding.adjoint(given.kspace)
    gain = largest_gain(given)
    rho = max(regularisation, SMALLEST) / edge * gain
    threshold = regularisation / rho * zero_filled.abs().amax(PLANE, keepdim=True)
    inverse = _inverse_diagonal(given, rho)

    def precondition(image: Tensor) -> Tensor:
        return torch.fft.ifft2(inverse * torch.fft.fft2(image))

    def system(image: Tensor) -> Tensor:
        return encoding.normal(image) + rho * differences_adjoint(differences(image))

    image = zero_filled / gain
    applied, split = system(image), differences(image)
    dual = torch.zeros_like(split)
    for _ in range(iterations):
        wanted = zero_filled + rho * differences_adjoint(split - dual)
        if given.maps is None:
            image = precondition(wanted)
        else:
            image, residual = _conjugate_gradients(system, precondition, image, wanted - applied)
            applied = wanted - residual
        dual = dual + differences(image)
        split = shrink(dual, threshold)
        dual = dual - split
    return image


def differences(image: Tensor) -> Tensor:
    """D x: each pixel's next one below, and to the right, minus itself, periodic; (..., h, w) to (2, ..., h, w)."""
    return torch.stack([image.roll(-1, -2) - image, image.roll(-1, -1) - image])


def differences_adjoint(steps: Tensor) -> Tensor:
    """D^H, (2, ..., h, w) to (..., h, w)."""
    down, right = steps
    return down.roll(1, -2) - down + right.roll(1, -1) - right


def shrink(steps: Tensor, threshold: Tensor) -> Tensor:
    """The proximal map of threshold TV as a function of D x: the length of both differences together falls."""
    length = torch.view_as_real(steps).square().sum((0, -1)).sqrt()
    return steps * ((length - threshold).clamp(min=0) / length.clamp(min=torch.finfo(length.dtype).tiny))


def _inverse_diagonal(given: Measured, rho: Tensor) -> Tensor:
    """The inverse of the diagonal of E^H E + rho D^H D in unshifted k-space, real (batch, height, width).

    For one coil nothing is beside the diagonal. For several, this is the optimal circulant preconditioner (T. Chan,
    SIAM J. Sci. Stat. Comput. 9:766, 1988).
    """
    precision = given.kspace.real.dtype
    # Not 2 - 2 cos, which loses the digits of low frequencies.
    down, right = (
        (2 * torch.sin(torch.pi * torch.fft.fftfreq(side, dtype=precision, device=given.mask.device))).square()
        for side in given.mask.shape[-2:]
    )
    total = data_diagonal(given) + rho * (down[:, None] + right)
    # Only DC of one coil can be 0, where it was not acquired.
    return torch.where(total > 0, 1 / total.clamp(min=torch.finfo(precision).tiny), 0)


def data_diagonal(given: Measured) -> Tensor:
    """The diagonal of E^H E in unshifted k-space: the mask, correlated with the power spectra of the maps."""
    mask = torch.fft.ifftshift(given.mask, dim=PLANE).to(given.kspace.real.dtype)
    if given.maps is None:
        return mask
    power = torch.fft.fft2(given.maps, norm="forward").abs().square().sum(-3)
    diagonal = torch.fft.ifft2(torch.fft.fft2(mask) * torch.fft.fft2(power).conj()).real
    # Far from all samples nothing is left but rounding, of either sign.
    return torch.maximum(diagonal, 1e-6 * largest_gain(given))


def _conjugate_gradients(
    system: Callable[[Tensor], Tensor], precondition: Callable[[Tensor], Tensor], image: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """Improve an image of the given residual by :data:`INNER_STEPS` steps; returns it and its residual."""
    tiny = torch.finfo(residual.real.dtype).tiny
    direction, before = torch.zeros_like(residual), None
    for _ in range(INNER_STEPS):
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
