"""The contract of networks that turn acquired samples into an image, and the one that holds any of them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from sansref.errors import SettingError
from sansref.kspace.cartesian import RealNormal
from sansref.kspace.measurement import Measurement
from sansref.networks.istanet import ISTANet, symmetry_penalty, to_channels, to_complex
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
    symmetry
        Weight of ISTA-Net's symmetry penalty in the loss; 0.01 in arXiv 2211.13440.
    """

    name: Literal["ista_plus", "ista", "unet"] = "ista_plus"
    phases: int = 9
    channels: int = 32
    pools: int = 4
    bias: bool = True
    init: Literal["xavier", "identity"] = "identity"
    complex: bool = True
    symmetry: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("phases", 1000), ("channels", 4096), ("pools", 12)):
            if not 1 <= getattr(self, name) <= most:
                raise SettingError(f"network.{name} must lie in 1..{most}, got {getattr(self, name)}")
        if not self.symmetry >= 0:
            raise SettingError(f"network.symmetry must be at least 0, got {self.symmetry}")
        # Convolutions of 3 x 3: six of every phase, or three of every level on both ways, of which each has four times
        # the weights of the one above it.
        layers = 4**self.pools * 4 if self.name == "unet" else self.phases * 6
        check_size(9 * layers * self.channels**2, "phases, channels and pools")


class Network(nn.Module, ABC):
    """What turns acquired samples into an image, and can be learned.

    ``penalty_weight`` is the weight of its penalty (:meth:`with_penalty`) in the loss.
    """

    penalty_weight: float = 0.0

    @abstractmethod
    def forward(self, given: Measurement) -> Tensor:
        """Reconstruct complex images (batch, height, width)."""

    def with_penalty(self, given: Measurement) -> tuple[Tensor, Tensor]:
        """The images, and a scalar that training may lower beside its loss; 0 for a network without one."""
        image = self(given)
        return image, image.real.new_zeros(())


class Reconstructor(Network):
    """Any network between samples and image: zero-fills, splits complex values into channels and back.

    Parameters
    ----------
    options
        Which network.
    """

    def __init__(self, options: NetworkOptions) -> None:
        super().__init__()
        self.channels = 2 if options.complex else 1
        self.penalty_weight = options.symmetry
        self.network: ISTANet | UNet
        if options.name == "unet":
            self.network = UNet(self.channels, self.channels, options.channels, options.pools)
        else:
            variant: Literal["plus", "plain"] = "plus" if options.name == "ista_plus" else "plain"
            self.network = ISTANet(options.phases, options.channels, self.channels, options.bias, variant)
            if options.init == "identity" and variant == "plus":
                self.network.begin_as_identity()

    def forward(self, given: Measurement) -> Tensor:
        """Reconstruct complex images (batch, height, width).

        Raises
        ------
        SettingError
            For several coils in a real network.
        """
        return self._reconstructed(given, symmetry=False)[0]

    def with_penalty(self, given: Measurement) -> tuple[Tensor, Tensor]:
        """The images, and ISTA-Net's symmetry penalty, see :func:`~sansref.networks.istanet.symmetry_penalty`."""
        image, residuals = self._reconstructed(given, symmetry=True)
        return image, symmetry_penalty(residuals) if residuals else image.real.new_zeros(())

    def _reconstructed(self, given: Measurement, symmetry: bool) -> tuple[Tensor, list[Tensor]]:
        if given.maps is not None and self.channels == 1:
            raise SettingError("a real network cannot combine coils: use --network.complex true, or --virtual_coils 1")
        zero_filled = to_channels(given.physics.adjoint(given.kspace), self.channels)
        if isinstance(self.network, UNet):
            return to_complex(self.network(zero_filled.to(self.network.out.weight.dtype))), []
        normal = RealNormal(given.mask, zero_filled.dtype) if self.channels == 1 else given.physics.normal
        image, residuals = self.network(zero_filled, normal, symmetry)
        return to_complex(image), residuals
