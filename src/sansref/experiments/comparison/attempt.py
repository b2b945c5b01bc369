"""One try at a cell of the grid, which no other process may make at the same time."""

from __future__ import annotations

import fcntl
import os
import socket
import time
import traceback
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console

from sansref.errors import FileError, SansrefError
from sansref.experiments.comparison.cells import train_cell
from sansref.experiments.comparison.plan import Cell
from sansref.experiments.comparison.workplace import Workplace


@dataclass(frozen=True)
class Failure:
    """Why a cell is not trained: one line, and where in the code if it was no error that a user can cause."""

    problem: str
    trace: str = ""


Outcomes = Generator[tuple[Cell, Failure | None]]
"""Cells as they end, in any order; None is one that is trained."""


def attempt(place: Workplace, cell: Cell, console: Console, patience: float = 5) -> Failure | None:
    """Train a cell, or go on where another process has left it.

    Parameters
    ----------
    place, cell
        What.
    console
        Where progress is drawn.
    patience
        Seconds to wait for another process to let go of the cell.
    """
    try:
        with _lock(place.run_of(cell).path, patience):
            train_cell(place, cell, console)
    except SansrefError as error:
        return Failure(str(error))
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    return None


def _lock(run: Path, patience: float) -> TextIO:
    """A file that keeps other processes off a run as long as it is open.

    The lock dies with its process, however that dies, and is seen by other machines that share the file system. Its
    file lies beside the run, whose folder must be empty to begin with, and stays: a process may be waiting for it.
    """
    path = run.with_name(f"{run.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
        if not _got(file, patience):
            with file:
                file.seek(0)
                cure = "Wait until it has ended or stop it, then give the same command again"
                raise FileError(run, f"is being worked on by {file.read() or 'another process'}", cure)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    except OSError as error:
        cure = "Choose a folder that you may write to, on a file system that can lock files"
        raise FileError(path, f"cannot be locked ({error.strerror})", cure) from None
    return file


def _got(file: TextIO, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        with suppress(BlockingIOError, PermissionError):
            # Unlike flock's, this lock is not inherited by processes that load data, which may live a little longer.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
