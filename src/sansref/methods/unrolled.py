"""Methods that train one network to meet k-space samples: the common part of supervised, SSDU and IDR."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.measurement import VIEWS, Measurement, mean_over_views
from sansref.kspace.noise import noise_of
from sansref.methods.base import Method, Turn, Update
from sansref.methods.examples import KspaceExample
from sansref.methods.recorrupted import recorrupted, softly_consistent, within_reach
from sansref.networks.reconstructor import Network
from sansref.randomness import seeded
from sansref.scan import Scan

LossName = Literal["mse", "mixed"]
Consistency = Literal["none", "hard", "soft"]
Options = TypeVar("Options")


@dataclass(frozen=True)
class UnrolledOptions:
    """What all of these methods can do.

    Attributes
    ----------
    views
        Average the image over so many views of the scan: 2 are the scan and its complex conjugate, 4 these and their
        mirror images, left and right, 8 these and theirs, up and down. Reconstruction takes as many times as long.
    """

    views: int = 1

    def __post_init__(self) -> None:
        if self.views not in (1, 2, 4, 8):
            raise SettingError(f"views must be 1, 2, 4 or 8, got {self.views}")


class UnrolledMethod(Method[Options, KspaceExample]):
    """One network, one turn, loss = data term + the network's penalty times its weight.

    Parameters
    ----------
    network
        Maps acquired samples to an image.
    loss
        Data term: mse (:func:`weighted_mse`) or mixed (:func:`mixed_l1_l2`).
    data_consistency
        hard puts the samples that are given into the reconstruction. What the network returns there is then arbitrary,
        and examples give it no weight: :meth:`unless_consistent`. soft mixes them with what the network returns
        (:func:`~sansref.methods.recorrupted.softly_consistent`).
    alpha
        Of a method that denoises, see :mod:`sansref.methods.recorrupted`; None for one that does not. hard would bring
        the noise back: soft takes its place.
    views
        Average the network's image over the first of the :data:`~sansref.kspace.measurement.VIEWS`.
    """

    def __init__(
        self,
        network: Network,
        loss: LossName,
        data_consistency: Consistency = "none",
        alpha: float | None = None,
        views: int = 1,
    ) -> None:
        super().__init__()
        self.views = VIEWS[:views]
        self.alpha, self.denoises = alpha, alpha is not None
        softened = alpha is not None and data_consistency == "hard"
        self.data_consistency: Consistency = "soft" if softened else data_consistency
        self.network = network
        self.data_loss = _LOSSES[loss]

    @property
    def turns(self) -> list[Turn]:
        """One update that moves the whole network."""
        return [Turn("network", list(self.network.parameters()))]

    def step(self, batch: KspaceExample) -> Iterator[Update]:
        """Lower the data term on the weighted samples plus the network's penalty times its weight."""
        weight = self.network.penalty_weight
        if weight > 0:
            image, penalty = self.network.with_penalty(batch.given)
        else:
            image, penalty = self.network(batch.given), torch.zeros((), device=batch.target.device)
        data = self.data_loss(batch.given.physics.transform(image), batch.target, batch.weight)
        parts = {"data": data.detach(), "symmetry": penalty.detach()}
        yield Update(self.turns[0], data + weight * penalty, parts)

    def unless_consistent(self, weight: Tensor, given: Tensor) -> Tensor:
        """Weights without those of the samples that are given, bool, if these go into the image as they are."""
        return weight.masked_fill(given, 0.0) if self.data_consistency == "hard" else weight

    def reconstruct(self, given: Measurement) -> Tensor:
        """Reconstruct complex images (batch, height, width) from all the samples given."""
        image = softly_consistent(self.predicted, given) if self.data_consistency == "soft" else self.predicted(given)
        if self.alpha is not None:
            image = within_reach(image, given)
        return given.data_consistent(image) if self.data_consistency == "hard" else image

    def predicted(self, given: Measurement) -> Tensor:
        """What the network makes of the samples given, complex (batch, height, width), in the mean over views."""
        return self.network(given) if len(self.views) == 1 else mean_over_views(self.network, given, self.views)

    def refine(self, given: Measurement) -> Tensor:
        """The k-space of the reconstruction, with the acquired samples put back where they are not denoised."""
        if self.alpha is not None:
            return given.grid.transform(self.predicted(given))
        return given.grid.impose(given.grid.transform(self.reconstruct(given)), given.kspace)

    def recorrupted_example(
        self, scan: Scan, chosen: Tensor, weight: Tensor, generator: torch.Generator
    ) -> KspaceExample:
        """What is learned from a noisy scan: the samples chosen for the input without noise, others as they are.

        Parameters
        ----------
        scan
            Undersampled, or full.
        chosen
            Acquired samples that the network is given, bool (height, width).
        weight
            Of the squared error of acquired samples that are not chosen, real (height, width).
        generator
            Source of the noise.
        """
        assert self.alpha is not None
        whole = scan.measurement
        noisy, target = recorrupted(scan.kspace, noise_of(scan.batch())[0], self.alpha, generator)
        given = replace(whole, kspace=noisy).restricted(chosen)
        weight = torch.where(chosen, 1.0, torch.where(scan.mask, weight, 0.0))
        return KspaceExample(given, torch.where(chosen, target, scan.kspace), weight)

    def validation_error(self, given: Measurement, measured: Tensor, held_out: Tensor, density: Tensor) -> Tensor:
        """The held-out error; of a method that denoises, what it learns to make small, in the same proportions.

        Its samples are given with the same additional noise each time, and the held-out ones stand for all that are not
        given. The target's noise is in it too: it tells which weights are better, and not how good they are.
        """
        if self.alpha is None:
            return super().validation_error(given, measured, held_out, density)
        sigma = noise_of(replace(given, kspace=measured, mask=given.mask | held_out)).cpu()
        noisy, target = recorrupted(given.kspace.cpu(), sigma, self.alpha, seeded("validation"))
        predicted = given.physics.transform(self.predicted(replace(given, kspace=noisy.to(measured.device))))
        shown = given.mask.unsqueeze(-3)
        target = torch.where(shown, target.to(measured.device), measured)
        seen = density * (1 - held_out.sum() / (held_out | given.mask).sum())
        others = held_out * (1 - seen) / density.clamp(min=1e-3)
        places = ((density > 0) & ~given.mask).sum((-2, -1), keepdim=True)
        others = others * places / others.sum((-2, -1), keepdim=True).clamp(min=1e-3)
        weight = torch.where(given.mask, 1.0, others).unsqueeze(-3)
        return (weight * (predicted - target).abs().square()).sum() / (weight * measured.abs().square()).sum()


