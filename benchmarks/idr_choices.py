"""The paper's open choices, one at a time, on the demo's slice: what the reference-free score says of each.

One undersampled scan (128 x 128, 4x), 240 training steps per variant, about a minute each on one core. The truth is
shown for information; the defaults were chosen by the score.

OMP_WAIT_POLICY=passive python -m benchmarks.idr_choices [OUT] [SEED ...]
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from benchmarks.study.idr_readings import IDRReadingsOptions
from rich.console import Console

from sansref.commands.demo import acquire, acquired_alone, config_of
from sansref.commands.options import DemoOptions
from sansref.metrics.held_out import HeldOut
from sansref.results.scorer import Scorer
from sansref.training.run import RunDirectory
from sansref.training.train import learn

READINGS = "benchmarks.study.idr_readings:IDRReadings"
PAPER = {
    **{"selection": 0.5, "selection_law": "variable_density", "first_loss": "all", "later_selection": True},
    **{"refined_weight": 1.0, "pool": 4, "k_weighting": False, "data_consistency": "none", "input_noise": 0.0},
}
VARIANTS: list[tuple[str, str, dict[str, object]]] = [
    ("SSDU", "ssdu", {}),
    ("SSDU, acquired samples not put back", "ssdu", {"data_consistency": "none"}),
    ("SSDU, 4 central samples kept", "ssdu", {"split_center": 4 / 128}),
    ("IDR, default", "idr", {}),
    ("IDR, mse", "idr", {"loss": "mse"}),
    ("IDR, symmetry term 0.01", "idr", {"symmetry": 0.01}),
    ("IDR, published initialisation", "idr", {"init": "xavier"}),
    ("IDR, pool of 4", "idr", {"pool": 4}),
    ("IDR, refined samples count 0.3", "idr", {"refined_weight": 0.3}),
    ("IDR, refined samples count 1", "idr", {"refined_weight": 1.0}),
    ("IDR, measured targets (reading B)", READINGS, {"target": "measured", "support": "acquired"}),
    ("IDR, selection in later stages", READINGS, {"later_selection": True}),
    ("IDR, fresh start of stages", READINGS, {"start": "fresh"}),
    ("IDR, first stage for ever", "idr", {"stages": 1}),
    ("IDR, paper's choices", READINGS, PAPER),
    ("IDR, paper's choices, mse", READINGS, {**PAPER, "loss": "mse"}),
]


def play(method: str, choice: dict[str, object], seed: int, folder: Path) -> tuple[float, float, float]:
    options = DemoOptions(matrix=128, seed=seed)
    truth, acquired = acquire(options)
    config = config_of(options, "ssdu" if method == "ssdu" else "idr")
    if method == READINGS:
        config = replace(config, method=READINGS, options=IDRReadingsOptions(stages=options.stages))
    config = config.changed(**choice)
    if choice.get("stages") == 1:
        config = replace(config, training=replace(config.training, epochs=options.epochs * options.stages))
    run = RunDirectory(folder)
    run.start(config, "the demo's slice")
    with (folder / "progress.txt").open("w") as quiet:
        learn(config, acquired_alone(acquired, folder / "data"), None, run, Console(file=quiet))
    held_out = HeldOut(config.split.held_out, seed, config.sampling.family)
    (score,) = Scorer({method: run.load().reconstruct}, held_out).score(truth, 0)
    return score.held_out, score.psnr, score.ssim


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    seeds = [int(seed) for seed in sys.argv[2:]] or [0]
    print("| variant | held-out error | PSNR (dB) | SSIM |\n|---|---:|---:|---:|")
    for number, (name, method, choice) in enumerate(VARIANTS):
        scores = [play(method, choice, seed, out / f"{number:02d}-{seed}") for seed in seeds]
        held_out, psnr, ssim = (sum(column) / len(scores) for column in zip(*scores, strict=True))
        print(f"| {name} | {held_out:.4f} | {psnr:.2f} | {ssim:.4f} |", flush=True)


if __name__ == "__main__":
    main()
