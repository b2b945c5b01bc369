"""One interface for all networks that turn measured samples into an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from sansref.errors import SettingError
from sansref.kspace.encoding import EncodingOperator
from sansref.networks.istanet import ISTANet, to_channels, to_complex
from sansref.networks.unet import UNet

MOST_WEIGHTS = 200_000_000
"""Of a network; more than any in the field of reconstruction, and what a common machine has memory to train."""


def check_size(weights: int, names: str) -> None:
    """Refuse a network that is far too large, before it takes all memory.

    Raises
    ------
    SettingError
        Naming the settings.
    """
    if weights > MOST_WEIGHTS:
        raise SettingError(f"network would have about {weights:.2g} weights: lower its {names}")


@dataclass(frozen=True)
class NetworkOptions:
    """Which network reconstructs.

    Attributes
    ----------
    name
        ista_plus (ISTA-Net+), ista (ISTA-Net) or unet (no data term inside).
    phases
        Unrolled iterations of ISTA-Net.
    channels
        Features of ISTA-Net's convolutions, or of the U-Net's first level.
    pools
        Levels of the U-Net.
    bias
        ISTA-Net convolutions with a bias, as in the IDR line of work.
    init
        xavier as published, or identity: the same, but every phase of ISTA-Net+ begins as a plain gradient
        step (step size 1, the last convolution zero), so that training starts at the zero-filled image
        instead of at noise and needs far fewer steps.
    complex
        Two channels for real and imaginary part; False reconstructs real images, as the papers do.
    """

    name: Literal["ista_plus", "ista", "unet"] = "ista_plus"
    phases: int = 9
    channels: int = 32
    pools: int = 4
    bias: bool = True
    init: Literal["xavier", "identity"] = "identity"
    complex: bool = True

    def __post_init__(self) -> None:
        for name, most in (("phases", 1000), ("channels", 4096), ("pools", 12)):
            if not 1 <= getattr(self, name) <= most:
                raise SettingError(f"network.{name} must lie in 1..{most}, got {getattr(self, name)}")
        # Convolutions of 3 x 3: six of every phase, or three of every level on both ways, of which each has four times
        # the weights of the one above it.
        layers = 4**self.pools * 4 if self.name == "unet" else self.phases * 6
        check_size(9 * layers * self.channels**2, "phases, channels and pools")


class Reconstructor(nn.Module):
    """Samples to image with any network: zero-fills, splits complex values into channels and back.

    Parameters
    ----------
    options
        Which network.
    """

    def __init__(self, options: NetworkOptions) -> None:
        super().__init__()
        self.channels = 2 if options.complex else 1
        self.network: ISTANet | UNet
        if options.name == "unet":
            self.network = UNet(self.channels, self.channels, options.channels, options.pools)
        else:
            variant: Literal["plus", "plain"] = "plus" if options.name == "ista_plus" else "plain"
            self.network = ISTANet(options.phases, options.channels, self.channels, options.bias, variant)
            if options.init == "identity" and variant == "plus":
                self.network.begin_as_identity()

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor | None, symmetry: bool) -> tuple[Tensor, list[Tensor]]:
        """Reconstruct.

        Parameters
        ----------
        kspace
            complex64 (batch, coils, height, width), zero outside the mask.
        mask
            bool (batch, height, width).
        maps
            complex64 (batch, coils, height, width) or None.
        symmetry
            Also return ISTA-Net's symmetry residuals.

        Returns
        -------
        tuple
            Complex image (batch, height, width) and the residuals, an empty list for other networks.

        Raises
        ------
        SettingError
            For several coils in a real network.
        """
        if maps is not None and self.channels == 1:
            raise SettingError("a real network cannot combine coils: use --network.complex true, or --virtual_coils 1")
        zero_filled = to_channels(EncodingOperator(mask, maps).adjoint(kspace), self.channels)
        if isinstance(self.network, UNet):
            return to_complex(self.network(zero_filled.to(self.network.out.weight.dtype))), []
        image, residuals = self.network(zero_filled, mask, maps, symmetry)
        return to_complex(image), residuals
