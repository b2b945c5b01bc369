"""Build the source distribution and the wheel, check both, and write the release notes. Nothing is uploaded.

    python tools/release.py OUT

The files are built from what git tracks, in a folder of their own: the source distribution first, and the wheel from
it. OUT then holds both, ``RELEASE_NOTES.md`` (this version's part of CHANGELOG.md) and ``SHA256SUMS``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


class ReleaseError(Exception):
    """What must be put right before a release, as one line."""


def main() -> None:
    """Build, check and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the files; what it held is replaced")
    out: Path = parser.parse_args().out
    try:
        release(out)
    except ReleaseError as error:
        sys.exit(f"release: {error}")


def release(out: Path, root: Path = ROOT) -> None:
    """Make all files of a release of the checkout ``root``; raises ``ReleaseError`` where they may not be published."""
    version = re.findall(r'^__version__ = "(.+)"$', (root / "src/sansref/__init__.py").read_text(), re.M)[0]
    notes = notes_of(version, (root / "CHANGELOG.md").read_text())
    if f"\nversion: {version}\n" not in (root / "CITATION.cff").read_text():
        raise ReleaseError(f"CITATION.cff does not say version: {version}")
    with tempfile.TemporaryDirectory() as temporary:
        sources, made = copy_of_tracked(root, Path(temporary) / "sources"), Path(temporary) / "made"
        made.mkdir()
        sdist = built("build_sdist", sources, made, "*.tar.gz")
        with tarfile.open(sdist) as archive:
            archive.extractall(Path(temporary) / "unpacked", filter="data")
        (unpacked,) = (Path(temporary) / "unpacked").iterdir()
        wheel = built("build_wheel", unpacked, made, "*.whl")
        check_files(unpacked, wheel)
        check_metadata(version, unpacked, wheel)
        check_that_it_runs(version, wheel, Path(temporary) / "installed")
        if find_spec("twine"):
            command = [sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ReleaseError(f"twine refuses the files:\n{done.stdout}{done.stderr}")
        else:
            print("twine is not installed: its check was left out")
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        files = [Path(shutil.copy(file, out)) for file in (sdist, wheel)]
    (out / "RELEASE_NOTES.md").write_text(notes)
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (out / "SHA256SUMS").write_text("".join(sums))
    print(f"{out} holds {', '.join(sorted(file.name for file in out.iterdir()))}")


def notes_of(version: str, changelog: str) -> str:
    """The part of the changelog about one version, without its heading."""
    parts = re.split(r"^## (.+)$", changelog, flags=re.M)
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        if heading.split(",")[0].strip() == version:
            if "unreleased" in heading:
                print(f"CHANGELOG.md calls {version} unreleased: put the date of the release there")
            return f"# sansref {version}\n\n{text.strip()}\n"
    raise ReleaseError(f"CHANGELOG.md has no heading of version {version}")


def copy_of_tracked(root: Path, target: Path) -> Path:
    """Copy what git tracks: no other file of a checkout may come into a release."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, target / name)
    return target


def built(hook: str, sources: Path, made: Path, pattern: str) -> Path:
    """Build by one of the hooks of PEP 517, in a process whose working directory are the sources."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, hook, str(made)], cwd=sources, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"{hook} failed:\n{done.stderr}")
    (file,) = made.glob(pattern)
    return file


def check_files(unpacked: Path, wheel: Path) -> None:
    """See to it that the wheel holds the package, the whole package and nothing but the package."""
    package = unpacked / "src" / "sansref"
    wanted = {f"sansref/{path.relative_to(package).as_posix()}" for path in package.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    there = {name for name in names if ".dist-info/" not in name}
    if there != wanted:
        raise ReleaseError(f"the wheel and the sources differ in {', '.join(sorted(there ^ wanted))}")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        raise ReleaseError("the wheel lacks the licence")


def check_metadata(version: str, unpacked: Path, wheel: Path) -> None:
    """Check the metadata by their specification; the wheel's must be those of the source distribution."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name)
    try:
        metadata = Metadata.from_email(text, validate=True)
    except ExceptionGroup as errors:
        raise ReleaseError("; ".join(map(str, errors.exceptions))) from None
    if text != (unpacked / "PKG-INFO").read_bytes():
        raise ReleaseError("the metadata of the wheel and of the source distribution differ")
    if (metadata.name, str(metadata.version)) != ("sansref", version):
        raise ReleaseError(f"the wheel calls itself {metadata.name} {metadata.version}")
    if metadata.description_content_type != "text/markdown" or not (metadata.description or "").startswith("# sansref"):
        raise ReleaseError("the README is not the description of the package")


def check_that_it_runs(version: str, wheel: Path, folder: Path) -> None:
    """Start the command from the files of the wheel alone."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    script = (
        "import sansref, sansref.presets; from pathlib import Path; from sansref.cli import main;"
        " assert list(Path(sansref.presets.__file__).parent.glob('*.yaml'));"
        " print(sansref.__file__); main(['--version'])"
    )
    environ = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode or done.stdout.split("\n")[:2] != [str(folder / "sansref/__init__.py"), f"sansref {version}"]:
        raise ReleaseError(f"the package does not start from the wheel:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
