"""The log of a run: ``metrics.csv``, one row an epoch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from sansref.errors import FileError
from sansref.files import csv_text, write_text
from sansref.yaml_json import read_text

_FIRST, _LAST = ("stage", "epoch"), ("learning_rate", "seconds")


class History:
    """One CSV row per epoch, the same after a kill and a restart as without.

    Parameters
    ----------
    path
        The run's CSV file, shared by all stages.
    stage
        Written in each row.
    first
        The epoch that training goes on with; rows of epochs that will be trained again are forgotten.

    Attributes
    ----------
    rows
        Rows so far, of all stages.
    """

    def __init__(self, path: Path, stage: int, first: int) -> None:
        self._path, self._stage = path, stage
        self.rows = [row for row in read_history(path) if (int(row["stage"]), int(row["epoch"])) < (stage, first)]

    def add(self, epoch: int, means: Mapping[str, float], learning_rate: float, seconds: float) -> dict[str, str]:
        """Write all rows again, with that of an epoch: the file is small, and never half written."""
        row = {
            "stage": str(self._stage),
            "epoch": str(epoch),
            **{name: f"{value:.6g}" for name, value in means.items()},
            "learning_rate": f"{learning_rate:.6g}",
            "seconds": f"{seconds:.3f}",
        }
        self.rows.append(row)
        parts = sorted({name for one in self.rows for name in one} - {*_FIRST, *_LAST})  # stages may log others
        names = [*_FIRST, *parts, *_LAST]
        cells = [names, *([one.get(name, "") for name in names] for one in self.rows)]
        # A run that is removed meanwhile is not trained for hours, into a folder that would lack the rest of it.
        write_text(self._path, csv_text(cells), parents=False)
        return row


def read_history(path: Path) -> list[dict[str, str]]:
    """Rows of a run's ``metrics.csv``, an empty list before the first epoch has ended.

    Raises
    ------
    FileError
        If it is damaged.
    """
    if not path.exists():
        return []
    cure = "Restore the file or train again"
    text = read_text(path, cure)
    try:
        rows = list(csv.DictReader(text.splitlines(), strict=True))
        for row in rows:
            _ = int(row["stage"]), int(row["epoch"]), float(row["score"])
            if None in row or None in row.values():
                raise ValueError("a row has more or fewer cells than the first")
            _ = [float(value) for value in row.values() if value]
    except (ValueError, KeyError, TypeError, csv.Error):
        raise FileError(path, "is not a log of epochs", cure) from None
    return rows


def kept_row(rows: Sequence[dict[str, str]], keep: Literal["best", "last"]) -> dict[str, str]:
    """The row of the epoch whose weights a run keeps, of its best stage; ``rows`` are not empty."""
    if keep == "last":
        rows = list({row["stage"]: row for row in rows}.values())
    return min(rows, key=lambda row: float(row["score"]))
