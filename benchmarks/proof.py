"""How near SURE comes to the truth: runs, non-local means and total variation on simulated scans of test subjects.

Prints, for each, the mean squared error on acquired samples over the energy of the noise: as it is, as SURE estimates
it from the noisy scan alone, and as SURE would if it were told the level; with the mean and the largest difference of
the latter two from the truth over slices.

OMP_WAIT_POLICY=passive python benchmarks/proof.py FOLDER RUN... [--slices 3]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import torch

import _measure
from sansref.data.readers import scan_files
from sansref.kspace.noise import noise_of
from sansref.methods.classical.non_local_means import non_local_means
from sansref.methods.classical.total_variation import total_variation
from sansref.metrics.sure import sure
from sansref.randomness import seeded
from sansref.training.run import RunDirectory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--slices", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for path in options.runs:
        run = RunDirectory(path)
        recipe, test = run.config().preparation, run.subjects()["test"]
        files = [info for info in scan_files(options.data, recipe.slices.reader_options).files if info.subject in test]
        methods = {f"{path.parent.name} {path.name}": run.load().eval().reconstruct, "non-local means": non_local_means}
        methods |= {
            f"total variation {strength}": lambda one, s=strength: total_variation(one, s) for strength in (0.003, 0.03)
        }
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in methods}
        for info in files:
            chosen = [int((place + 1) / (options.slices + 1) * info.slices) for place in range(options.slices)]
            for scan in recipe.scans(info, chosen):
                given = scan.batch()
                clean = given.physics.transform(scan.reference[None])
                noise = (given.kspace - clean) * scan.mask
                for name, reconstruct in methods.items():
                    proof = sure(reconstruct, given, noise_of(given), seeded("proof"))
                    with torch.no_grad():
                        error = (given.physics.transform(reconstruct(given)) - clean) * scan.mask
                    truth = float(error.abs().square().sum() / noise.abs().square().sum())
                    level = (noise.abs().square().sum() / (2 * scan.mask.sum())).sqrt()
                    told = sure(reconstruct, given, level * scan.mask[None, None], seeded("proof"))
                    found[name].append((truth, proof.risk, told.risk, proof.kept, proof.lost))
        for name, values in found.items():
            means = [f"{fmean(column):.3f}" for column in zip(*values, strict=True)]
            gaps = [[abs(values_of[place] - values_of[0]) for values_of in values] for place in (1, 2)]
            off = [f"{fmean(gap):.3f}, {max(gap):.3f}" for gap in gaps]
            rows.append([f"{recipe.sampling.acceleration:g}x", name, *means, *off])
    heads = ["sampling", "method", "truth", "SURE", "SURE, level told", "kept", "lost", "off by", "off by, level told"]
    print(_measure.table(heads, rows))


if __name__ == "__main__":
    main()
