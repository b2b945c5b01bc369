"""A training step of MoDL with 8 coils: the gradient of the exact solution against that through every CG step.

What is kept counts the tensors that wait for the way back, each once.

OMP_WAIT_POLICY=passive python benchmarks/modl.py [--rounds 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import _measure
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.measurement import Measurement
from sansref.kspace.physics import conjugate_gradients
from sansref.networks.istanet import to_channels
from sansref.networks.modl import MoDL
from sansref.randomness import seeded

COILS, SIZE = 8, (230, 180)


class Unrolled(MoDL):
    """Keeps every step of conjugate gradients for the way back."""

    def data_step(self, normal: Callable[[Tensor], Tensor], right: Tensor, start: Tensor) -> Tensor:
        """The same solution."""

        def system(image: Tensor) -> Tensor:
            return normal(image) + self.mu * image

        return conjugate_gradients(system, start, right - system(start), self.cg_steps)[0]


def measured() -> Measurement:
    """Noise at every eighth place, on average."""
    mask = torch.rand(1, *SIZE, generator=seeded("mask")) < 1 / 8
    kspace = torch.randn(1, COILS, *SIZE, dtype=torch.complex64, generator=seeded("kspace"))
    return Measurement(kspace * mask.unsqueeze(1), mask, birdcage_maps(SIZE, COILS).unsqueeze(0))


def gradients(network: MoDL, given: Measurement) -> list[Tensor]:
    """Of the image's energy."""
    image = network(to_channels(given.physics.adjoint(given.kspace), 2), given.physics.normal)
    return list(torch.autograd.grad(image.square().mean(), list(network.parameters())))


def kept_megabytes(network: MoDL, given: Measurement) -> float:
    """Size of the tensors that wait for the way back."""
    sizes: dict[int, int] = {}
    alive: list[Any] = []

    def keep(saved: Tensor) -> Tensor:
        alive.append(saved)
        sizes[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        network(to_channels(given.physics.adjoint(given.kspace), 2), given.physics.normal)
    return sum(sizes.values()) / 2**20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    given, rows = measured(), []
    for channels in (16, 32):
        for steps in (6, 12):
            networks = {"exact solution": MoDL(5, channels, cg_steps=steps)}
            networks["every step"] = Unrolled(5, channels, cg_steps=steps)
            networks["every step"].load_state_dict(networks["exact solution"].state_dict())
            calls = {name: (lambda network=network: gradients(network, given)) for name, network in networks.items()}
            found = {name: torch.cat([one.flatten() for one in call()]) for name, call in calls.items()}
            error = (found["exact solution"] - found["every step"]).norm() / found["every step"].norm()
            times = _measure.interleaved(dict(calls), rounds)
            for name, network in networks.items():
                ratio = times[name] / times["exact solution"]
                size = kept_megabytes(network, given)
                label = f"{channels} channels, {steps} CG steps: {name}"
                rows.append((label, f"{1e3 * times[name]:.0f}", f"{ratio:.2f}", f"{size:.0f}", f"{error:.1e}"))
    print(_measure.table(["gradient of", "ms", "ratio", "kept MB", "difference of gradients"], rows))


if __name__ == "__main__":
    main()
