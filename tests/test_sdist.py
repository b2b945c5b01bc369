"""The source distribution holds what its tests need."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("setuptools")

ROOT = Path(__file__).parents[1]
PARTS = ("src", "tests", "docs", "benchmarks", "tools", "conda", "container")
MADE = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".*", "runs", "_build")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_sdist_holds_the_tests_and_what_they_read(tmp_path):
    copy = tmp_path / "copy"
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, ignore=MADE)
    for file in (path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".")):
        shutil.copy(file, copy)
    needed = files_in(copy)
    line = [sys.executable, "-c", BUILD, str(tmp_path)]
    subprocess.run(line, cwd=copy, check=True, capture_output=True, timeout=300)
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        archive.extractall(tmp_path / "there", filter="data")
    (there,) = (tmp_path / "there").iterdir()
    assert needed <= files_in(there)
    # What imports itself from the package beside it, and reads the documents.
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_docs.py",
        "tests/test_errors.py",
    ]
    done = subprocess.run(tests, cwd=there, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout
