"""Start: what a fresh process takes, beside Python alone and PyTorch, and the slowest imports.

python benchmarks/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable

import nibabel
import numpy as np

import _measure

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import sansref": ["-c", "import sansref"],
    "sansref --help": ["-m", "sansref", "--help"],
    "sansref train --help": ["-m", "sansref", "train", "--help"],
    "sansref reconstruct --help": ["-m", "sansref", "reconstruct", "--help"],
    "sansref evaluate --help": ["-m", "sansref", "evaluate", "--help"],
    "sansref compare --help": ["-m", "sansref", "compare", "--help"],
    "sansref demo --help": ["-m", "sansref", "demo", "--help"],
    "sansref zeroshot --help": ["-m", "sansref", "zeroshot", "--help"],
    "sansref train ssdu --help": ["-m", "sansref", "train", "ssdu", "--help"],
    "sansref info of a missing file": ["-m", "sansref", "info", "missing.nii.gz"],
    "sansref info of a NIfTI file": ["-m", "sansref", "info", "head.nii.gz"],
}


def start(words: list[str]) -> Callable[[], object]:
    wrong = "missing.nii.gz" in words

    def run() -> None:
        done = subprocess.run([sys.executable, *words], check=False, capture_output=True)
        if done.returncode != (2 if wrong else 0):
            sys.exit(f"stopped: {' '.join(words)} failed: {done.stderr.decode()}")

    return run


def slowest_imports(words: list[str], number: int) -> list[tuple[str, float]]:
    """Names and milliseconds, with what they import in turn, of whole packages."""
    done = subprocess.run([sys.executable, "-X", "importtime", *words], check=True, capture_output=True, text=True)
    found = re.findall(r"import time:\s+\d+ \|\s+(\d+) \|\s+([\w.]+)$", done.stderr, flags=re.MULTILINE)
    packages = [(name, int(microseconds) / 1000) for microseconds, name in found if "." not in name]
    return sorted(packages, key=lambda entry: -entry[1])[:number]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--imports", type=int, default=5, help="how many of the slowest imports are listed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        volume = nibabel.Nifti1Image(np.zeros((64, 64, 8), dtype=np.int16), np.eye(4))
        nibabel.save(volume, "head.nii.gz")
        times = _measure.interleaved({name: start(words) for name, words in COMMANDS.items()}, options.rounds)
    rows = [[name, f"{1000 * taken:.0f}"] for name, taken in times.items()]
    print(_measure.table(["fresh process", "ms"], rows))
    for name in ("sansref --help", "sansref train ssdu --help"):
        print(f"\nSlowest imports of '{name}', with all that each imports:\n")
        rows = [[package, f"{taken:.0f}"] for package, taken in slowest_imports(COMMANDS[name], options.imports)]
        print(_measure.table(["package", "ms"], rows))


if __name__ == "__main__":
    main()
