"""ISCL: CycleGAN with a noise extractor, both teaching each other (Lee and Jeong, IEEE TMI 40:3238, 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sansref.errors import SettingError
from sansref.methods.adversarial import AdversarialName
from sansref.methods.base import Turn
from sansref.methods.batch import Translation
from sansref.methods.consistency import bypass_loss, noise_consistency_loss, pseudo_loss
from sansref.methods.cyclegan import CycleGAN, CycleGANOptions, Step, detached
from sansref.networks.unpaired import TranslatorOptions


@dataclass(frozen=True)
class ISCLOptions(CycleGANOptions):
    """ISCL, as its authors' code has it.

    Attributes
    ----------
    bypass_weight
        Of the bypass loss.
    boosting_weight
        Of the discriminators' loss on images made by the noise extractor.
    output
        ensemble: generator_share * G(x) + (1 - generator_share) * (x - H(x)); or one of them, generator or extractor.
    generator_share
        Of the generator in the ensemble (gamma in the paper).
    """

    gan: AdversarialName = "hinge"
    bypass_weight: float = 30.0
    boosting_weight: float = 1.0
    output: Literal["ensemble", "generator", "extractor"] = "ensemble"
    generator_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.generator_share <= 1:
            raise SettingError(f"generator_share must lie in [0, 1], got {self.generator_share}")


class ISCL(CycleGAN):
    """The generators learn adversarially; the extractor H learns the artefact from them, and they agree with it.

    ``x - H(x)`` is a second restoration of an undersampled image, ``y + H(x)`` a second degradation of a full one.
    """

    options_type: ClassVar[type[Any]] = ISCLOptions
    options: ISCLOptions

    def __init__(self, network: TranslatorOptions, options: ISCLOptions) -> None:
        super().__init__(network, options)
        self.extractor = network.extractor()

    def moved(self, turn: str) -> nn.Module:
        """The networks that a turn moves."""
        return self.extractor if turn == "extractor" else super().moved(turn)

    @property
    def turns(self) -> list[Turn]:
        """Discriminators, generators, extractor."""
        extractor = Turn("extractor", list(self.extractor.parameters()), averaged=False, lookahead=True)
        return [*super().turns, extractor]

    def loss(self, turn: str, batch: Translation) -> tuple[Tensor, dict[str, Tensor]]:
        """As for CycleGAN, with a third turn; ``halves`` is the disagreement |G(x) - (x - H(x))|."""
        return self.extractor_loss(self.step_of(batch)) if turn == "extractor" else super().loss(turn, batch)

    def begin(self, batch: Translation) -> Step:
        """Translate both images and extract the artefact once, for all turns of a step."""
        step = super().begin(batch)
        step.artefact = self.extractor(batch.undersampled)
        return step

    def discriminator_loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """CycleGAN's, plus boosting: what the extractor makes is a fake too."""
        loss, parts = super().discriminator_loss(step)
        x, y, artefact = step.batch.undersampled, step.batch.full, step.known_artefact
        boosting = self.adversarial.fake(self.discriminators.full(x - artefact))
        boosting = boosting + self.adversarial.fake(self.discriminators.undersampled(y + artefact))
        return loss + self.options.boosting_weight * boosting, parts | detached({"boosting": boosting})

    def generator_loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """CycleGAN's, plus bypass: the generator agrees with the extractor."""
        loss, parts = super().generator_loss(step)
        x, y, artefact = step.batch.undersampled, step.batch.full, step.known_artefact
        bypass = bypass_loss(step.restored, x, artefact, y, self.generators.full(y + artefact))
        halves = (step.restored.detach() - (x - artefact)).abs().mean()
        parts |= detached({"bypass": bypass, "halves": halves})
        return loss + self.options.bypass_weight * bypass, parts

    def extractor_loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Pseudo loss and noise consistency, with the generators as they are after their own turn."""
        x, y = step.batch.undersampled, step.batch.full
        with torch.no_grad():
            restored = self.generators.full(x)
            degraded = self.generators.undersampled(y, step.batch.noise)
        assert step.artefact is not None
        pseudo = pseudo_loss(step.artefact, x, restored)
        noise = noise_consistency_loss(self.extractor(degraded), degraded, y)
        return pseudo + noise, detached({"pseudo": pseudo, "noise": noise})

    def restore(self, image: Tensor) -> Tensor:
        """The ensemble of both restorations, or one of them alone."""
        if self.options.output == "generator":
            return self.generators.full(image)
        clean = image - self.extractor(image)
        if self.options.output == "extractor":
            return clean
        # In mixed precision the generator's images are of half precision, a difference from the input is not.
        return torch.lerp(clean, self.generators.full(image).to(clean.dtype), self.options.generator_share)
