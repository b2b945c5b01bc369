"""MoDL: a learned denoiser and the exact data term in turn, the denoiser the same in every iteration.

Aggarwal, Mani and Jacob, "MoDL: Model-Based Deep Learning Architecture for Inverse Problems", IEEE TMI 38:394, 2019;
trained on one scan alone by Yaman et al., "Zero-Shot Self-Supervised Learning for MRI Reconstruction", ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from sansref.kspace.physics import regularised_inverse
from sansref.networks.convolution import conv3x3
from sansref.networks.istanet import to_channels, to_complex

LOG_MU = -3.0
"""Logarithm of mu before training: little beside the largest eigenvalue of E^H E, which is 1."""


class Denoiser(nn.Module):
    """A residual network of 3 x 3 convolutions: what it is given, and a learned correction."""

    def __init__(self, layers: int, channels: int, in_channels: int, bias: bool) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * (layers - 1), in_channels]
        steps: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            convolution = conv3x3(inputs, outputs, bias)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # keeps the images' scale in all layers
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            steps += [convolution, nn.ReLU(inplace=True)]
        self.correction = nn.Sequential(*steps[:-1])

    def forward(self, images: Tensor) -> Tensor:
        """Denoise images, float (batch, in_channels, height, width)."""
        given = images.to(next(self.parameters()).dtype)
        corrections = self.correction(given.contiguous(memory_format=torch.channels_last))
        return images + corrections.to(images.dtype)

    def begin_as_identity(self) -> None:
        """Make the last convolution zero: no learned correction yet."""
        last = self.correction[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)


class MoDL(nn.Module):
    r"""Model-based deep learning with several iterations.

    .. math:: x_{k+1} = (E^H E + \mu)^{-1} (E^H y + \mu D(x_k)), \quad x_0 = E^H y

    with the denoiser :math:`D` and a learned, positive :math:`\mu`.

    Parameters
    ----------
    phases
        Iterations.
    channels
        Features of the denoiser's convolutions.
    in_channels
        1 for real images, 2 (real and imaginary part) for complex images.
    bias
        Convolutions with a bias. Without, the network commutes with a positive factor of its data.
    layers
        Convolutions of the denoiser, at least 2.
    cg_steps
        Steps of conjugate gradients in each iteration, which begin at the image before it. Two are exact for one coil,
        three in a real network.
    shared
        One denoiser for all iterations; else each has its own.
    """

    def __init__(
        self,
        phases: int = 5,
        channels: int = 32,
        in_channels: int = 2,
        bias: bool = True,
        layers: int = 5,
        cg_steps: int = 6,
        shared: bool = True,
    ) -> None:
        super().__init__()
        if in_channels not in (1, 2):
            raise ValueError(f"in_channels must be 1 (real) or 2 (complex), got {in_channels}")
        self.phases, self.in_channels, self.cg_steps = phases, in_channels, cg_steps
        self.log_mu = nn.Parameter(torch.tensor(LOG_MU))
        self.denoisers = nn.ModuleList(
            Denoiser(layers, channels, in_channels, bias) for _ in range(1 if shared else phases)
        )

    @property
    def mu(self) -> Tensor:
        """Weight of the denoised image beside the data term, a scalar."""
        return self.log_mu.exp()

    def forward(self, zero_filled: Tensor, normal: Callable[[Tensor], Tensor]) -> Tensor:
        """Reconstruct.

        Parameters
        ----------
        zero_filled
            E^H y, float (batch, in_channels, height, width); its real part for ``in_channels=1``.
        normal
            E^H E, on complex images (batch, height, width) for ``in_channels=2``; its real part, on real images, for
            ``in_channels=1`` (:class:`~sansref.kspace.cartesian.RealNormal`).

        Returns
        -------
        Tensor
            The image, shaped like ``zero_filled``.
        """
        if zero_filled.ndim != 4 or zero_filled.shape[1] != self.in_channels:
            raise ValueError(
                f"zero_filled must be (batch, {self.in_channels}, height, width), got {tuple(zero_filled.shape)}"
            )
        data = self._image(zero_filled)
        image, mu = data, self.mu
        for phase in range(self.phases):
            denoised = self._image(self.denoisers[phase % len(self.denoisers)](self._channels(image)))
            image = self.data_step(normal, data + mu * denoised, image)
        return self._channels(image)

    def data_step(self, normal: Callable[[Tensor], Tensor], right: Tensor, start: Tensor) -> Tensor:
        """Solve (E^H E + mu) x = right, from ``start``."""
        return regularised_inverse(normal, right, self.mu, start, self.cg_steps)

    def begin_as_identity(self) -> None:
        """Make the denoiser the identity, so that training starts at a regularised SENSE image.

        For one coil that is the zero-filled image, but in a real network.
        """
        for denoiser in self.denoisers:
            assert isinstance(denoiser, Denoiser)
            denoiser.begin_as_identity()

    def _image(self, channels: Tensor) -> Tensor:
        return channels[:, 0] if self.in_channels == 1 else to_complex(channels)

    def _channels(self, image: Tensor) -> Tensor:
        return to_channels(image, self.in_channels)
