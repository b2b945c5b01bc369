"""A whole IDR run against SSDU on the same scans: quality over time, and what the refinement costs.

Both have the same network, masks, splits and number of steps; the score is the reference-free error on held-out samples
of other subjects (lower is better), of the best weights so far. Seconds are those of the run's own log: epochs with
their validation, and refinement; the reading of files, which both do alike, is left out. The command continues
a killed run.

OMP_WAIT_POLICY=passive python benchmarks/idr_run.py --data FOLDER --out FOLDER [--stages 8 --epochs 5 --seed 0]
"""

from __future__ import annotations

import argparse
import re
from itertools import accumulate
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import ScalarFormatter

import _measure
from sansref.training.config import RunConfig
from sansref.training.history import read_history
from sansref.training.train import train

SHARED = {
    **{"slices": 12, "crop": [192, 192], "matrix": [96, 96], "snr": 50.0, "acceleration": 4.0, "mask_per": "scan"},
    **{"validation": 0.1, "test": 0.3, "threads": 1, "accelerator": "cpu", "patience": 1000},
}
NETWORK = {"phases": 5, "channels": 16}


def played(options: argparse.Namespace, method: str) -> Path:
    """Train, or continue; the run directory."""
    length = {"epochs": options.epochs, "stages": options.stages}
    if method == "ssdu":
        length = {"epochs": options.epochs * options.stages}
    config = RunConfig.from_values({"method": method, "network": NETWORK})
    config = config.changed(**SHARED, **length, seed=options.seed)
    return train(config, options.data, options.out / method).run.path


def refinements(run: Path) -> dict[int, float]:
    """Seconds of the refinement before each stage."""
    found = re.findall(r"stage (\d+): \d+ scans refined in ([\d.]+) s", (run / "log.txt").read_text())
    return {int(stage): float(seconds) for stage, seconds in found}


def curve(run: Path) -> tuple[list[float], list[float]]:
    """Seconds since the start and the best score so far, after each epoch."""
    before, seconds = refinements(run), []
    rows = read_history(run / "metrics.csv")
    for row in rows:
        refined = before.get(int(row["stage"]), 0.0) if row["epoch"] == "0" else 0.0
        seconds.append(float(row["seconds"]) + refined)
    return list(accumulate(seconds)), list(accumulate((float(row["score"]) for row in rows), min))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5, help="of each stage; SSDU has as many as all stages together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    curves = {method: curve(played(options, method)) for method in ("ssdu", "idr")}
    goal = curves["ssdu"][1][-1]
    rows = []
    for method, (seconds, scores) in curves.items():
        reached = next((at for at, score in zip(seconds, scores, strict=True) if score <= goal), float("nan"))
        rows.append([method, f"{seconds[-1]:.0f}", f"{scores[-1]:.4f}", f"{reached:.0f}", f"{scores[-1] / goal:.3f}"])
    print(_measure.table(["method", "s in all", "final score", "s to SSDU's final score", "score / SSDU's"], rows))
    idr = options.out / "idr"
    stages = [
        sum(float(row["seconds"]) for row in read_history(idr / "metrics.csv") if row["stage"] == str(stage))
        for stage in refinements(idr)
    ]
    shares = [cost / (cost + stage) for cost, stage in zip(refinements(idr).values(), stages, strict=True)]
    print(f"\nRefinement: {median(shares):.1%} of a stage of {options.epochs} epochs (median of {len(shares)})")
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for method, (seconds, scores) in curves.items():
        axes.step([at / 60 for at in seconds], scores, where="post", label=method.upper())
    axes.set(xlabel="minutes of training, one thread", ylabel="held-out error, best so far", yscale="log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.legend()
    figure.savefig(options.out / "idr-run.png", dpi=150)


if __name__ == "__main__":
    main()
