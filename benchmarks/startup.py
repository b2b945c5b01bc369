"""Start: ``import sansref`` and help in fresh processes, beside Python alone and PyTorch, and the slowest imports.

python benchmarks/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable

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
}


def start(words: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True)


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
    times = _measure.interleaved({name: start(words) for name, words in COMMANDS.items()}, options.rounds)
    rows = [[name, f"{1000 * taken:.0f}"] for name, taken in times.items()]
    print(_measure.table(["fresh process", "ms"], rows))
    for name in ("sansref --help", "sansref train ssdu --help"):
        print(f"\nSlowest imports of '{name}', with all that each imports:\n")
        rows = [[package, f"{taken:.0f}"] for package, taken in slowest_imports(COMMANDS[name], options.imports)]
        print(_measure.table(["package", "ms"], rows))


if __name__ == "__main__":
    main()
