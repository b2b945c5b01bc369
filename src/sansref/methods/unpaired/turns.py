"""The turns of unpaired learning: what discriminators, generators and extractor are taught in one step.

``x`` is an undersampled image and ``y`` a full one of somebody else, both in [-1, 1], (batch, channels, height, width);
``G`` restores, ``F`` degrades, ``H`` extracts the artefact. Every function returns a loss and its parts, for the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sansref.methods.base import Turn
from sansref.methods.examples import ImagePair
from sansref.methods.unpaired.losses import (
    AdversarialLoss,
    bypass_loss,
    cycle_loss,
    identity_loss,
    noise_consistency_loss,
    pseudo_loss,
    sampling_loss,
)
from sansref.networks.norms import BatchInstanceNorm
from sansref.networks.translators import SwitchableDiscriminator, SwitchableGenerator, TwoDiscriminators, TwoGenerators

if TYPE_CHECKING:
    from sansref.methods.unpaired.cyclegan import CycleGANOptions

Generators = TwoGenerators | SwitchableGenerator
Discriminators = TwoDiscriminators | SwitchableDiscriminator
Taught = tuple[Tensor, dict[str, Tensor]]

UNPAIRED_TRAINING: Mapping[str, Any] = {
    "training.epochs": 50,
    "training.batch_size": 1,
    "training.learning_rate": 1e-4,
    "training.optimizer": "radam",
    "training.schedule": "linear",
    "training.keep": "last",
    "training.average_from": 0.6,
}
"""RAdam, linear decay, weights averaged over the last 40 % of the steps: ISCL's code and the switchable paper."""

ALIKE = 1e-4
"""Judgements of a discriminator that has not collapsed differ by more than this from pixel to pixel."""

CONSTANT = 1e-3
"""Pixels of an image in [-1, 1] differ by more than this."""


def adversarial_turns(discriminators: Discriminators, generators: Generators) -> list[Turn]:
    """The turns that all adversarial methods begin with: discriminators, then generators."""
    return [
        Turn("discriminator", list(discriminators.parameters()), averaged=False, lookahead=True),
        Turn("generator", list(generators.parameters())),
    ]


def discriminator_loss(
    judge: Discriminators, adversarial: AdversarialLoss, batch: ImagePair, restored: Tensor, degraded: Tensor
) -> Taught:
    """Real images of each domain against made ones, ``restored`` G(x) and ``degraded`` F(y).

    ``d_full_real`` and so on are mean judgements of real and made images of both domains.
    """
    full_real, full_fake = judge.full(batch.full), judge.full(restored.detach())
    under_real, under_fake = judge.undersampled(batch.undersampled), judge.undersampled(degraded.detach())
    real, fake, _ = adversarial
    loss = real(full_real) + fake(full_fake) + real(under_real) + fake(under_fake)
    return loss, detached(
        d_full_real=full_real.mean(),
        d_full_fake=full_fake.mean(),
        d_under_real=under_real.mean(),
        d_under_fake=under_fake.mean(),
        d_spread=torch.cat([full_real, full_fake]).std(),
    )


def boosting_loss(judge: Discriminators, adversarial: AdversarialLoss, batch: ImagePair, artefact: Tensor) -> Tensor:
    """What the extractor makes, x - H(x) and y + H(x), is a fake too; ``artefact`` is H(x), a constant."""
    boosting = adversarial.fake(judge.full(batch.undersampled - artefact))
    return boosting + adversarial.fake(judge.undersampled(batch.full + artefact))


def generator_loss(
    generators: Generators,
    judge: Discriminators,
    adversarial: AdversarialLoss,
    weights: CycleGANOptions,
    batch: ImagePair,
    restored: Tensor,
    degraded: Tensor,
) -> Taught:
    """Adversarial, cycle, identity and sampling loss.

    ``sampling_residual`` is the relative k-space error of G(x) on the acquired samples.
    """
    x, y, mask, noise, coils, full_coils = batch
    fooled = adversarial.fool(judge.full(restored))
    fooled = fooled + adversarial.fool(judge.undersampled(degraded))
    back_to_x = generators.undersampled(restored, noise)
    cycle = cycle_loss(x, back_to_x, y, generators.full(degraded))
    loss = fooled + weights.cycle_weight * cycle
    parts = {"adversarial": fooled, "cycle": cycle, "output_spread": restored.std()}
    if weights.identity_weight > 0:
        identity = identity_loss(x, generators.undersampled(x, noise), y, generators.full(y))
        loss = loss + weights.identity_weight * identity
        parts["identity"] = identity
    if weights.sampling_weight > 0:
        norm, power = weights.sampling_norm, weights.sampling_power
        sampling = sampling_loss(x, restored, mask, norm, power, coils)
        sampling = sampling + sampling_loss(degraded, y, mask, norm, power, full_coils)
        loss = loss + weights.sampling_weight * sampling
        parts["sampling"] = sampling
    parts["sampling_residual"] = _sampling_residual(x, restored, mask, coils)
    return loss, detached(**parts)


def bypass(generators: Generators, batch: ImagePair, restored: Tensor, artefact: Tensor) -> Taught:
    """The generator agrees with the extractor; ``halves`` is their disagreement |G(x) - (x - H(x))|."""
    x, y = batch.undersampled, batch.full
    loss = bypass_loss(restored, x, artefact, y, generators.full(y + artefact))
    return loss, detached(bypass=loss, halves=(restored.detach() - (x - artefact)).abs().mean())


def extractor_loss(generators: Generators, extractor: nn.Module, batch: ImagePair, artefact: Tensor) -> Taught:
    """Pseudo loss and noise consistency, with the generators as they are after their own turn."""
    x, y = batch.undersampled, batch.full
    with torch.no_grad():
        restored = generators.full(x)
        degraded = generators.undersampled(y, batch.noise)
    pseudo = pseudo_loss(artefact, x, restored)
    noise = noise_consistency_loss(extractor(degraded), degraded, y)
    return pseudo + noise, detached(pseudo=pseudo, noise=noise)


def clip_mixtures(network: nn.Module) -> None:
    """Bring the mixtures of batch and instance normalisation back into [0, 1].

    Only those that a turn has just moved: gradients of later turns are computed with the others.
    """
    for module in network.modules():
        if isinstance(module, BatchInstanceNorm):
            module.clip()


def adversarial_failure(parts: Mapping[str, float]) -> str | None:
    """A discriminator that judges everything alike, or a generator whose images are one grey value."""
    if parts["d_spread"] < ALIKE:
        return f"the discriminator has collapsed: it judges everything alike (spread {parts['d_spread']:.2g})"
    if parts["output_spread"] < CONSTANT:
        return f"the generator's images are constant (spread {parts['output_spread']:.2g})"
    return None


def detached(**parts: Tensor) -> dict[str, Tensor]:
    """Parts of a loss, for the log."""
    return {name: part.detach() for name, part in parts.items()}


@torch.no_grad()
def _sampling_residual(x: Tensor, restored: Tensor, mask: Tensor, coils: Tensor | None) -> Tensor:
    """Relative to the image's own k-space, so that it can be compared between scalings; 0 where that is blank."""
    black = torch.full_like(x, -1.0 if x.shape[1] == 1 else 0.0)
    residual, whole = (sampling_loss(x, full, mask, coils=coils) for full in (restored, black))
    return torch.where(whole > 0, residual / whole, torch.zeros_like(whole))
