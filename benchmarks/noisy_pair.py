"""A real noisy scan, denoised by what was learned from it alone, against a cleaner scan of the same slice.

The clean scan has other coils: its image is taken times the smooth function (a complex polynomial over the field of
view) that brings it closest to the noisy one in the head. Prints the PSNR in the head of the scan as measured, of
non-local means and of the run, with SURE's noise kept and structure lost, and draws all of them.

python benchmarks/noisy_pair.py RUN brain_flash_128x128_2ch.dat brain_flash_128x128_16ch.dat --out pair.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from sansref.commands.denoised import denoised
from sansref.commands.reconstruct import whole_files
from sansref.kspace.noise import estimate_noise, noise_of
from sansref.methods.classical.non_local_means import non_local_means
from sansref.metrics.quality import psnr
from sansref.metrics.sure import sure
from sansref.randomness import seeded
from sansref.results.scorer import zero_filled
from sansref.training.run import RunDirectory

DEGREE = 6
"""Of the polynomial along both axes together."""

HEAD = 0.1
"""Pixels above this part of the clean image's maximum."""


def seen_alike(clean: Tensor, noisy: Tensor, head: Tensor) -> Tensor:
    """The clean image (height, width), times the polynomial that brings it closest to the noisy one in the head."""
    rows, columns = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in clean.shape)
    powers = [(i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)]
    smooth = torch.stack([rows[:, None] ** i * columns**j for i, j in powers], -1).to(torch.complex128)
    basis = smooth * clean.to(torch.complex128)[..., None]
    fitted = torch.linalg.lstsq(basis[head], noisy.to(torch.complex128)[head][:, None]).solution
    return (basis @ fitted)[..., 0].to(clean.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("noisy", type=Path)
    parser.add_argument("clean", type=Path)
    parser.add_argument("--out", type=Path, default=Path("pair.png"))
    options = parser.parse_args()
    run = RunDirectory(options.run)
    method, recipe = run.load(), whole_files(run.config().preparation)
    (scan,), (other,) = recipe.scans(options.noisy), recipe.scans(options.clean)
    given = scan.batch()
    levels = [float(estimate_noise(one.kspace, one.mask).level.mean()) for one in (scan, other)]
    print(f"noise, over the brightest pixel: {levels[0]:.4f}, of the clean scan {levels[1]:.4f}")
    found = denoised(method.reconstruct, scan)
    clean = other.batch().physics.adjoint(other.kspace[None])[0]
    head = clean.abs() > HEAD * clean.abs().max()
    truth = seen_alike(clean, found.hard, head).abs()
    peak = float(truth[head].max())
    images = {"as measured": found.hard, "non-local means": non_local_means(given)[0], "learned": found.image}
    for name, image in images.items():
        score = float(psnr(image.abs(), truth, peak, head))
        print(f"{name:16s} PSNR in the head {score:.2f} dB")
    methods = {"as measured": zero_filled, "non-local means": non_local_means, "learned": method.reconstruct}
    for name, reconstruct in methods.items():
        proof = sure(reconstruct, given, noise_of(given), seeded("proof"))
        print(f"{name:16s} risk {proof.risk:.3f} = noise kept {proof.kept:.3f} + structure lost {proof.lost:.3f}")
    draw({name: image.abs() for name, image in images.items()} | {"16 coils, as seen": truth}, options.out, peak)


def draw(images: dict[str, Tensor], path: Path, peak: float) -> None:
    """Images, and five times what each takes from the measured one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(images), figsize=(3 * len(images), 6.2), layout="constrained")
    measured = next(iter(images.values()))
    for (above, below), (name, image) in zip(axes.T, images.items(), strict=True):
        above.imshow(image, cmap="gray", vmin=0, vmax=peak)
        above.set_title(name)
        below.imshow(5 * (measured - image), cmap="gray", vmin=-peak, vmax=peak)
        for one in (above, below):
            one.set_axis_off()
    axes[1, 0].set_title("5 x (as measured - image)")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
