"""The smoke tests of the wheel on another Python, as far as they can be tried without installing anything."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "smoke.sh"


def test_a_python_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    python = tmp_path / "python9.9"
    done = subprocess.run([SCRIPT, python], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (77, "")
    assert done.stdout == f"smoke tests skipped: there is no {python} here\n"


def test_its_tests_are_there_and_its_pythons_are_those_of_the_package() -> None:
    tests = re.findall(r"tests/[\w/.]+", re.findall(r"^tests=\((.*?)\)", SCRIPT.read_text(), re.M | re.S)[0])
    assert len(tests) > 3
    assert [name for name in tests if not (ROOT / name).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = {int(found[1]) for line in project["classifiers"] if (found := re.search(r":: 3\.(\d+)$", line))}
    assert claimed == {11, 12, 13}
    ci = ROOT / ".ci" / "run"
    if ci.exists():  # not in a source distribution
        assert {int(minor) for minor in re.findall(r"for minor in (.*); do", ci.read_text())[0].split()} == claimed
