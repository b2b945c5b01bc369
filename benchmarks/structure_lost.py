"""How often a page warns of structure in what denoising took away: where none is lost, and where a spot is.

A filter that passes all of a band-limited object loses nothing but noise: each warning is a false alarm. Then a disc of
a radius of 3 pixels is removed, of a contrast given in standard deviations of the noise in a pixel.

OMP_WAIT_POLICY=passive python benchmarks/structure_lost.py
"""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor

import _measure
from sansref.data.simulate import example_image
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop, distance
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import noise_of, white_noise
from sansref.metrics.sure import VISIBLE, sure
from sansref.randomness import seeded

SIDE, SIGMA, PASSED = 96, 0.05, 60.0
"""Pixels; noise, over the brightest pixel; distance from DC, on a grid of 256, up to which all is passed."""

TRIALS = 100


def main() -> None:
    torch.set_num_threads(1)
    far = distance((SIDE, SIDE))
    inside = far < PASSED
    window = torch.where(inside, 1.0, torch.exp(-(((far - PASSED) / 20) ** 2)))
    image = ifft2c(center_crop(fft2c(example_image()), (SIDE, SIDE))).abs()
    clean = fft2c((image / image.max()).to(torch.complex64))[None] * inside
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    disc = ((rows - 40) ** 2 + (columns - 52) ** 2 <= 9).to(torch.complex64)
    spot = SIGMA * fft2c(disc)[None] * inside

    def strongest(contrast: float, level: float | None, trial: int) -> float:
        noisy = clean + contrast * spot
        noisy = noisy + white_noise(noisy, SIGMA, seeded("noise", trial))
        given = Measurement(noisy[None], torch.ones(1, SIDE, SIDE, dtype=torch.bool))
        sigma = noise_of(given) if level is None else torch.full_like(given.kspace.real, level * SIGMA)

        def remove(one: Measurement) -> Tensor:
            return one.physics.adjoint(window * (one.kspace - contrast * spot))

        return float(sure(remove, given, sigma, seeded("probe", trial), 2).seen.max())

    table = []
    cases = [("nothing", 0.0, level) for level in (None, 1.0, 0.95, 1.05)]
    cases += [(f"a spot of contrast {contrast}", contrast, None) for contrast in (1, 2, 3, 4)]
    for lost, contrast, level in cases:
        found = [strongest(contrast, level, trial) for trial in range(TRIALS)]
        told = "found" if level is None else f"{level:g} of the true one"
        warned = sum(one >= VISIBLE for one in found)
        table.append([lost, told, f"{median(found):.1f}", f"{warned} of {TRIALS}"])
    print(_measure.table(["lost", "level of the noise", "strongest place, median", "warned"], table))


if __name__ == "__main__":
    main()
