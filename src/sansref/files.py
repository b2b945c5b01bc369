"""Files that appear whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sansref.errors import FileError


_PART = ".part-"


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
    # The name is kept at the end: libraries read the format from its suffix.
    temporary = path.with_name(f"{_PART}{uuid.uuid4().hex}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(
            path, f"cannot be written ({reason})", "Choose a folder with free space that you may write to"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file; readers see the old text or the new one, never half of it."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path) -> None:
    """Delete what writers that were killed left at any depth of a folder."""
    for leftover in folder.rglob(f"{_PART}*"):
        leftover.unlink()
