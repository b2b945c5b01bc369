"""Make notebooks of tutorials and run them from top to bottom, on a CPU in minutes.

python tools/notebooks.py [--quick] [--out docs/_build/notebooks] [PAGE ...]

A block of ``python`` or ``sh`` becomes a cell that runs; the text around it stays. Without pages these are the
tutorials of one scan, of a folder, and of comparisons.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from tutorials import QUICK, ROOT, command_folder

PAGES = tuple(ROOT / "docs" / f"tutorial-{name}.md" for name in ("one-scan", "folder", "compare"))
#: Without it, jupytext takes the language that most blocks are in.
KERNEL = """---
jupyter:
  kernelspec: {name: python3, display_name: Python 3, language: python}
---

"""
TIMEOUT = 1200
"""Seconds that a cell may take."""


def notebook(text: str) -> Any:
    """A notebook of a page: pictures are left to the cells that make them, links to the site are plain words."""
    text = re.sub(r"^!\[.*\n", "", text, flags=re.M)
    text = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", text)
    return jupytext.reads(KERNEL + text, "md")


def run(made: Any, work: Path, commands: Path) -> Any:
    """Run a notebook in a folder; ``nbclient.exceptions.CellExecutionError`` where a cell fails."""
    before = dict(os.environ)
    os.environ["PATH"] = f"{command_folder(commands)}{os.pathsep}{os.environ['PATH']}"
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        return NotebookClient(
            made, timeout=TIMEOUT, coalesce_streams=True, resources={"metadata": {"path": str(work)}}
        ).execute()
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Make, run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "_build" / "notebooks")
    parser.add_argument("--quick", action="store_true", help="train only briefly")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for page in given.pages:
        text = page.read_text(encoding="utf-8")
        for long, short in QUICK.items() if given.quick else ():
            text = text.replace(long, short)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "work").mkdir()
            made = run(notebook(text), Path(folder) / "work", Path(folder) / "bin")
        path = given.out / f"{page.stem.removeprefix('tutorial-')}.ipynb"
        nbformat.write(made, path)
        print(path)


if __name__ == "__main__":
    main()
