"""The log of a run: ``metrics.csv``, one row an epoch."""

from __future__ import annotations

import csv
from pathlib import Path

from sansref.errors import FileError
from sansref.yaml_json import read_text


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
        raise FileError(path, "is no log of epochs", cure) from None
    return rows
