"""Turns whatever a damaged file makes a library raise into one line for the user."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sansref.errors import FileError, printable
from sansref.machine import out_of_memory

#: Deflate, the densest compression in use here, cannot shrink data more than this (RFC 1951: 258 bytes in 2 bits).
MOST_COMPRESSION = 1032
MEMORY_CURE = "Close other programs, or use a machine with more memory"


def check_file(path: Path) -> None:
    """Raise ``FileError`` unless ``path`` is a regular, readable file with something in it."""
    if path.is_symlink() and not path.exists():
        raise FileError(path, "is a link to a file that does not exist", "Fetch the linked file or remove the link")
    if not path.exists():
        raise FileError(path, "does not exist", "Check the spelling of the path")
    if path.is_dir():
        raise FileError(path, "is a folder, not a file", "Give one of the files in it")
    if not path.is_file():
        raise FileError(path, "is not a regular file", "Give a file on disk")
    if path.stat().st_size == 0:
        raise FileError(path, "is empty (0 bytes)", "Copy or download it again")
    if not os.access(path, os.R_OK):
        raise FileError(path, "may not be read", "Ask for the right to read it")


@contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Wrap calls of a format library, and nothing else, so that every failure becomes a ``FileError``.

    The libraries answer damaged bytes with errors of many types (OSError, RuntimeError, KeyError, EOFError, zlib.error,
    ...) and with warnings, none of which tells a user what to do. ``name`` is that of the format.
    """
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise memory_error(path) from error
        detail = printable(str(error)) or type(error).__name__
        problem = f"cannot be read as {name}; it is truncated or damaged ({detail})"
        raise FileError(path, problem, "Copy or download it again") from error


@contextmanager
def minding_memory(path: Path) -> Iterator[None]:
    """Let memory that runs out while a file is read be one line that names it; other errors stay what they are."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FileError) or not out_of_memory(error):
            raise
        raise memory_error(path) from error


def memory_error(path: Path) -> FileError:
    """The line about a file for which memory does not suffice."""
    return FileError(path, "needs more memory to be read than is free", MEMORY_CURE)


def check_plausible_size(path: Path, declared_bytes: int, size: int | None = None) -> None:
    """Refuse a header that declares more data than the file can hold even when compressed.

    A damaged size would otherwise ask for more memory than any machine has. ``size`` is that of all files that the data
    are kept in, None for the one file.
    """
    size = path.stat().st_size if size is None else size
    if declared_bytes > MOST_COMPRESSION * size:
        raise FileError(
            path,
            f"declares {declared_bytes} bytes of data, more than its {size} bytes can hold",
            "Copy or download it again",
        )
