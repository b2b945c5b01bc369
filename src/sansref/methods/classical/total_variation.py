"""Compressed sensing with total variation: the image is made of few edges, after Block et al. (MRM 57:1086, 2007)."""

from __future__ import annotations

import torch
from torch import Tensor

from sansref.kspace.coils import unstacked
from sansref.kspace.fourier import PLANE
from sansref.kspace.measurement import Measurement
from sansref.kspace.physics import conjugate_gradients

EDGE = 0.03
"""How far an iteration shrinks differences of pixels, part of max |E^H y|: speed, not result, depends on it."""

SMALLEST = 1e-6
"""Where the regularisation is less, the penalty of ADMM is that of this regularisation; it must not be 0."""

INNER_STEPS = 2
"""Conjugate gradient steps an iteration, for several coils: with one, weak regularisation converges far slower."""


def total_variation(given: Measurement, regularisation: float, iterations: int = 100, edge: float = EDGE) -> Tensor:
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
    encoding = given.grid
    zero_filled = encoding.adjoint(given.kspace)
    gain = encoding.largest_gain
    rho = max(regularisation, SMALLEST) / edge * gain
    threshold = regularisation / rho * zero_filled.abs().amax(PLANE, keepdim=True)
    inverse = _inverse_diagonal(given, rho)
    several = encoding.sets > 1
    threshold = threshold.unsqueeze(-3) if several else threshold

    def apart(image: Tensor) -> Tensor:  # images of two sets of maps lie below one another, and have no common edge
        return unstacked(image, given.mask.shape[-2]) if several else image

    def together(parts: Tensor) -> Tensor:
        return parts.flatten(-3, -2) if several else parts

    def precondition(image: Tensor) -> Tensor:
        return together(torch.fft.ifft2(inverse * torch.fft.fft2(apart(image))))

    def system(image: Tensor) -> Tensor:
        return encoding.normal(image) + rho * together(differences_adjoint(differences(apart(image))))

    image = zero_filled / gain
    applied, split = system(image), differences(apart(image))
    dual = torch.zeros_like(split)
    for _ in range(iterations):
        wanted = zero_filled + rho * together(differences_adjoint(split - dual))
        if given.maps is None:
            image = precondition(wanted)
        else:
            image, residual = conjugate_gradients(system, image, wanted - applied, INNER_STEPS, precondition)
            applied = wanted - residual
        dual = dual + differences(apart(image))
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


def _inverse_diagonal(given: Measurement, rho: Tensor) -> Tensor:
    """The inverse of the diagonal of E^H E + rho D^H D in unshifted k-space, real (batch, [sets,] height, width).

    For one coil nothing is beside the diagonal. For several, this is the optimal circulant preconditioner (T. Chan,
    SIAM J. Sci. Stat. Comput. 9:766, 1988).
    """
    precision = given.kspace.real.dtype
    # Not 2 - 2 cos, which loses the digits of low frequencies.
    down, right = (
        (2 * torch.sin(torch.pi * torch.fft.fftfreq(side, dtype=precision, device=given.mask.device))).square()
        for side in given.mask.shape[-2:]
    )
    step = rho if given.grid.sets == 1 else rho.unsqueeze(-3)
    total = given.grid.data_diagonal.to(precision) + step * (down[:, None] + right)
    # Only DC of one coil can be 0, where it was not acquired.
    return torch.where(total > 0, 1 / total.clamp(min=torch.finfo(precision).tiny), 0)
