"""What a slice of an archive costs, from 10 slices to 10,000, without Ray and with ``--ray local``.

Generated fastMRI files of 10 slices, 128 x 128, a single coil, half of the columns acquired; a network of 3 phases with
16 channels. Times are of the whole command, its start included. The peak and the time of the processor are those of the
command's own process: on a cluster, workers have theirs. Ray's workers run at the usual priority here
(``RAY_worker_niceness=0``). ``--again`` also times the command when everything has been done before.

OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/archive.py [--slices 10 100 1000 10000] [--again]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

import _measure
from sansref import cli
from sansref.networks.reconstructor import NetworkOptions

SIZE, SLICES_PER_FILE = 128, 10
WAYS = {"alone": [], "--ray local": ["--ray", "local"]}
HEADER = ["command", "slices", "seconds", "ms a slice", "of the processor", "peak MB"]


def write_archive(folder: Path, slices: int) -> Path:
    """Files of noise: how long a network takes does not depend on what it sees."""
    folder.mkdir()
    mask = np.zeros(SIZE, dtype=np.int8)
    mask[::2] = mask[SIZE // 2 - 5 : SIZE // 2 + 5] = 1
    noise = np.random.default_rng(0).normal(size=(SLICES_PER_FILE, SIZE, SIZE, 2)).astype(np.float32)
    kspace = noise.view(np.complex64)[..., 0] * mask
    for number in range(slices // SLICES_PER_FILE):
        with h5py.File(folder / f"file{number:05d}.h5", "w") as file:
            file["kspace"], file["mask"] = kspace, mask
    return folder


def play(words: list[str]) -> dict[str, float]:
    """A child's work: one command."""
    cli.main(["reconstruct", *words])
    return {"peak": _measure.peak_megabytes(), "cpu": _measure.cpu_clock()}


def timed(way: str, words: list[object]) -> dict[str, float]:
    start = time.perf_counter()
    found = _measure.child(__file__, ["--child", *words, *WAYS[way]])
    return {**found, "seconds": time.perf_counter() - start}


def row(name: str, slices: int, found: dict[str, float]) -> list[str]:
    return [
        name,
        f"{slices:,}",
        f"{found['seconds']:.1f}",
        f"{1000 * found['seconds'] / slices:.1f}",
        f"{1000 * found['cpu'] / slices:.1f}",
        f"{found['peak']:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--ways", choices=list(WAYS), nargs="+", default=list(WAYS))
    parser.add_argument("--again", action="store_true", help="time the same command once more")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(play(options.child)))
        return
    os.environ |= {"RAY_worker_niceness": "0"}
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = _measure.untrained_run(folder / "run", NetworkOptions(phases=3, channels=16))
        for slices in options.slices:
            data, out = write_archive(folder / "data", slices), folder / "out"
            for way in options.ways:
                words = [run.path, data, "--out", out, "--accelerator", "cpu"]
                rows.append(row(way, slices, timed(way, words)))
                if options.again:
                    rows.append(row(f"{way}, again", slices, timed(way, words)))
                assert len(list(out.glob("*.h5"))) == slices // SLICES_PER_FILE
                shutil.rmtree(out)
            shutil.rmtree(data)
    print(f"\n{len(os.sched_getaffinity(0))} cores.\n")
    print(_measure.table(HEADER, rows))


if __name__ == "__main__":
    main()
