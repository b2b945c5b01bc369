"""The contract of networks that turn acquired samples into an image, and the one that holds any of them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Literal

from torch import Tensor, nn

from sansref.errors import SettingError
from sansref.kspace.cartesian import RealNormal
from sansref.kspace.measurement import Measurement
from sansref.networks.istanet import ISTANet, symmetry_penalty, to_channels, to_complex
from sansref.networks.modl import MoDL
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
        ista_plus (ISTA-Net+), ista (ISTA-Net), modl (MoDL) or unet (no data term inside).
    phases
        Number of unrolled iterations of ISTA-Net or MoDL; null uses 9 for ISTA-Net and 5 for MoDL.
    channels
        Features of the convolutions of ISTA-Net and MoDL, or of the U-Net's first level.
    pools
        Levels of the U-Net.
    layers
        Convolutions of MoDL's denoiser.
    cg_steps
        Steps of conjugate gradients in each iteration of MoDL. Two are exact for one coil, three in a real network.
    shared
        One denoiser for all iterations of MoDL; False gives each its own.
    bias
        Give the convolutions of ISTA-Net (as in the papers on IDR) and of MoDL a bias.
    init
        xavier as published (in MoDL, He's), or identity: the same, but every phase of ISTA-Net+ begins as a plain
        gradient step (step size 1, the last convolution zero), so that training starts at the zero-filled image
        instead of at noise and needs far fewer steps; and MoDL's denoiser begins as the identity, so that training
        starts at a regularised SENSE image.
    complex
        Two channels for real and imaginary part; False reconstructs real images, as the papers do.
    symmetry
        Weight of ISTA-Net's symmetry penalty in the loss; 0.01 in arXiv 2211.13440.
    """

    name: Literal["ista_plus", "ista", "modl", "unet"] = "ista_plus"
    phases: int | None = None
    channels: int = 32
    pools: int = 4
    layers: int = 5
    cg_steps: int = 6
    shared: bool = True
    bias: bool = True
    init: Literal["xavier", "identity"] = "identity"
    complex: bool = True
    symmetry: float = 0.0

    def __post_init__(self) -> None:
        for name, least, most in _RANGES:
            if not least <= (least if (value := getattr(self, name)) is None else value) <= most:
                raise SettingError(f"network.{name} must lie in {least}..{most}, got {value}")
        if not self.symmetry >= 0:
            raise SettingError(f"network.symmetry must be at least 0, got {self.symmetry}")
        # Convolutions of 3 x 3: six of every phase, or three of every level on both ways, of which each has four times
        # the weights of the one above it.
        layers = {
            "unet": 4**self.pools * 4,
            "modl": self.layers * (1 if self.shared else self.iterations),
        }.get(self.name, self.iterations * 6)
        check_size(9 * layers * self.channels**2, "phases, channels, layers and pools")

    @property
    def iterations(self) -> int:
        """Number of phases, where ``phases`` leaves it to the network."""
        return self.phases or (5 if self.name == "modl" else 9)

    @property
    def without_effect(self) -> list[str]:
        """Names of the options that were chosen, but that this network does not have."""
        lacks = {"unet": _UNROLLED | _MODL, "modl": {"pools", "symmetry"}, "ista": _MODL | {"pools", "init"}}
        names = lacks.get(self.name, _MODL | {"pools"})
        return [one.name for one in fields(self) if one.name in names and getattr(self, one.name) != one.default]


_RANGES = (("phases", 1, 1000), ("channels", 1, 4096), ("pools", 1, 12), ("layers", 2, 1000), ("cg_steps", 1, 1000))
_UNROLLED = {"phases", "bias", "init", "symmetry"}
_MODL = {"layers", "cg_steps", "shared"}


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
        self.network: ISTANet | MoDL | UNet
        if options.name == "unet":
            self.network = UNet(self.channels, self.channels, options.channels, options.pools)
        elif options.name == "modl":
            sizes = options.iterations, options.channels, self.channels
            self.network = MoDL(*sizes, options.bias, options.layers, options.cg_steps, options.shared)
            if options.init == "identity":
                self.network.begin_as_identity()
        else:
            variant: Literal["plus", "plain"] = "plus" if options.name == "ista_plus" else "plain"
            self.network = ISTANet(options.iterations, options.channels, self.channels, options.bias, variant)
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
            raise SettingError("a real network cannot combine coils: use --network.complex true, or --coils.virtual 1")
        zero_filled = to_channels(given.physics.adjoint(given.kspace), self.channels)
        if isinstance(self.network, UNet):
            return to_complex(self.network(zero_filled.to(self.network.out.weight.dtype))), []
        normal = RealNormal(given.mask, zero_filled.dtype) if self.channels == 1 else given.physics.normal
        if isinstance(self.network, MoDL):
            return to_complex(self.network(zero_filled, normal)), []
        image, residuals = self.network(zero_filled, normal, symmetry)
        return to_complex(image), residuals
