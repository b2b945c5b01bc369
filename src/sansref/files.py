"""Files that appear whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sansref.errors import FileError, SettingError

PART = ".part-"
"""How the names of files begin that are still being written."""


def keep_outside(out: Path, folder: Path | None, name: str = "") -> None:
    """See to it that nothing is written into a folder of scans.

    Parameters
    ----------
    out
        Where files will be written.
    folder
        The folder of scans; None if there is none.
    name
        How the user has named that folder, such as ``--data``; for the message.

    Raises
    ------
    SettingError
        If ``out`` is the folder or lies inside it.
    """
    if folder is not None and out.resolve().is_relative_to(folder.resolve()):
        where = f"{name} {folder}".lstrip()
        raise SettingError(f"--out {out} lies inside {where}, where its files would pass for scans: move it out")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes ``path`` when the block ends well.

    The folder is created if need be. A block that fails leaves neither a temporary file nor a change to ``path``.

    Raises
    ------
    FileError
        If the system refuses to write (no permission, no space).
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes ``folder`` when the block ends well, and is removed when it fails.

    Raises
    ------
    FileError
        If the system refuses to write, or ``folder`` holds something already.
    """
    temporary = _beside(folder)
    try:
        with _writing(folder):
            temporary.mkdir(parents=True)
            yield temporary
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    # The name is kept at the end: libraries read the format from its suffix.
    return path.with_name(f"{PART}{uuid.uuid4().hex}-{path.name}")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(
            path, f"cannot be written ({reason})", "Choose a folder with free space that you may write to"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file; readers see the old text or the new one, never half of it."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path) -> None:
    """Delete what writers that were killed left at any depth of a folder."""
    for leftover in list(folder.rglob(f"{PART}*")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
