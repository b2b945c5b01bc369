"""The networks that judge and separate: the discriminator, and the noise extractor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sansref.errors import SettingError
from sansref.networks.norms import BatchInstanceNorm, arranged, initialise, leaky

SMALLEST_MAP = 2
"""Rows and columns that the last features must have: those of a single image, normalised over one pixel, would be the
same for every image."""


class Discriminator(nn.Module):
    """Judge images (Lee and Jeong, IEEE TMI 40:3238, 2021), for one domain or switchable between two.

    Four 4x4 convolutions of stride 2, a 4x4 convolution without padding, and a 1x1 convolution that gives a map of
    judgements. All but the first and the last are normalised. A switchable discriminator scales and shifts the features
    of each of the five layers by factors of its own, before the activation, for images of the full domain only.

    Parameters
    ----------
    channels
        Of the image.
    width
        Features of the first convolution; 32 as published.
    switchable
        Have the scales and shifts of the full domain.
    """

    def __init__(self, channels: int = 1, width: int = 32, switchable: bool = False) -> None:
        super().__init__()
        widths = [width * 2**layer for layer in range(5)]
        inputs = [channels, *widths[:-1]]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size=4, stride=2, padding=1) for a, b in zip(inputs[:-1], widths[:-1], strict=True)
        )
        self.convolutions.append(nn.Conv2d(inputs[-1], widths[-1], kernel_size=4))
        self.norms = nn.ModuleList([nn.Identity(), *(BatchInstanceNorm(features) for features in widths[1:])])
        self.out = nn.Conv2d(widths[-1], 1, kernel_size=1)
        initialise(self)
        self.scales = nn.ParameterList(torch.ones(features) for features in widths if switchable)
        self.shifts = nn.ParameterList(torch.zeros(features) for features in widths if switchable)

    def forward(self, image: Tensor, full: bool = False) -> Tensor:
        """Judge.

        Parameters
        ----------
        image
            Real, (batch, channels, height, width).
        full
            Apply the scales and shifts of the full domain; only a switchable discriminator has them.

        Returns
        -------
        Tensor
            Judgements (batch, 1, rows, columns), about a sixteenth of the image's sides less three.

        Raises
        ------
        SettingError
            If the image is too small.
        """
        smallest = 16 * (SMALLEST_MAP + 3)
        if min(image.shape[-2:]) < smallest:
            height, width = image.shape[-2:]
            raise SettingError(
                f"images of {height}x{width} are too small for the discriminator, which needs {smallest}x{smallest}:"
                " use a larger --crop or --matrix"
            )
        features = arranged(image.to(self.out.weight.dtype))
        for layer, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            features = norm(convolution(features))
            if full:
                features = features * self.scales[layer][:, None, None] + self.shifts[layer][:, None, None]
            features = leaky(features)
        return self.out(features)


class NoiseExtractor(nn.Module):
    """Estimate the artefact of an undersampled image (Lee and Jeong, IEEE TMI 40:3238, 2021).

    The image minus its artefact is a full one. 3x3 convolutions at full resolution, like a denoising network.

    Parameters
    ----------
    channels
        Of the image.
    width
        Features; 32 as published.
    layers
        Convolutions, at least 2; 20 as published.
    """

    def __init__(self, channels: int = 1, width: int = 32, layers: int = 20) -> None:
        super().__init__()
        inputs = [channels, *[width] * (layers - 2)]
        self.convolutions = nn.ModuleList(nn.Conv2d(features, width, kernel_size=3, padding=1) for features in inputs)
        self.norms = nn.ModuleList([nn.Identity(), *(BatchInstanceNorm(width) for _ in inputs[1:])])
        self.out = nn.Conv2d(width, channels, kernel_size=3, padding=1)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (batch, channels, height, width) to its artefact, of the same shape."""
        features = arranged(image.to(self.out.weight.dtype))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features = leaky(norm(convolution(features)))
        return self.out(features).to(image.dtype)
