"""What the symmetry term is worth, and whether it must be evaluated in every phase of every step.

Trains SSDU without the term, with it in all phases, and in a random third of them at three times the weight (equal in
expectation), over seeds; prints the reference-free error on held-out samples of other subjects and the time.
The command continues a killed run.

OMP_WAIT_POLICY=passive python benchmarks/symmetry.py --data FOLDER --out FOLDER [--epochs 20 --seeds 0 1]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

import _measure
from idr_run import NETWORK, SHARED
from sansref.methods.examples import KspaceExample, Update
from sansref.methods.ssdu import SSDU
from sansref.networks.istanet import Phase
from sansref.training.config import RunConfig
from sansref.training.history import read_history
from sansref.training.train import train

GAMMA = 0.01
Normal = Callable[[Tensor], Tensor]
VARIANTS = {"without": ("ssdu", 0.0), "all phases": ("ssdu", GAMMA), "a third of them": ("symmetry:SomePhases", GAMMA)}


class SomePhases(SSDU):
    """SSDU with the symmetry term in a third of the phases, other ones in each step."""

    def step(self, batch: KspaceExample) -> Iterator[Update]:
        """The term's weight grows by as much as it has fewer phases."""
        phases = list(self.network.network.phases)
        chosen = torch.randperm(len(phases))[: -(-len(phases) // 3)].tolist()
        for index, phase in enumerate(phases):
            whole = Phase.forward if index in chosen else without_residual
            phase.forward = partial(whole, phase)
        self.network.penalty_weight = GAMMA * len(phases) / len(chosen)
        yield from super().step(batch)
        for phase in phases:
            del phase.forward


def without_residual(phase: Phase, image: Tensor, zero_filled: Tensor, normal: Normal, symmetry: bool) -> Any:
    """A phase that is asked for its symmetry residual and gives none."""
    return Phase.forward(phase, image, zero_filled, normal, False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (method, gamma) in VARIANTS.items():
        scores, seconds = [], []
        for seed in options.seeds:
            config = RunConfig.from_values({"method": method, "network": NETWORK, "split": {"seed": 0}})
            config = config.changed(**SHARED, epochs=options.epochs, seed=seed, symmetry=gamma)
            run = train(config, options.data, options.out / f"{name}-{seed}")
            history = read_history(run.run.path / "metrics.csv")
            scores.append(min(float(row["score"]) for row in history))
            seconds.append(sum(float(row["seconds"]) for row in history))
        rows.append([name, f"{mean(seconds):.0f}", *(f"{score:.4f}" for score in scores), f"{mean(scores):.4f}"])
    print(_measure.table(["symmetry term", "s", *(f"seed {seed}" for seed in options.seeds), "mean"], rows))


if __name__ == "__main__":
    main()
