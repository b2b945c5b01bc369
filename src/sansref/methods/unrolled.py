"""Methods that train one network to meet k-space samples: the common part of supervised, SSDU and IDR."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import torch
from torch import Tensor

from sansref.kspace.measurement import Measurement
from sansref.methods.base import Method, Turn, Update
from sansref.methods.examples import KspaceExample
from sansref.networks.reconstructor import Network

LossName = Literal["mse", "mixed"]
Consistency = Literal["none", "hard"]
Options = TypeVar("Options")


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
        and examples give it no weight: :meth:`unless_consistent`.
    """

    def __init__(self, network: Network, loss: LossName, data_consistency: Consistency = "none") -> None:
        super().__init__()
        self.data_consistency = data_consistency
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
        image = self.network(given)
        return given.data_consistent(image) if self.data_consistency == "hard" else image

    def refine(self, given: Measurement) -> Tensor:
        """The k-space of the reconstruction, with the acquired samples put back."""
        return given.grid.impose(given.grid.transform(self.reconstruct(given)), given.kspace)


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
