"""Run the tutorials: their blocks in order, in an empty folder, where they must print what stands below them.

python tools/tutorials.py [--quick] [--jobs N] [--out docs/_build/tutorials] [PAGE ...]

Without pages it runs all of docs/tutorial-*.md. OUT then has a folder for each page with what the page made, such as
the pictures that the site shows; it is kept as long as neither the page nor the package changes. N pages run side by
side, by default one for each processor.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "_build" / "tutorials"
#: What is shortened by ``--quick``, as the tests do.
QUICK = {
    "--minutes 1 ": "--minutes 0.1 ",
    "--data.matrix 128,128 ": "--data.matrix 64,64 ",
    "np.s_[..., 64:192, 64:192]": "np.s_[..., 96:160, 96:160]",
    "--epochs 10 ": "--epochs 1 ",
    "epochs: 12}": "epochs: 1}",
}
DIGEST = ".digest"


class TutorialError(Exception):
    """A block that fails, or prints something else than the page says."""


def pages() -> list[Path]:
    """All tutorials."""
    return sorted((ROOT / "docs").glob("tutorial-*.md"))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and code of each block of a page."""
    yield from re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)


def run(text: str, work: Path, commands: Path, quick: bool = False) -> int:
    """Run the blocks of a page in the folder ``work`` and return how many ran.

    Blocks of ``sh`` and ``python`` are programs of their own. Each line of a block of ``text`` must be among the lines
    that the program above it printed, but for its numbers. ``commands`` is a folder for the command ``sansref``.
    """
    path = [str(command_folder(commands)), str(Path(sys.executable).parent), os.environ["PATH"]]
    environ = os.environ | {"PATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    printed, ran, started = "", 0, []
    try:
        for language, code in blocks(text):
            if language == "text":
                lines = {digitless(line) for line in printed.splitlines()}
                if missing := [line for line in code.splitlines() if digitless(line) not in lines]:
                    raise TutorialError(f"not printed: {missing}\nprinted:\n{printed}")
            if language not in ("sh", "python"):
                continue
            if quick:
                for long, short in QUICK.items():
                    code = code.replace(long, short)
            line = ["sh", "-ec", code] if language == "sh" else [sys.executable, "-c", code]
            # Of a session of its own, so that what it leaves running ends with the page.
            process = subprocess.Popen(
                line,
                cwd=work,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            started.append(process.pid)
            printed, said = process.communicate()
            if process.returncode:
                raise TutorialError(f"{code}\n{printed}{said}")
            ran += 1
    finally:
        for group in started:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)
    return ran


def command_folder(folder: Path) -> Path:
    """A folder with the command ``sansref`` of this Python."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sansref").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sansref "$@"\n')
    (folder / "sansref").chmod(0o755)
    return folder


def digitless(line: str) -> str:
    """A line with every number replaced: they differ from machine to machine."""
    return " ".join(re.sub(r"\d+(\.\d+)?", "#", line).split())


def digest(page: Path) -> str:
    """Of a page and the package."""
    found = hashlib.sha256(page.read_bytes())
    for file in sorted((ROOT / "src" / "sansref").rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            found.update(file.read_bytes())
    return found.hexdigest()


def kept(page: Path, out: Path = OUT) -> bool:
    """Whether ``out`` has what the page made at full length, and neither the page nor the package has changed since."""
    mark = out / page.stem / DIGEST
    return mark.is_file() and mark.read_text() == digest(page)


def make(page: Path, out: Path, quick: bool) -> str:
    """Run a page in its folder of ``out`` unless that is kept, and tell what was done."""
    if kept(page, out):
        return f"{page.name}: not changed"
    work, now, begun = out / page.stem, digest(page), time.perf_counter()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        ran = run(page.read_text(encoding="utf-8"), work, out / "bin" / page.stem, quick)
    except TutorialError as error:
        raise TutorialError(f"{page.name}: {error}") from None
    (work / DIGEST).write_text("quick" if quick else now)
    return f"{page.name}: {ran} blocks in {time.perf_counter() - begun:.0f} s"


def main() -> None:
    """Run the pages that changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="instead of all tutorials")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="train only briefly")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="pages that run side by side")
    given = parser.parse_args()
    try:
        with ThreadPoolExecutor(given.jobs) as jobs:
            for told in jobs.map(lambda page: make(page, given.out, given.quick), given.pages or pages()):
                print(told, flush=True)
    except TutorialError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
