"""Measurements with a known truth, pictures for translations, and losses by hand."""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np
import pytest
import torch
from skimage.data import shepp_logan_phantom
from skimage.transform import resize
from torch import Tensor

from helpers.scans import noise
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.grid import Shape
from sansref.kspace.masks.laws import draw_mask
from sansref.kspace.measurement import Measurement
from sansref.methods import ImagePair, Method
from sansref.randomness import seeded


def phantom(shape: Shape) -> Tensor:
    """The Shepp-Logan phantom with a smooth phase."""
    magnitude = torch.from_numpy(resize(shepp_logan_phantom(), shape, anti_aliasing=True))
    rows, columns = (torch.arange(side, dtype=torch.float64) / side for side in shape)
    return torch.polar(magnitude, 2 * rows[:, None] + (2 * pi * columns).sin())


def scan_of(image: Tensor, coils: int = 1, law: str = "variable_density", sigma: float = 0.01) -> Measurement:
    """3x undersampled, with noise."""
    shape = (image.shape[0], image.shape[1])
    mask = draw_mask(law, shape, 3, seeded(law)).array
    maps = birdcage_maps(shape, coils).to(image.dtype)[None] if coils > 1 else None
    kspace = Cartesian(mask[None], maps).transform(image[None])
    return Measurement((kspace + sigma * noise(*kspace.shape).to(image.dtype)) * mask, mask[None], maps)


def zero_filled(given: Measurement) -> Tensor:
    return Cartesian(given.mask, given.maps).adjoint(given.kspace)


def psnr(image: Tensor, truth: Tensor) -> float:
    error = (image.abs() - truth.abs()).square().mean()
    return float(10 * torch.log10(truth.abs().max() ** 2 / error))


def distance(image: Tensor, other: Tensor) -> float:
    return float((image - other).norm() / other.norm())


def pictures(size: int = 1, seed: int = 0, channels: int = 1) -> ImagePair:
    generator = seeded("pictures", seed)
    x, y = 2 * torch.rand(2, size, channels, 80, 80, generator=generator) - 1
    mask = torch.rand(size, 80, 80, generator=generator) < 0.3
    return ImagePair(x, y, mask, torch.randn(size, 64, generator=generator))


def loss_of(method: Method, turn: str, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a turn and its parts, with all networks as they are."""
    return next((update.loss, dict(update.parts)) for update in method.step(batch) if update.turn.name == turn)


def play(method: Method, batch: Any, turns: list[str] | None = None) -> dict[str, float]:
    """One training step with optimisers of its own, which move some turns or all; the losses of those."""
    losses = {}
    for turn, loss, _ in method.step(batch):
        if turns is None or turn.name in turns:
            optimizer = torch.optim.RAdam(turn.parameters, lr=0.01)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[turn.name] = float(loss.detach())
    return losses


def l1(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().mean())


def lsgan(judgement: Tensor, wanted: int) -> float:
    return float((judgement - wanted).detach().square().mean())


def kspace_error(image: Tensor, other: Tensor, mask: Tensor, norm: Any = "backward", power: int = 1) -> float:
    """Eq. (1) for one pair, over all scans of a batch, by NumPy; two channels are one complex image."""
    difference = (image - other).detach().double().numpy()
    plane = difference[:, 0] + 1j * difference[:, 1] if difference.shape[1] == 2 else difference[:, 0]
    spectrum = np.fft.fftshift(np.fft.fft2(plane, norm=norm), axes=(1, 2)) * mask.numpy()
    return float((np.abs(spectrum) ** power).mean())


@pytest.fixture(scope="session")
def make() -> Any:
    """The makers above, for the tests (test modules cannot import each other)."""

    class Make:
        noise = staticmethod(noise)
        phantom = staticmethod(phantom)
        scan = staticmethod(scan_of)
        zero_filled = staticmethod(zero_filled)
        psnr = staticmethod(psnr)
        distance = staticmethod(distance)
        pictures = staticmethod(pictures)
        loss = staticmethod(loss_of)
        play = staticmethod(play)
        l1 = staticmethod(l1)
        lsgan = staticmethod(lsgan)
        kspace_error = staticmethod(kspace_error)

    return Make
