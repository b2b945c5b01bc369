"""Methods that train one network to meet k-space samples: the common part of supervised, SSDU and IDR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sansref.kspace.encoding import EncodingOperator
from sansref.methods.base import Method, Turn
from sansref.methods.batch import Example, Measured
from sansref.networks.build import Reconstructor

LossName = Literal["mse", "mixed"]


class UnrolledMethod(Method):
    """One network, one turn, loss = data term + gamma x symmetry term.

    Parameters
    ----------
    network
        Maps measured samples to an image.
    gamma
        Weight of ISTA-Net's symmetry constraint, the sum over phases of mean |F~(F(d)) - d|^2; L_cons with
        gamma = 0.01 in arXiv 2211.13440.
    loss
        Data term: mse (:func:`weighted_mse`) or mixed (:func:`mixed_l1_l2`).
    impose
        Put the samples that are given into the reconstruction. What the network returns there is then arbitrary, and
        examples give it no weight: :meth:`unless_imposed`.
    """

    def __init__(self, network: Reconstructor, gamma: float, loss: LossName, impose: bool = False) -> None:
        super().__init__()
        self.impose = impose
        self.network = network
        self.gamma = gamma
        self.data_loss = _LOSSES[loss]

    @property
    def turns(self) -> list[Turn]:
        """One update that moves the whole network."""
        return [Turn("network", list(self.network.parameters()))]

    def loss(self, turn: str, batch: Example) -> tuple[Tensor, dict[str, Tensor]]:
        """Data term on the weighted samples plus gamma times the symmetry term."""
        image, residuals = self.network(*batch.given, symmetry=self.gamma > 0)
        predicted = EncodingOperator(batch.given.mask, batch.given.maps).transform(image)
        data = self.data_loss(predicted, batch.target, batch.weight)
        symmetry = symmetry_loss(residuals) if residuals else torch.zeros_like(data)
        return data + self.gamma * symmetry, {"data": data.detach(), "symmetry": symmetry.detach()}

    def unless_imposed(self, weight: Tensor, given: Tensor) -> Tensor:
        """Weights (height, width) without those of the samples that are given, bool, if these are imposed."""
        return weight.masked_fill(given, 0.0) if self.impose else weight

    def reconstruct(self, given: Measured) -> Tensor:
        """Reconstruct complex images (batch, height, width) from all the samples given."""
        image = self.network(*given, symmetry=False)[0]
        return EncodingOperator(given.mask, given.maps).impose_on(image, given.kspace) if self.impose else image


def symmetry_loss(residuals: list[Tensor]) -> Tensor:
    """Sum over phases of the mean squared symmetry residual (Zhang and Ghanem, CVPR 2018, eq. (13))."""
    return torch.stack([residual.square().mean() for residual in residuals]).sum()


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
