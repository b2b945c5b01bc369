"""CycleGAN (Zhu et al., ICCV 2017): two translations that undo each other, each judged by a discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sansref.errors import SettingError
from sansref.methods.adversarial import ADVERSARIAL, AdversarialName
from sansref.methods.base import Needs, Turn
from sansref.methods.batch import Translation
from sansref.methods.consistency import FourierNorm, cycle_loss, sampling_loss
from sansref.methods.translation import ImageOptions, ImageTranslation
from sansref.networks.norms import BatchInstanceNorm
from sansref.networks.unpaired import (
    SwitchableDiscriminator,
    SwitchableGenerator,
    TranslatorOptions,
    TwoDiscriminators,
    TwoGenerators,
)

UNPAIRED_TRAINING: Mapping[str, Any] = {
    "epochs": 50,
    "batch_size": 1,
    "learning_rate": 1e-4,
    "optimizer": "radam",
    "schedule": "linear",
    "keep": "last",
    "average_from": 0.6,
}
"""RAdam, linear decay, weights averaged over the last 40 % of the steps: ISCL's code and the switchable paper."""

ALIKE = 1e-4
"""Judgements of a discriminator that has not collapsed differ by more than this from pixel to pixel."""

CONSTANT = 1e-3
"""Pixels of an image in [-1, 1] differ by more than this."""


@dataclass(frozen=True)
class CycleGANOptions(ImageOptions):
    """CycleGAN with the networks of ISCL.

    Attributes
    ----------
    gan
        lsgan (least squares), or hinge as in ISCL's code.
    cycle_weight
        Of the cycle loss, next to 1 for the adversarial one.
    sampling_weight
        Of the sampling-consistency loss of switchable ISCL.
    sampling_norm
        Of the Fourier transform in it: backward (plain sum) or ortho.
    sampling_power
        1 for the modulus of k-space differences, 2 for its square.
    """

    gan: AdversarialName = "lsgan"
    cycle_weight: float = 30.0
    sampling_weight: float = 0.0
    sampling_norm: FourierNorm = "backward"
    sampling_power: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in vars(self).items():
            if name.endswith("_weight") and not value >= 0:
                raise SettingError(f"{name} must not be negative, got {value}")


