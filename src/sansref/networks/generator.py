"""The generator that translates images between the undersampled and the full domain, and its AdaIN codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sansref.errors import SettingError
from sansref.networks.norms import (
    NEGATIVE_SLOPE,
    AdaptiveInstanceNorm,
    BatchInstanceNorm,
    Style,
    arranged,
    initialise,
    leaky,
    symmetric_pad,
)

CODE_LENGTH = 64
"""Of the random vector z that a code is made of."""

_MULTIPLE = 4  # of the image's sides: two convolutions of stride 2


class Generator(nn.Module):
    """Translate an image from one domain to the other (Lee and Jeong, IEEE TMI 40:3238, 2021).

    A 7x7 convolution, two 4x4 convolutions of stride 2, residual blocks, two transposed convolutions and a 7x7
    convolution; tanh at the end. As published, there is no connection around the whole, and training begins at noise;
    with ``identity`` what the tanh gives is added to the image, and is 0 at the beginning. Every convolution but the
    last is normalised. The five normalisations outside the residual blocks are switchable: batch-instance
    normalisation where each direction has a generator of its own, or adaptive instance normalisation, by which
    one generator serves both directions.

    Parameters
    ----------
    channels
        Of the image: 1 for magnitudes, 2 for real and imaginary part.
    width
        Features of the first convolution; 32 as published.
    blocks
        Residual blocks; 3 as published.
    switchable
        Use adaptive instance normalisation.
    identity
        Begin as the identity.
    """

    def __init__(
        self, channels: int = 1, width: int = 32, blocks: int = 3, switchable: bool = False, identity: bool = False
    ) -> None:
        super().__init__()
        self.identity = identity
        self.widths = code_widths(width)
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(channels, width, kernel_size=7),
                nn.Conv2d(width, 2 * width, kernel_size=4, stride=2),
                nn.Conv2d(2 * width, 4 * width, kernel_size=4, stride=2),
                nn.ConvTranspose2d(4 * width, 2 * width, kernel_size=3, stride=2, padding=1, output_padding=1),
                nn.ConvTranspose2d(2 * width, width, kernel_size=3, stride=2, padding=1, output_padding=1),
            ]
        )
        self.norms = nn.ModuleList(
            AdaptiveInstanceNorm() if switchable else BatchInstanceNorm(features) for features in self.widths
        )
        self.blocks = nn.ModuleList(ResidualBlock(4 * width) for _ in range(blocks))
        self.out = nn.Conv2d(width, channels, kernel_size=7)
        initialise(self)
        if identity:
            nn.init.zeros_(self.out.weight)

    def forward(self, image: Tensor, code: Sequence[Style] | None = None) -> Tensor:
        """Translate.

        Parameters
        ----------
        image
            Real, (batch, channels, height, width), in [-1, 1]; sides that are no multiple of 4 are enlarged by
            repeating the edge, and the result is cropped back.
        code
            A style for each of the five switchable layers; None stands for mean 0 and standard deviation 1
            everywhere. Only a switchable generator takes one.

        Returns
        -------
        Tensor
            In [-1, 1], of the same shape and dtype; within 1 of the image with ``identity``.

        Raises
        ------
        SettingError
            If the image is so small that a single pixel would be left to normalise.
        """
        height, width = image.shape[-2:]
        if max(height, width) <= _MULTIPLE:
            raise SettingError(
                f"an image of {height}x{width} is too small for the generator: one side must exceed {_MULTIPLE}"
            )
        enlarged = F.pad(image, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE), mode="replicate")
        features = arranged(enlarged.to(self.out.weight.dtype))
        styles = [None] * len(self.norms) if code is None else code
        pads = (3, 1, 1, 0, 0)
        for index, (convolution, norm, style, pad) in enumerate(
            zip(self.convolutions, self.norms, styles, pads, strict=True)
        ):
            if index == 3:
                for block in self.blocks:
                    features = block(features)
            features = convolution(symmetric_pad(features, pad) if pad else features)
            features = leaky(norm(features) if style is None else norm(features, style))
        # A tanh of half precision is exactly 1 or -1 where its argument exceeds 4, and has no gradient to come back by.
        output = torch.tanh(self.out(symmetric_pad(features, 3)).to(image.dtype))[..., :height, :width]
        return image + output if self.identity else output


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel_size=3)
        self.first_norm = BatchInstanceNorm(channels)
        self.second = nn.Conv2d(channels, channels, kernel_size=3)
        self.second_norm = BatchInstanceNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Refine (batch, channels, height, width)."""
        inner = leaky(self.first_norm(self.first(symmetric_pad(features, 1))))
        return features + self.second_norm(self.second(symmetric_pad(inner, 1)))


class CodeGenerator(nn.Module):
    """Make the AdaIN code of a switchable generator from a random vector.

    Four linear layers with leaky ReLUs, then for each switchable layer one linear layer for the means and one, with a
    ReLU, for the standard deviations, after the switchable CycleGANs (Gu and Ye, arXiv 2008.05753; Yang et al., arXiv
    2011.13150), whose first layers have no activations. It begins near means of 0 and standard deviations of 1.

    Parameters
    ----------
    widths
        Channels of the switchable layers.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *(
                layer
                for _ in range(4)
                for layer in (nn.Linear(CODE_LENGTH, CODE_LENGTH), nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))
            )
        )
        self.means = nn.ModuleList(_head(width, bias=0.0) for width in widths)
        self.stds = nn.ModuleList(_head(width, bias=1.0) for width in widths)

    def forward(self, vector: Tensor) -> list[Style]:
        """Map (batch, 64) to the styles of all switchable layers, each (batch, channels)."""
        shared = self.trunk(vector.to(next(self.parameters()).dtype))
        return [Style(mean(shared), torch.relu(std(shared))) for mean, std in zip(self.means, self.stds, strict=True)]


def _head(width: int, bias: float) -> nn.Linear:
    layer = nn.Linear(CODE_LENGTH, width)
    nn.init.constant_(layer.bias, bias)
    return layer


def code_widths(width: int) -> list[int]:
    """Channels of the five switchable layers of a generator."""
    return [width, 2 * width, 4 * width, 2 * width, width]
