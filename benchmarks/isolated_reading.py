"""What it costs to read HDF5 in a process of its own, where a damaged file can do no harm.

A fastMRI file of several slices is described and read, here and in a child process; beside that, the start
of a fresh Python that loads the readers, which a worker in place of a fork would need once.

OMP_WAIT_POLICY=passive python benchmarks/isolated_reading.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch

import _measure
from sansref.data.readers.damage import IsolatedReader
from sansref.data.readers.fastmri import FastMRIReader

SHAPES = {"1 coil, 640 x 368": (8, 1, 640, 368), "16 coils, 640 x 368": (4, 16, 640, 368)}


def write(path: Path, shape: tuple[int, ...]) -> Path:
    noise = np.random.default_rng(0).standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    with h5py.File(path, "w") as file:
        file["kspace"] = noise
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in SHAPES.items():
            path = write(Path(folder) / "a.h5", shape)
            calls = {}
            for place, reader in {"here": FastMRIReader(), "isolated": IsolatedReader(FastMRIReader())}.items():
                calls[f"describe, {place}"] = lambda r=reader, p=path: r.describe(p)
                calls[f"read a slice, {place}"] = lambda r=reader, p=path: sum(1 for _ in r.read(p))
            for what, seconds in sorted(_measure.interleaved(calls, options.rounds).items()):
                share = seconds / shape[0] if what.startswith("read") else seconds
                rows.append([name, what, f"{1000 * share:.1f}"])
    start = [sys.executable, "-c", "import sansref.data.readers"]
    fresh = _measure.interleaved({"start": lambda: subprocess.run(start, check=True)}, options.rounds)["start"]
    rows.append(["", "a fresh Python with the readers", f"{1000 * fresh:.1f}"])
    print(_measure.table(["file", "step", "ms"], rows))


if __name__ == "__main__":
    main()
