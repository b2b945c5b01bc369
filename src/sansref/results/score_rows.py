"""The scores of every slice of a comparison, and the files they are kept in."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from math import nan
from pathlib import Path

from sansref.errors import FileError
from sansref.files import csv_name, csv_text, write_text


@dataclass(frozen=True)
class SliceScore:
    """Scores of one slice by one trained method; NaN is a score that is not defined.

    Attributes
    ----------
    label
        The method as the table names it.
    acceleration, fold, seed
        Where in the grid.
    subject, slice
        Where the slice comes from.
    psnr, ssim, nmse, held_out, lpips
        As in :class:`~sansref.results.scores.Score`.
    """

    label: str
    acceleration: float
    fold: int
    seed: int
    subject: str
    slice: int
    psnr: float = nan
    ssim: float = nan
    nmse: float = nan
    held_out: float = nan
    lpips: float = nan


COLUMNS = [entry.name for entry in fields(SliceScore)]


def write_scores(path: str | Path, rows: Sequence[SliceScore]) -> None:
    """Write scores as CSV, one line per slice, from which :func:`read_scores` reads equal values.

    Control characters in names become spaces.

    Raises
    ------
    FileError
        If the system refuses to write.
    """
    write_text(Path(path), csv_text([COLUMNS, *(astuple(row) for row in rows)]))


def read_scores(path: str | Path) -> list[SliceScore]:
    """Read what :func:`write_scores` wrote.

    Raises
    ------
    FileError
        If the file cannot be read, or is damaged, naming the line.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            if header != COLUMNS:
                raise _damaged(path, f"begins with {','.join(header)!r}, not with the columns of scores")
            return [_row(path, lines.line_num, line) for line in lines]
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror or error})", "Give a file of scores") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, f"is no CSV of scores ({error})") from None


def _row(path: str | Path, number: int, line: list[str]) -> SliceScore:
    try:
        if len(line) != len(COLUMNS):
            raise ValueError(f"{len(line)} columns instead of {len(COLUMNS)}")
        label, acceleration, fold, seed, subject, index, *scores = line
        place = (float(acceleration), int(fold), int(seed), csv_name(subject), int(index))
        return SliceScore(csv_name(label), *place, *(float(score) for score in scores))
    except ValueError as error:
        raise _damaged(path, f"is damaged in line {number} ({error})") from None


def _damaged(path: str | Path, problem: str) -> FileError:
    return FileError(path, problem, "Remove it and score again")
