"""Switchable ISCL: one generator and one discriminator for both directions, tied to the acquired samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from sansref.errors import SettingError
from sansref.methods.adversarial import AdversarialName
from sansref.methods.base import Draw
from sansref.methods.iscl import ISCL, ISCLOptions
from sansref.networks.unpaired import SwitchableDiscriminator, SwitchableGenerator, TranslatorOptions


@dataclass(frozen=True)
class SwitchableOptions(ISCLOptions):
    """Switchable ISCL as its paper prints it; what the paper leaves open follows ISCL's code.

    Attributes
    ----------
    gan
        lsgan (least squares), or hinge as in ISCL's code.
    sampling_weight
        Of the sampling-consistency loss.
    code_jitter
        Factor of the normal noise that is added to the fixed random vector of the code.
    code_refresh
        Draw that noise anew each epoch, or for each step.
    """

    gan: AdversarialName = "lsgan"
    sampling_weight: float = 1.0
    code_jitter: float = 0.1
    code_refresh: Literal["epoch", "step"] = "epoch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.code_jitter >= 0:
            raise SettingError(f"code_jitter must not be negative, got {self.code_jitter}")


class SwitchableISCL(ISCL):
    """ISCL with about half of its parameters: AdaIN switches the generator, scales and shifts the discriminator."""

    options_type: ClassVar[type[Any]] = SwitchableOptions
    options: SwitchableOptions

    def make_networks(self, network: TranslatorOptions) -> tuple[SwitchableGenerator, SwitchableDiscriminator]:
        """One generator with its code, one discriminator."""
        return SwitchableGenerator(network, self.options.code_jitter), SwitchableDiscriminator(network)

    def code_stream(self, draw: Draw) -> torch.Generator:
        """Random stream of the code's noise, of the epoch or of the step."""
        return draw.fresh() if self.options.code_refresh == "step" else super().code_stream(draw)
