"""The U-Net of the fastMRI baselines, written from its published description."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sansref.errors import SettingError

NEGATIVE_SLOPE = 0.2
"""Of the leaky ReLU, as in fastMRI."""


class UNet(nn.Module):
    """U-Net with instance normalisation (Ronneberger et al. 2015; Zbontar et al., arXiv 1811.08839, section 5.2.2).

    Each level has two 3x3 convolutions; average pooling leads down, a transposed 2x2 convolution leads
    up, and the features of the way down are concatenated on the way up. The channels double from
    ``channels`` at the first level to ``channels * 2**pools`` at the bottleneck.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output image; 2 for the real and imaginary parts.
    channels
        Features of the first level. 32 is fastMRI's small baseline; the "U-Net-256" of the iterative
        data refinement paper (Liu et al., arXiv 2211.13440), which that paper does not define further,
        is read as a bottleneck of 256 features: ``channels=16, pools=4``.
    pools
        Number of poolings, at least 1.
    dropout
        Probability with which a whole feature map is dropped in training.

    Raises
    ------
    ValueError
        If a number of channels or of poolings is not positive, or the dropout is outside [0, 1).
    """

    def __init__(
        self,
        in_channels: int = 2,
        out_channels: int = 2,
        channels: int = 32,
        pools: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels, channels, pools) < 1:
            raise ValueError(
                "in_channels, out_channels, channels and pools must be at least 1, got "
                f"{in_channels}, {out_channels}, {channels} and {pools}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.pools = pools
        widths = [channels * 2**level for level in range(pools + 1)]
        inputs = [in_channels, *widths[:-2]]
        self.down = nn.ModuleList(_double_conv(a, b, dropout) for a, b in zip(inputs, widths[:-1], strict=True))
        self.bottleneck = _double_conv(widths[-2], widths[-1], dropout)
        self.enlarge = nn.ModuleList(_enlarge(2 * width, width) for width in reversed(widths[:-1]))
        self.up = nn.ModuleList(_double_conv(2 * width, width, dropout) for width in reversed(widths[:-1]))
        self.out = nn.Conv2d(channels, out_channels, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image of any size to one of the same size.

        A size that is no multiple of ``2**pools`` is enlarged by repeating the edge, and the result cropped back.

        Parameters
        ----------
        image
            Real, (batch, in_channels, height, width). The normalisation removes the input's scale, so
            divide the target by the input's scale, or multiply the output by it.

        Returns
        -------
        Tensor
            (batch, out_channels, height, width).

        Raises
        ------
        SettingError
            If neither side is larger than ``2**pools``: a bottleneck of one pixel cannot be normalised.
        """
        multiple = 2**self.pools
        height, width = image.shape[-2:]
        if max(height, width) <= multiple:
            raise SettingError(
                f"image {height}x{width} is too small for {self.pools} poolings: one side must exceed {multiple},"
                " use fewer --network.pools"
            )
        top, bottom = _margins(height, multiple)
        left, right = _margins(width, multiple)
        features = F.pad(image, (left, right, top, bottom), mode="replicate")

        skipped = []
        for block in self.down:
            features = block(features)
            skipped.append(features)
            features = F.avg_pool2d(features, kernel_size=2)
        features = self.bottleneck(features)
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            features = block(torch.cat([enlarge(features), skipped.pop()], dim=1))
        output: Tensor = self.out(features)
        return output[..., top : top + height, left : left + width]


def _double_conv(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (in_channels, out_channels):
        layers += [
            # No bias: the normalisation would subtract it.
            nn.Conv2d(width, out_channels, kernel_size=3, padding=1, bias=False),
            nn.InstanceNorm2d(out_channels),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Dropout2d(dropout),
        ]
    return nn.Sequential(*layers)


def _enlarge(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2, bias=False),
        nn.InstanceNorm2d(out_channels),
        nn.LeakyReLU(NEGATIVE_SLOPE),
    )


def _margins(size: int, multiple: int) -> tuple[int, int]:
    """Pixels to add before and after, so that ``size`` becomes a multiple."""
    missing = -size % multiple
    return missing // 2, missing - missing // 2
