"""The noise extractor: what undersampling has added to an image."""

from __future__ import annotations

from torch import Tensor, nn

from sansref.networks.norms import BatchInstanceNorm, initialise, leaky


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
        features = image
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features = leaky(norm(convolution(features)))
        return self.out(features)
