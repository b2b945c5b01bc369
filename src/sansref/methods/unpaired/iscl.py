"""ISCL: CycleGAN with a noise extractor, both teaching each other (Lee and Jeong, IEEE TMI 40:3238, 2021).

Switchable ISCL, which needs about half of the parameters: AdaIN switches the one generator between the directions,
scales and shifts make the one discriminator judge either domain, and the acquired samples have to survive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.methods.base import Draw, Needs, Turn, Update
from sansref.methods.examples import ImagePair
from sansref.methods.unpaired import turns
from sansref.methods.unpaired.cyclegan import CycleGANOptions
from sansref.methods.unpaired.losses import ADVERSARIAL, AdversarialName
from sansref.methods.unpaired.translation import ImageTranslation
from sansref.networks.translators import (
    SwitchableDiscriminator,
    SwitchableGenerator,
    TranslatorOptions,
    TwoDiscriminators,
    TwoGenerators,
)


@dataclass(frozen=True)
class ISCLOptions(CycleGANOptions):
    """ISCL, as its authors' code has it.

    Attributes
    ----------
    bypass_weight
        Weight of the bypass loss.
    boosting_weight
        Weight of the discriminators' loss on images made by the noise extractor.
    output
        ensemble: generator_share * G(x) + (1 - generator_share) * (x - H(x)); or one of them, generator or extractor.
    generator_share
        Share of the generator in the ensemble (gamma in the paper).
    """

    gan: AdversarialName = "hinge"
    cycle_weight: float = 30.0
    identity_weight: float = 0.0
    bypass_weight: float = 30.0
    boosting_weight: float = 1.0
    output: Literal["ensemble", "generator", "extractor"] = "ensemble"
    generator_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.generator_share <= 1:
            raise SettingError(f"generator_share must lie in [0, 1], got {self.generator_share}")


Options = TypeVar("Options", bound=ISCLOptions)


class _Alternating(ImageTranslation[Options]):
    """Generators learn adversarially; the extractor H learns the artefact from them, and they agree with it.

    ``x - H(x)`` is a second restoration of an undersampled image, ``y + H(x)`` a second degradation of a full one.
    """

    needs: ClassVar[Needs] = Needs.UNPAIRED
    defaults: ClassVar[Mapping[str, Any]] = turns.UNPAIRED_TRAINING
    generators: turns.Generators
    discriminators: turns.Discriminators

    def __init__(
        self,
        network: TranslatorOptions,
        options: Options,
        generators: turns.Generators,
        discriminators: turns.Discriminators,
    ) -> None:
        super().__init__(network, options)
        self.adversarial = ADVERSARIAL[options.gan]
        self.generators, self.discriminators = generators, discriminators
        self.extractor = network.extractor()

    @property
    def turns(self) -> list[Turn]:
        """Discriminators, generators, extractor."""
        extractor = Turn("extractor", list(self.extractor.parameters()), averaged=False, lookahead=True)
        return [*turns.adversarial_turns(self.discriminators, self.generators), extractor]

    def step(self, batch: ImagePair) -> Iterator[Update]:
        """Translate both images and extract the artefact once, for all three turns."""
        judges, makers, extractors = self.turns
        generators, discriminators, options = self.generators, self.discriminators, self.options
        restored = generators.full(batch.undersampled)
        degraded = generators.undersampled(batch.full, batch.noise)
        artefact = self.extractor(batch.undersampled)
        constant = artefact.detach()

        loss, parts = turns.discriminator_loss(discriminators, self.adversarial, batch, restored, degraded)
        boosting = turns.boosting_loss(discriminators, self.adversarial, batch, constant)
        parts |= turns.detached(boosting=boosting)
        yield Update(judges, loss + options.boosting_weight * boosting, parts)
        turns.clip_mixtures(discriminators)

        loss, parts = turns.generator_loss(
            generators, discriminators, self.adversarial, options, batch, restored, degraded
        )
        bypass, agreement = turns.bypass(generators, batch, restored, constant)
        yield Update(makers, loss + options.bypass_weight * bypass, parts | agreement)
        turns.clip_mixtures(generators)

        yield Update(extractors, *turns.extractor_loss(generators, self.extractor, batch, artefact))
        turns.clip_mixtures(self.extractor)

    def restore(self, image: Tensor) -> Tensor:
        """The ensemble of both restorations, or one of them alone."""
        if self.options.output == "generator":
            return self.generators.full(image)
        clean = image - self.extractor(image)
        if self.options.output == "extractor":
            return clean
        return torch.lerp(clean, self.generators.full(image), self.options.generator_share)

    def failure(self, parts: Mapping[str, float]) -> str | None:
        """Whether discriminator or generator has collapsed."""
        return turns.adversarial_failure(parts)


class ISCL(_Alternating[ISCLOptions]):
    """A generator and a discriminator for each direction and domain, and the extractor."""

    options_type: ClassVar[type[Any]] = ISCLOptions

    def __init__(self, network: TranslatorOptions, options: ISCLOptions) -> None:
        super().__init__(network, options, TwoGenerators(network), TwoDiscriminators(network))


@dataclass(frozen=True)
class SwitchableOptions(ISCLOptions):
    """Switchable ISCL as its paper prints it; what the paper leaves open follows ISCL's code.

    Attributes
    ----------
    gan
        lsgan (least squares), or hinge as in ISCL's code.
    sampling_weight
        Weight of the sampling-consistency loss.
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


class SwitchableISCL(_Alternating[SwitchableOptions]):
    """One generator with its code, one discriminator, and the extractor."""

    options_type: ClassVar[type[Any]] = SwitchableOptions

    def __init__(self, network: TranslatorOptions, options: SwitchableOptions) -> None:
        generator = SwitchableGenerator(network, options.code_jitter)
        super().__init__(network, options, generator, SwitchableDiscriminator(network))

    def code_stream(self, draw: Draw) -> torch.Generator:
        """Random stream of the code's noise, of the epoch or of the step."""
        return draw.fresh() if self.options.code_refresh == "step" else super().code_stream(draw)