class CycleGAN(ImageTranslation):
    """Generators G (restores) and F (degrades), discriminators of full and of undersampled images.

    A step has one turn for the discriminators and one for the generators. What both turns need of the generators is
    computed once, and dropped after the last turn.
    """

    needs: ClassVar[Needs] = Needs.UNPAIRED
    options_type: ClassVar[type[Any]] = CycleGANOptions
    training_defaults: ClassVar[Mapping[str, Any]] = UNPAIRED_TRAINING

    def __init__(self, network: TranslatorOptions, options: CycleGANOptions) -> None:
        super().__init__(network, options)
        self.options = options
        self.adversarial = ADVERSARIAL[options.gan]
        self.generators, self.discriminators = self.make_networks(network)
        self._step: Step | None = None

    def make_networks(
        self, network: TranslatorOptions
    ) -> tuple[TwoGenerators | SwitchableGenerator, TwoDiscriminators | SwitchableDiscriminator]:
        """A generator and a discriminator for each direction and domain."""
        return TwoGenerators(network), TwoDiscriminators(network)

    def moved(self, turn: str) -> nn.Module:
        """The networks that a turn moves."""
        return self.discriminators if turn == "discriminator" else self.generators

    @property
    def turns(self) -> list[Turn]:
        """Discriminators, then generators."""
        return [
            Turn("discriminator", list(self.discriminators.parameters()), averaged=False, lookahead=True),
            Turn("generator", list(self.generators.parameters())),
        ]

    def loss(self, turn: str, batch: Translation) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a turn and its parts, for the log.

        ``d_full_real`` and so on are mean judgements of real and made images of both domains, ``sampling_residual`` is
        the relative k-space error of G(x) on the acquired samples.
        """
        step = self.step_of(batch)
        return self.discriminator_loss(step) if turn == "discriminator" else self.generator_loss(step)

    def step_of(self, batch: Translation) -> Step:
        """What the turns share, made by the first of them."""
        if self._step is None or self._step.batch is not batch:
            self._step = self.begin(batch)
        return self._step

    def begin(self, batch: Translation) -> Step:
        """Translate both images once, for all turns of a step."""
        restored = self.generators.full(batch.undersampled)
        degraded = self.generators.undersampled(batch.full, batch.noise)
        return Step(batch, restored, degraded)

    def discriminator_loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Real images of each domain against made ones."""
        judge, batch = self.discriminators, step.batch
        full_real, full_fake = judge.full(batch.full), judge.full(step.restored.detach())
        under_real, under_fake = judge.undersampled(batch.undersampled), judge.undersampled(step.degraded.detach())
        real, fake, _ = self.adversarial
        loss = real(full_real) + fake(full_fake) + real(under_real) + fake(under_fake)
        parts = {
            "d_full_real": full_real.mean(),
            "d_full_fake": full_fake.mean(),
            "d_under_real": under_real.mean(),
            "d_under_fake": under_fake.mean(),
            "d_spread": torch.cat([full_real, full_fake]).std(),
        }
        return loss, detached(parts)

    def generator_loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Adversarial, cycle and sampling loss."""
        options, judge, (x, y, mask, noise, coils, full_coils) = self.options, self.discriminators, step.batch
        fooled = self.adversarial.fool(judge.full(step.restored))
        fooled = fooled + self.adversarial.fool(judge.undersampled(step.degraded))
        back_to_x = self.generators.undersampled(step.restored, noise)
        cycle = cycle_loss(x, back_to_x, y, self.generators.full(step.degraded))
        loss = fooled + options.cycle_weight * cycle
        parts = {"adversarial": fooled, "cycle": cycle, "output_spread": step.restored.std()}
        if options.sampling_weight > 0:
            norm, power = options.sampling_norm, options.sampling_power
            sampling = sampling_loss(x, step.restored, mask, norm, power, coils)
            sampling = sampling + sampling_loss(step.degraded, y, mask, norm, power, full_coils)
            loss = loss + options.sampling_weight * sampling
            parts["sampling"] = sampling
        parts["sampling_residual"] = _sampling_residual(x, step.restored, mask, coils)
        return loss, detached(parts)

    def restore(self, image: Tensor) -> Tensor:
        """G(x)."""
        return self.generators.full(image)

    def updated(self, turn: str) -> None:
        """Keep the mixtures of batch-instance normalisation just moved within [0, 1]; end the step with its last turn.

        Mixtures of other networks are not touched, since gradients of later turns are computed with them.
        """
        clip_mixtures(self.moved(turn))
        if turn == self.turns[-1].name:
            self._step = None

    def failure(self, parts: Mapping[str, float]) -> str | None:
        """A discriminator that judges everything alike, or a generator whose images are one grey value."""
        if parts["d_spread"] < ALIKE:
            return f"the discriminator has collapsed: it judges everything alike (spread {parts['d_spread']:.2g})"
        if parts["output_spread"] < CONSTANT:
            return f"the generator's images are constant (spread {parts['output_spread']:.2g})"
        return None


@dataclass
class Step:
    """What the turns of one step share; gradients flow through it to the generators."""

    batch: Translation
    restored: Tensor
    degraded: Tensor
    artefact: Tensor | None = None

    @property
    def known_artefact(self) -> Tensor:
        """What the extractor has found, as a constant."""
        assert self.artefact is not None
        return self.artefact.detach()


def clip_mixtures(network: nn.Module) -> None:
    """Bring the mixtures of batch and instance normalisation back into [0, 1]."""
    for module in network.modules():
        if isinstance(module, BatchInstanceNorm):
            module.clip()


@torch.no_grad()
def _sampling_residual(x: Tensor, restored: Tensor, mask: Tensor, coils: Tensor | None) -> Tensor:
    """Relative to the image's own k-space, so that it can be compared between scalings; 0 where that is blank."""
    black = torch.full_like(x, -1.0 if x.shape[1] == 1 else 0.0)
    residual, whole = (sampling_loss(x, full, mask, coils=coils) for full in (restored, black))
    return torch.where(whole > 0, residual / whole, torch.zeros_like(whole))


def detached(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For the log."""
    return {name: part.detach() for name, part in parts.items()}
