"""Full low-field scans denoised by a run: SURE's noise kept and structure lost of every slice, and pictures.

Prints the means over each file's slices of the run and of non-local means, and draws the middle slice of the last
file.

python benchmarks/low_field_denoised.py RUN FILE... --out low-field.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import torch

import _measure
from noisy_pair import draw
from sansref.commands.reconstruct import whole_files, with_file_noise
from sansref.kspace.noise import noise_of
from sansref.methods.classical.non_local_means import non_local_means
from sansref.metrics.sure import sure
from sansref.randomness import seeded
from sansref.results.scorer import zero_filled
from sansref.training.run import RunDirectory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("low-field.png"))
    options = parser.parse_args()
    run = RunDirectory(options.run)
    method, recipe = run.load(), whole_files(run.config().preparation)
    methods = {"non-local means": non_local_means, "the run": method.reconstruct}
    rows = []
    for file in options.files:
        proofs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in methods}
        info = recipe.describe(file)
        for scan in with_file_noise(recipe, info):
            given = scan.batch()
            for name, reconstruct in methods.items():
                found = sure(reconstruct, given, noise_of(given), seeded("proof"))
                proofs[name].append((found.risk, found.kept, found.lost))
            if scan.meta.slice == info.slices // 2:
                with torch.inference_mode():
                    shown = {"as measured": zero_filled(given)[0]}
                    shown |= {name: reconstruct(given)[0] for name, reconstruct in methods.items()}
        for name, values in proofs.items():
            name_of_file = f"{file.parent.name} {file.stem}"
            rows.append([name_of_file, name, *(f"{fmean(column):.2f}" for column in zip(*values, strict=True))])
    print(_measure.table(["file", "method", "risk", "noise kept", "structure lost"], rows))
    images = {name: image.abs() for name, image in shown.items()}
    draw(images, options.out, float(images["as measured"].quantile(0.995)))


if __name__ == "__main__":
    main()
