"""What making a training batch costs, against the step that it feeds.

Four examples of each method and their collation, from memory-mapped scans, as a share of the training step of
ISTA-Net+ (9 phases x 32 channels, no symmetry term) on this machine's processor, and of a step of 20 ms on a GPU.

OMP_WAIT_POLICY=passive python benchmarks/data_path.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

import _measure
from sansref.data.prepare import scaled
from sansref.data.scan_store import ArrayStore, ArrayWriter, store_scans
from sansref.data.simulate import Sampling, Simulation, example_image, simulate
from sansref.machine import keep_freed_memory
from sansref.methods import IDR, SSDU, Method, Supervised, collate
from sansref.methods.idr import IDROptions
from sansref.methods.ssdu import SSDUOptions
from sansref.methods.supervised import SupervisedOptions
from sansref.networks.reconstructor import NetworkOptions, Reconstructor
from sansref.randomness import seeded
from sansref.scan import ScanMeta
from sansref.training.batches import ExampleSet

BATCH, GPU_STEP = 4, 0.020
SIZES = {(256, 256): 1, (320, 320): 8}


def methods(family) -> dict[str, tuple[Method, bool]]:
    """Each with a network, and whether its examples are made of refined data."""
    network = Reconstructor(NetworkOptions())
    return {
        "SSDU, uniform": (SSDU(network, SSDUOptions(), family), False),
        "SSDU, Gaussian": (SSDU(network, SSDUOptions(split="gaussian"), family), False),
        "SSDU, K-weighted": (SSDU(network, SSDUOptions(k_weighting=True), family), False),
        "IDR, first stage": (IDR(network, IDROptions(), family), False),
        "IDR, later stages": (IDR(network, IDROptions(), family), True),
        "supervised": (Supervised(network, SupervisedOptions()), False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    for shape, coils in SIZES.items():
        sampling = Sampling()
        image = F.interpolate(example_image()[None, None], shape)[0, 0]
        full = simulate(image, Simulation(coils=coils), seeded(0), ScanMeta("head", "head"))
        with tempfile.TemporaryDirectory() as place:
            scans = [scaled(sampling.undersample(full, seeded(1))) for _ in range(BATCH)]
            stored = store_scans(scans, Path(place) / "scans", references=True)
            with ArrayWriter(Path(place) / "targets", "complex64") as writer:
                for scan in scans:
                    writer.append(scan.kspace)
            targets = ArrayStore(Path(place) / "targets")
            known = methods(sampling.family(emulated=True))
            sets = {
                name: ExampleSet(one, stored, 0, 1, targets if later else None) for name, (one, later) in known.items()
            }

            def batch(examples: ExampleSet):
                examples.epoch += 1
                return collate([examples[item] for item in range(BATCH)])

            method, given = known["supervised"][0], batch(sets["supervised"])
            step = min(_measure.seconds(lambda m=method, g=given: next(m.step(g)).loss.backward()) for _ in range(2))
            calls = {name: (lambda one=one: batch(one)) for name, one in sets.items()}
            for name, seconds in _measure.interleaved(calls, options.rounds).items():
                size = f"{shape[0]} x {shape[1]}, {coils} coil(s)"
                cells = [f"{1000 * seconds:.1f}", f"{seconds / step:.2%}", f"{seconds / GPU_STEP:.1f}"]
                rows.append([f"{size}: {name}", *cells, f"{step:.1f}"])
    print(_measure.table(["batch of 4", "ms", "of the CPU step", "GPU steps of 20 ms", "CPU step, s"], rows))


if __name__ == "__main__":
    main()
