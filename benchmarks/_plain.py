"""ISTA-Net+ and SSDU's loss as one would first write them in PyTorch, to measure what sansref's own way is worth.

The same mathematics and the same names of weights as :class:`sansref.networks.istanet.ISTANet`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sansref.methods.examples import KspaceExample

PLANE = (-2, -1)


def fft2c(image: Tensor) -> Tensor:
    shifted = torch.fft.fft2(torch.fft.ifftshift(image, PLANE), norm="ortho")
    return torch.fft.fftshift(shifted, PLANE)


def ifft2c(kspace: Tensor) -> Tensor:
    shifted = torch.fft.ifft2(torch.fft.ifftshift(kspace, PLANE), norm="ortho")
    return torch.fft.fftshift(shifted, PLANE)


def channels_of(image: Tensor) -> Tensor:
    return torch.stack([image.real, image.imag], dim=1)


def complex_of(channels: Tensor) -> Tensor:
    return torch.complex(channels[:, 0], channels[:, 1])


class PlainPhase(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor([0.5]))
        self.threshold = nn.Parameter(torch.tensor([0.01]))
        self.lift = nn.Conv2d(2, channels, 3, padding=1)
        self.forward1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.forward2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.backward1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.backward2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.project = nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, image: Tensor, zero_filled: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        normal = channels_of(ifft2c(mask * fft2c(complex_of(image))))
        image = image - self.step * (normal - zero_filled)
        features = self.lift(image)
        sparse = self.forward2(F.relu(self.forward1(features)))
        shrunk = torch.sign(sparse) * F.relu(torch.abs(sparse) - self.threshold)
        backward = self.backward2(F.relu(self.backward1(shrunk)))
        symmetry = self.backward2(F.relu(self.backward1(sparse))) - features
        return image + self.project(backward), symmetry


class PlainISTANet(nn.Module):
    def __init__(self, phases: int, channels: int) -> None:
        super().__init__()
        self.phases = nn.ModuleList(PlainPhase(channels) for _ in range(phases))

    def forward(self, kspace: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        zero_filled = channels_of(ifft2c(mask * kspace))
        image, residuals = zero_filled, []
        for phase in self.phases:
            image, residual = phase(image, zero_filled, mask)
            residuals.append(residual)
        return complex_of(image), residuals


def plain_loss(network: PlainISTANet, batch: KspaceExample, gamma: float) -> Tensor:
    """SSDU's normalised l1 and l2 of one coil, and the symmetry term."""
    image, residuals = network(batch.given.kspace[:, 0], batch.given.mask)
    root = batch.weight.sqrt()
    error = torch.view_as_real(root * (fft2c(image) - batch.target[:, 0])).flatten(1)
    truth = torch.view_as_real(root * batch.target[:, 0]).flatten(1)
    l2 = error.norm(dim=1) / truth.norm(dim=1)
    l1 = error.abs().sum(1) / truth.abs().sum(1)
    symmetry = sum(torch.mean(residual**2) for residual in residuals)
    return (0.5 * (l2 + l1)).mean() + gamma * symmetry
