"""One try at a cell of the grid, which no other process may make at the same time."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from dataclasses import dataclass

from rich.console import Console

from sansref.errors import SansrefError
from sansref.experiments.comparison.cells import train_cell
from sansref.experiments.comparison.plan import Cell
from sansref.experiments.comparison.workplace import Workplace
from sansref.files import locked


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
        with locked(place.run_of(cell).path, patience):
            train_cell(place, cell, console)
    except SansrefError as error:
        return Failure(str(error))
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    return None
