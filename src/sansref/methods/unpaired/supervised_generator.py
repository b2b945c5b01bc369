"""The supervised twin of the unpaired methods' generator: their upper bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from sansref.methods.base import Draw, Needs, Sample, Turn, Update
from sansref.methods.examples import ImagePair
from sansref.methods.unpaired.translation import ImageOptions, ImageTranslation
from sansref.methods.unpaired.turns import UNPAIRED_TRAINING, clip_mixtures
from sansref.networks.translators import TranslatorOptions


class SupervisedGenerator(ImageTranslation[ImageOptions]):
    """The generator alone, with batch-instance normalisation: L1 error of G(x) against the same scan's reference."""

    needs: ClassVar[Needs] = Needs.PAIRED
    options_type: ClassVar[type[Any]] = ImageOptions
    defaults: ClassVar[Mapping[str, Any]] = UNPAIRED_TRAINING

    def __init__(self, network: TranslatorOptions, options: ImageOptions) -> None:
        super().__init__(network, options)
        self.generator = network.generator()

    @property
    def turns(self) -> list[Turn]:
        """One update."""
        return [Turn("generator", list(self.generator.parameters()))]

    def examples(self, sample: Sample, draw: Draw) -> list[ImagePair]:
        """One example: the zero-filled image and the reference of the same scan."""
        scan = sample.scan
        if scan.reference is None:
            raise ValueError(f"supervised training got {scan.meta.source} without its reference")
        return [self.pair(scan, scan.reference.to(torch.complex64)[None], draw)]

    def step(self, batch: ImagePair) -> Iterator[Update]:
        """Mean absolute error in [-1, 1]."""
        error = l1_loss(self.generator(batch.undersampled), batch.full)
        yield Update(self.turns[0], error, {"l1": error.detach()})
        clip_mixtures(self)

    def restore(self, image: Tensor) -> Tensor:
        """G(x)."""
        return self.generator(image)
