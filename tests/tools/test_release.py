"""What is published: the wheel and the sdist, and the recipes that say the same in other words."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import jinja2
import pytest
import yaml

import sansref

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Of conda-forge, where they differ.
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "jsonargparse[signatures]": "jsonargparse"}
#: What the extra of jsonargparse asks for.
SIGNATURES = {"docstring_parser": "", "typeshed_client": ""}

release = SimpleNamespace(**run_path(str(ROOT / "tools" / "release.py"), run_name="release"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout, to be spoiled."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    made = release.copy_of_tracked(ROOT, tmp_path / "checkout")
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=made, check=True)
    return made


@pytest.mark.slow
def test_a_release_is_built_checked_and_described(checkout: Path, tmp_path: Path) -> None:
    (checkout / "src" / "sansref" / "mine.py").write_text("# not tracked\n")
    release.release(tmp_path / "out", checkout)
    version = sansref.__version__
    files = [f"sansref-{version}-py3-none-any.whl", f"sansref-{version}.tar.gz"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["RELEASE_NOTES.md", "SHA256SUMS", *files]
    for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    notes = (tmp_path / "out" / "RELEASE_NOTES.md").read_text()
    assert notes.startswith(f"# sansref {version}\n\nFirst version.")
    assert "\n## " not in notes
    with zipfile.ZipFile(tmp_path / "out" / files[0]) as wheel:
        assert "sansref/mine.py" not in wheel.namelist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("pyproject.toml", 'readme = "README.md"', "", "README is not the description"),
        ("src/sansref/cli.py", "from __future__ import annotations", "raise SystemExit(3)", "does not start"),
    ],
    ids=["readme", "broken"],
)
def test_a_release_that_lacks_something_is_refused(
    checkout: Path, tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    text = (checkout / file).read_text()
    assert old in text
    (checkout / file).write_text(text.replace(old, new, 1))
    with pytest.raises(release.ReleaseError, match=message):
        release.release(tmp_path / "out", checkout)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sansref/__init__.py"], r"differ in sansref/presets/a\.yaml"),
        (["sansref/__init__.py", "sansref/presets/a.yaml", "tests/test_a.py"], r"differ in tests/test_a\.py"),
        (["sansref/__init__.py", "sansref/presets/a.yaml"], "lacks the licence"),
        (["sansref/__init__.py", "sansref/presets/a.yaml", "sansref-1.dist-info/licenses/LICENSE"], None),
    ],
)
def test_a_wheel_holds_the_package_and_nothing_else(tmp_path: Path, names: list[str], message: str | None) -> None:
    for name in ("__init__.py", "presets/a.yaml"):
        (tmp_path / "src" / "sansref" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / "sansref" / name).touch()
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        for name in names:
            wheel.writestr(name, "")
    if message is None:
        release.check_files(tmp_path, tmp_path / "a.whl")
        return
    with pytest.raises(release.ReleaseError, match=message):
        release.check_files(tmp_path, tmp_path / "a.whl")


def test_versions_agree_everywhere(tmp_path: Path) -> None:
    for name in ("src", "CHANGELOG.md", "CITATION.cff"):
        (shutil.copytree if name == "src" else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "CITATION.cff").write_text("version: 9.9.9\n")
    with pytest.raises(release.ReleaseError, match=r"CITATION\.cff does not say version"):
        release.release(tmp_path / "out", tmp_path)
    with pytest.raises(release.ReleaseError, match=r"no heading of version 9\.9\.9"):
        release.notes_of("9.9.9", (ROOT / "CHANGELOG.md").read_text())
    assert f'{{% set version = "{sansref.__version__}" %}}' in (ROOT / "conda" / "meta.yaml").read_text()


def test_the_conda_recipe_asks_for_what_the_package_asks_for() -> None:
    text = jinja2.Template((ROOT / "conda" / "meta.yaml").read_text()).render(PYTHON="python")
    recipe = yaml.safe_load(text)
    asked = dict((*line.split(" ", 1), "")[:2] for line in recipe["requirements"]["run"])
    parts = [re.fullmatch(r"([\w.\[\]-]+?)([<>=].*)?", line) for line in PROJECT["dependencies"]]
    wanted = {CONDA.get(part[1], part[1]): part[2] for part in parts if part}
    assert asked == wanted | SIGNATURES | {"python": PROJECT["requires-python"]}
    assert recipe["build"]["entry_points"] == [f"{name} = {place}" for name, place in PROJECT["scripts"].items()]


@pytest.mark.parametrize("name", ["Dockerfile", "container/Dockerfile"])
def test_a_container_is_made_of_files_that_exist(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    copied = [word for line in lines if re.match("COPY (?!--from)", line) for word in line.split()[1:-1]]
    assert copied
    assert [word for word in copied if not word.startswith("$") and not (ROOT / word).exists()] == []
