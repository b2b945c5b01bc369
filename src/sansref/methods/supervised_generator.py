"""The supervised twin of the unpaired methods' generator: their upper bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from sansref.methods.base import Draw, Needs, Turn
from sansref.methods.batch import Translation
from sansref.methods.cyclegan import UNPAIRED_TRAINING, clip_mixtures
from sansref.methods.translation import ImageOptions, ImageTranslation
from sansref.networks.unpaired import TranslatorOptions
from sansref.scan import Scan


@dataclass(frozen=True)
class SupervisedGeneratorOptions(ImageOptions):
    """ISCL's generator, trained on pairs."""


class SupervisedGenerator(ImageTranslation):
    """The generator alone, with batch-instance normalisation: L1 error of G(x) against the same scan's reference."""

    needs: ClassVar[Needs] = Needs.PAIRED
    options_type: ClassVar[type[Any]] = SupervisedGeneratorOptions
    training_defaults: ClassVar[Mapping[str, Any]] = UNPAIRED_TRAINING

    def __init__(self, network: TranslatorOptions, options: SupervisedGeneratorOptions) -> None:
        super().__init__(network, options)
        self.generator = network.generator()

    @property
    def turns(self) -> list[Turn]:
        """One update."""
        return [Turn("generator", list(self.generator.parameters()))]

    def examples(
        self, scan: Scan, draw: Draw, refined: Tensor | None = None, full: Scan | None = None
    ) -> list[Translation]:
        """One example: the zero-filled image and the reference of the same scan."""
        if scan.reference is None:
            raise ValueError(f"supervised training was handed {scan.meta.source} without its reference")
        return [self.translation(scan, scan.reference.to(torch.complex64)[None], draw)]

    def loss(self, turn: str, batch: Translation) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute error in [-1, 1]."""
        error = l1_loss(self.generator(batch.undersampled), batch.full)
        return error, {"l1": error.detach()}

    def restore(self, image: Tensor) -> Tensor:
        """G(x)."""
        return self.generator(image)

    def updated(self, turn: str) -> None:
        """Keep the mixtures of all batch-instance normalisations within [0, 1]."""
        clip_mixtures(self)
