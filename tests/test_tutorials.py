"""Tutorials do what they say: their blocks run in order, in an empty folder, and print what stands below them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
#: What is shortened here, so that the tests stay quick.
QUICK = {"--minutes 1 ": "--minutes 0.1 ", "--epochs 10 ": "--epochs 1 "}


def digitless(line: str) -> str:
    """A line with every number replaced: they differ from machine to machine."""
    return " ".join(re.sub(r"\d+(\.\d+)?", "#", line).split())


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("tutorial-*.md")))
def test_a_tutorial_runs_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sansref").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sansref "$@"\n')
    (tmp_path / "bin" / "sansref").chmod(0o755)
    (tmp_path / "work").mkdir()
    environ = os.environ | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    printed, ran = "", 0
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S):
        if language == "text":
            lines = {digitless(line) for line in printed.splitlines()}
            assert [line for line in code.splitlines() if digitless(line) not in lines] == [], printed
            continue
        for long, short in QUICK.items():
            code = code.replace(long, short)
        line = ["sh", "-ec", code] if language == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(line, cwd=tmp_path / "work", env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
        printed, ran = done.stdout, ran + 1
    assert ran >= 3
