"""Noise, and scans of noise and of simulated heads, that are the same in every test."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sansref.data.simulate import Sampling, Simulation, simulate
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.fourier import ifft2c
from sansref.kspace.grid import Shape
from sansref.kspace.measurement import Measurement
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> Tensor:
    """White noise of standard deviation 1."""
    return torch.randn(shape, dtype=dtype, generator=seeded(seed))


def noise_scan(mask: Tensor, coils: int = 1, maps: Tensor | None = None) -> Scan:
    """Noise where a mask, bool (height, width), acquires."""
    kspace = torch.randn(coils, *mask.shape, dtype=torch.complex64, generator=seeded("kspace"))
    return Scan(kspace * mask, mask, ScanMeta("s", "f"), maps)


def full_noise_scan(size: Shape, coils: int = 1, **meta: Any) -> Scan:
    """Noise everywhere; of one coil, with the image as reference."""
    kspace = noise(coils, *size, dtype=torch.complex64)
    reference = ifft2c(kspace)[0] if coils == 1 else None
    return Scan(kspace, torch.ones(size, dtype=torch.bool), ScanMeta("s", "f.h5", **meta), reference=reference)


def full_head(seed: int, coils: int = 1, size: Shape = (80, 80), brightness: float = 1.0) -> Scan:
    """A simulated full scan of somebody."""
    image = brightness * torch.rand(size, generator=seeded("image", seed)) ** 3
    return simulate(image, Simulation(coils=coils), seeded("scan", seed), ScanMeta(f"s{seed}", f"head{seed}.nii"))


def undersampled_head(seed: int, coils: int = 1, size: Shape = (80, 80), brightness: float = 1.0) -> Scan:
    """The same, 3x undersampled by the mask of all of them, without reference."""
    full = full_head(seed, coils, size, brightness)
    return Sampling(acceleration=3, center=0.2).undersample(full, seeded("mask")).without_reference()


def two_even_images(side: int) -> tuple[Measurement, Tensor]:
    """A full scan through two sets of maps, and its image (1, 2 * side, side): both parts even, one below the other."""
    weights = torch.linalg.qr(torch.randn(4, 2, dtype=torch.complex64, generator=seeded()))[0]
    maps = weights[None, :, :, None, None].expand(1, 4, 2, side, side).flatten(2, 3)
    image = torch.cat([torch.full((side, side), 1.0), torch.full((side, side), 0.2)]).to(torch.complex64)[None]
    mask = torch.ones(1, side, side, dtype=torch.bool)
    return Measurement(Cartesian(mask, maps).forward(image), mask, maps), image