def check_alpha(alpha: float) -> None:
    """Refuse, with a SettingError, noise that nothing could be learned from."""
    if not 0.01 <= alpha <= 100:
        raise SettingError(f"alpha must lie between 0.01 and 100, got {alpha:g}")


def weighted_mse(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error over real and imaginary parts of the whole grid, zeros included.

    The mean over the whole grid (rather than over the weighted samples) is that of the IDR line of work; in
    the orthonormal convention it equals the image's mean squared error where every weight is 1.
    """
    error = torch.view_as_real(predicted - target).square().sum(-1)
    return 0.5 * (weight.unsqueeze(-3) * error).mean()


def mixed_l1_l2(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """SSDU's loss: half the normalised l2 plus half the normalised l1 error (Yaman et al., MRM 2020).

    Norms run over coils, samples and real and imaginary parts of a slice; the mean over slices is returned.
    """
    root = weight.sqrt()[:, None, :, :, None]
    error = (root * torch.view_as_real(predicted - target)).flatten(1)
    truth = (root * torch.view_as_real(target)).flatten(1)
    l2 = error.norm(dim=1) / truth.norm(dim=1)
    l1 = error.abs().sum(1) / truth.abs().sum(1)
    return 0.5 * (l2 + l1).mean()


_LOSSES: dict[LossName, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"mse": weighted_mse, "mixed": mixed_l1_l2}
