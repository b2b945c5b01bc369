r"""Learning to reconstruct and to denoise at once from noisy, undersampled scans alone (Recorrupted-to-Recorrupted).

Acquired are y = y_0 + n on the samples Omega, with normal noise n of variance sigma^2 in each part; sigma may differ
from sample to sample. The network is given a part I of Omega with more noise n' of the same law,

.. math:: \tilde y = y + \alpha n', \qquad \hat y = y - n' / \alpha \quad \text{on } I,

and compared with :math:`\hat y` there. Both contain n, and yet are independent given y_0 (Pang et al., CVPR 2021): they
are jointly normal, with the covariance :math:`\sigma^2 - \alpha \sigma^2 / \alpha = 0`. Hence

.. math:: E |f(\tilde y) - \hat y|^2 = E |f(\tilde y) - y_0|^2 + 2 \sigma^2 (1 + 1 / \alpha^2),

so that the network that is best for the noisy target is best for the clean one. On the acquired samples outside I the
target is y itself, whose noise the network was not shown, and the K-weights make these samples stand for all that the
network does not see (Millard and Chiew, IEEE TCI 2023). At 1x, I is everything and learning is pure denoising.

It is the loss of Robust SSDU (Millard and Chiew, arXiv 2210.01696) in another parametrisation. There a network g learns
y itself from :math:`\tilde y`, and :math:`f = ((1 + \alpha^2) g - \tilde y) / \alpha^2` is used. Since
:math:`\hat y = ((1 + \alpha^2) y - \tilde y) / \alpha^2` too, :math:`f - \hat y = (1 + \alpha^2) / \alpha^2 (g - y)` on
I: the factor is the weight that its authors give. Here f itself is the network, and its target is the noisier one.

Soft data consistency mixes what was learned with what was measured, where either may be better. Over a ring of k-space,
of y and f(y) alone, the error of :math:`w f + (1 - w) y` is

.. math:: E |n + w (f - y)|^2 = N + 2 w (D - 1) N + w^2 R N, \qquad D N = E \, \mathrm{Re} \, n^* f, \quad
          R N = E |f - y|^2,

with N the energy of the noise in the ring. It is least for w = (1 - D) / R; D, the share of the noise that f passes on,
is told by a probe (:mod:`sansref.metrics.sure`). w = 0 imposes the samples and w = 1 leaves f as it is, so that in
expectation the mixture is no worse than either.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import distance, is_full
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import noise_of, white_noise
from sansref.metrics.sure import response
from sansref.randomness import seeded

RING = 8.0
"""Width of a ring, in samples of a grid of 256."""


def recorrupted(kspace: Tensor, sigma: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two versions of noisy samples whose noise is independent: what a network is given, and its target.

    Parameters
    ----------
    kspace
        Samples, complex (..., coils, height, width), on the CPU.
    sigma
        Standard deviation of each part of each sample's noise, of the same shape.
    alpha
        How much noise is added, over that of the samples; the target has 1 / alpha more.
    generator
        Source of the noise.
    """
    noise = white_noise(kspace, sigma, generator)
    return kspace + alpha * noise, kspace - noise / alpha


def within_reach(image: Tensor, given: Measurement) -> Tensor:
    """Images of full scans without what lies where their scanner never went, such as zero-padded columns.

    Nothing was learned there, and no sample tells whether it is right: what a network fills in are stripes.

    Parameters
    ----------
    image
        Complex (batch, height, width), or the components of several sets of coil maps below one another.
    given
        What they were made of; images of scans with gaps stay as they are.
    """
    full = torch.tensor([is_full(mask) for mask in given.mask.cpu()], device=image.device)
    if not bool(full.any()) or bool(given.mask.all()):
        return image
    components = image.reshape(len(image), -1, *given.mask.shape[-2:])
    reached = ifft2c(fft2c(components) * given.mask[:, None])
    return torch.where(full[:, None, None, None], reached, components).flatten(-3, -2)


def softly_consistent(reconstruct: Callable[[Measurement], Tensor], given: Measurement) -> Tensor:
    """Reconstruct complex images (batch, height, width) whose samples are mixed with the measured ones, ring by ring.

    The probe is the same for the same shape, so that the same scan gives the same image.
    """
    sigma = noise_of(given)
    found = response(reconstruct, given, sigma, seeded("probe", 1, *given.kspace.shape[1:]))
    predicted = given.grid.transform(found.image)
    weight = soft_weights(predicted, given, sigma, found.probe, found.passed)
    return given.grid.data_consistent(found.image, given.kspace + weight * (predicted - given.kspace))


def soft_weights(predicted: Tensor, given: Measurement, sigma: Tensor, probe: Tensor, passed: Tensor) -> Tensor:
    """Weight of the predicted samples against the measured ones, real (batch, 1, height, width).

    Parameters
    ----------
    predicted
        Samples of the image, complex (batch, coils, height, width).
    given
        What was measured.
    sigma
        Standard deviation of each part of each sample's noise, real (batch, coils, height, width).
    probe, passed
        Noise, and what comes of it, see :func:`~sansref.metrics.sure.response`.
    """
    shape = given.mask.shape[-2], given.mask.shape[-1]
    rings = (distance(shape, given.mask.device) / RING).long().flatten()
    mask = given.mask.unsqueeze(-3)

    def energy(values: Tensor) -> Tensor:
        summed = (values * mask).sum(-3).flatten(-2)
        return summed.new_zeros(len(summed), int(rings.max()) + 1).index_add(1, rings, summed)

    noise = energy(2 * sigma.square())
    residual = energy((predicted - given.kspace).abs().square())
    share = energy((probe.conj() * passed).real) / energy(probe.abs().square()).clamp(min=torch.finfo(noise.dtype).tiny)
    # Where nothing is known of the noise the samples stay.
    weight = ((1 - share) * noise / residual.clamp(min=torch.finfo(noise.dtype).tiny)).clamp(0, 1)
    return weight[:, rings].reshape(len(weight), 1, *shape)
