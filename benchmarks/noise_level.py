"""How far the noise level found in a scan's own samples is from the truth.

Simulates scans of two people of each folder at known noise, sampled and filtered as real ones are, and prints the level
found over the true one, for one slice of each and their mean; then the same of one file's slices, pooled. A folder may
also hold the test scans of a comparison (RUN/test/4x-fold0), simulated at one SNR. Of these it prints the lower end of
the range that is found, and what lies half way from there to the level, too.

OMP_WAIT_POLICY=passive python benchmarks/noise_level.py FOLDER... [--snr 5 10 20 50 100 200] [--coils 1]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

import _measure
from sansref.data.readers import open_scan_file
from sansref.data.scan_store import PreparedScans
from sansref.data.simulate import FOREGROUND, Simulation, simulate
from sansref.data.slices import Slices
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop, distance
from sansref.kspace.masks.laws import draw_mask
from sansref.kspace.noise import estimate_noise, pooled_levels
from sansref.randomness import seeded
from sansref.scan import ScanMeta

SIDE = 192
PEOPLE = 2
SLICES = (0.35, 0.45, 0.55, 0.65)
"""Places of the pooled slices in the volume."""

Sampled = tuple[str, Tensor, Tensor, float]


def images(file: Path) -> list[Tensor]:
    """Slices, the central k-space of each."""
    reader = open_scan_file(file, Slices().reader_options)
    slices = reader.describe(file).slices
    wanted = [int(place * slices) for place in (0.5, *SLICES)]
    found = {item.meta.slice: item.image.float() for item in reader.read(file, wanted)}
    kspace = [fft2c(found[index]) for index in wanted]
    return [ifft2c(center_crop(one, (min(SIDE, one.shape[0]), min(SIDE, one.shape[1])))).abs() for one in kspace]


def acquisitions(image: Tensor, snr: float, coils: int, seed: int) -> Iterator[Sampled]:
    """Name, k-space, mask and true level of one slice acquired in every way."""
    scan = simulate(image, Simulation(snr=snr, coils=coils), seeded("scan", seed), ScanMeta("a", "b"))
    sigma = float(image[image > FOREGROUND * image.max()].mean() / snr)
    height, width = image.shape
    yield "full", scan.kspace, scan.mask, sigma
    for law, acceleration in (("variable_density", 4), ("random_columns", 4)):
        mask = draw_mask(law, (height, width), acceleration, seeded("mask")).array
        yield f"{law.replace('_', ' ')}, {acceleration}x", scan.kspace * mask, mask, sigma
    columns = torch.zeros(height, width, dtype=torch.bool)
    columns[:, width // 8 : -(width // 8)] = True
    yield "full, a quarter padded", scan.kspace * columns, scan.mask, sigma
    yield "full, ellipse of a filter", scan.kspace * (distance((height, width)) < 120), scan.mask, sigma
    window = torch.hamming_window(height, periodic=False)[:, None] * torch.hamming_window(width, periodic=False)
    yield "full, Hamming filter", scan.kspace * window, scan.mask, sigma * float(window.square().mean().sqrt())


def prepared(folder: Path, snr: float) -> str:
    """A table of the test scans of a comparison, averaged: lower end, half way and level over the true level."""
    ratios = []
    for scan in PreparedScans(folder):
        assert scan.reference is not None
        full = scan.reference.abs()
        truth = float(full[full > FOREGROUND * full.max()].mean()) / snr
        found = estimate_noise(scan.kspace, scan.mask)
        ratios.append([float(level.mean()) / truth for level in (found.low, found.middle, found.level)])
    row = [f"{mean(column):.2f}" for column in zip(*ratios, strict=True)]
    return _measure.table(["scans", "lower end", "half way", "level"], [[str(folder), *row]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--snr", type=float, nargs="+", default=[5, 10, 20, 50, 100, 200])
    parser.add_argument("--coils", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for folder in options.folders:
        if (folder / "scans.json").exists():
            print(prepared(folder, options.snr[0]), end="\n\n")
            continue
        people = [images(file) for file in sorted(folder.glob("*.nii.gz"))[:PEOPLE]]
        ratios: dict[str, dict[float, list[float]]] = {}
        sure: dict[str, dict[float, bool]] = {}
        for snr in options.snr:
            for seed, (middle, *others) in enumerate(people):
                for name, kspace, mask, truth in acquisitions(middle, snr, options.coils, seed):
                    found = estimate_noise(kspace, mask)
                    ratios.setdefault(name, {}).setdefault(snr, []).append(float(found.level.mean()) / truth)
                    sure.setdefault(name, {}).setdefault(snr, True)
                    sure[name][snr] &= found.sure
                # One receiver for all slices, whatever their signal: the noise is that of the first.
                noise = float(others[0][others[0] > FOREGROUND * others[0].max()].mean()) / snr
                alike = [float(one[one > FOREGROUND * one.max()].mean()) / noise for one in others]
                sampled = [
                    [*acquisitions(one, own, options.coils, seed)][1] for one, own in zip(others, alike, strict=True)
                ]
                levels = pooled_levels([estimate_noise(one[1], one[2]) for one in sampled], [1.0] * len(sampled))
                name = f"{sampled[0][0]}, {len(sampled)} slices pooled"
                ratios.setdefault(name, {}).setdefault(snr, []).append(float(levels[0].mean()) / noise)
        rows = []
        for name, of in ratios.items():
            known = sure.get(name, {})
            rows.append([name, *(f"{mean(of[snr]):.2f}{'' if known.get(snr, True) else '?'}" for snr in options.snr)])
        print(f"{folder.name}, {options.coils} coil(s): the level found over the true one; ?: not sure, it says\n")
        print(_measure.table(["sampling", *(f"SNR {snr:g}" for snr in options.snr)], rows), end="\n\n")


if __name__ == "__main__":
    main()
