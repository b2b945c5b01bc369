"""CycleGAN (Zhu et al., ICCV 2017): two translations that undo each other, each judged by a discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from sansref.errors import SettingError
from sansref.methods.base import Needs, Turn, Update
from sansref.methods.examples import ImagePair
from sansref.methods.unpaired import turns
from sansref.methods.unpaired.losses import ADVERSARIAL, AdversarialName, FourierNorm
from sansref.methods.unpaired.translation import ImageOptions, ImageTranslation
from sansref.networks.translators import TranslatorOptions, TwoDiscriminators, TwoGenerators


@dataclass(frozen=True)
class CycleGANOptions(ImageOptions):
    """CycleGAN with the networks of ISCL and the weights of its authors.

    Attributes
    ----------
    gan
        lsgan (least squares), or hinge as in ISCL's code.
    cycle_weight
        Weight of the cycle loss, next to 1 for the adversarial one.
    identity_weight
        Weight of the identity loss, that G leaves full images and F undersampled ones as they are: half of the cycle
        weight, as CycleGAN's authors have it where colours are to be kept. Without it a translation may turn grey
        values over, which cycle and adversarial loss hardly see. ISCL does without.
    sampling_weight
        Weight of the sampling-consistency loss of switchable ISCL.
    sampling_norm
        Norm of the Fourier transform in it: backward (plain sum) or ortho.
    sampling_power
        1 for the modulus of k-space differences, 2 for its square.
    """

    gan: AdversarialName = "lsgan"
    cycle_weight: float = 10.0
    identity_weight: float = 5.0
    sampling_weight: float = 0.0
    sampling_norm: FourierNorm = "backward"
    sampling_power: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in vars(self).items():
            if name.endswith("_weight") and not value >= 0:
                raise SettingError(f"{name} must not be negative, got {value}")


class CycleGAN(ImageTranslation[CycleGANOptions]):
    """Generators G (restores) and F (degrades), discriminators of full and of undersampled images."""

    needs: ClassVar[Needs] = Needs.UNPAIRED
    options_type: ClassVar[type[Any]] = CycleGANOptions
    defaults: ClassVar[Mapping[str, Any]] = {
        **turns.UNPAIRED_TRAINING,
        "training.learning_rate": 2e-4,
        "training.optimizer": "adam",
    }

    def __init__(self, network: TranslatorOptions, options: CycleGANOptions) -> None:
        super().__init__(network, options)
        self.adversarial = ADVERSARIAL[options.gan]
        self.generators, self.discriminators = TwoGenerators(network), TwoDiscriminators(network)

    @property
    def turns(self) -> list[Turn]:
        """Discriminators, then generators."""
        return turns.adversarial_turns(self.discriminators, self.generators)

    def step(self, batch: ImagePair) -> Iterator[Update]:
        """Translate both images once, for both turns."""
        judges, makers = self.turns
        restored = self.generators.full(batch.undersampled)
        degraded = self.generators.undersampled(batch.full, batch.noise)
        yield Update(
            judges, *turns.discriminator_loss(self.discriminators, self.adversarial, batch, restored, degraded)
        )
        turns.clip_mixtures(self.discriminators)
        yield Update(
            makers,
            *turns.generator_loss(
                self.generators, self.discriminators, self.adversarial, self.options, batch, restored, degraded
            ),
        )
        turns.clip_mixtures(self.generators)

    def restore(self, image: Tensor) -> Tensor:
        """G(x)."""
        return self.generators.full(image)

    def failure(self, parts: Mapping[str, float]) -> str | None:
        """Whether discriminator or generator has collapsed."""
        return turns.adversarial_failure(parts)
