"""Scores of a slice: the one record of them, and the CSV file that keeps it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from math import isnan, nan
from pathlib import Path
from typing import Literal, NamedTuple

from sansref.errors import FileError
from sansref.files import csv_name, csv_text, write_text

Better = Literal["higher", "lower"]
"""Which values of a score are better."""

Normalise = Literal["none", "minmax"]
"""Scale on which images are compared with the reference."""


class Metric(NamedTuple):
    """A score: its name with its unit, digits after the point, and which values are better."""

    heading: str
    digits: int
    better: Better

    @property
    def name(self) -> str:
        """Its name without the unit."""
        return self.heading.removesuffix(" (dB)")

    def text(self, value: float, sign: str = "") -> str:
        """A value as tables print it."""
        return number_text(value, self.digits, sign)


METRICS = {
    "psnr": Metric("PSNR (dB)", 2, "higher"),
    "ssim": Metric("SSIM", 4, "higher"),
    "nmse": Metric("NMSE", 4, "lower"),
    "lpips": Metric("LPIPS", 4, "lower"),
    "held_out": Metric("held-out error", 4, "lower"),
    "psnr_body": Metric("PSNR in the body (dB)", 2, "higher"),
    "ssim_body": Metric("SSIM in the body", 4, "higher"),
    "nmse_body": Metric("NMSE in the body", 4, "lower"),
}
"""All scores, by their names in :class:`ScoredSlice`."""

BODY = ("psnr_body", "ssim_body", "nmse_body")
"""Those over the body alone."""

UNDEFINED = "\N{EN DASH}"


def number_text(value: float, digits: int, sign: str = "") -> str:
    """A number as tables print it; :data:`UNDEFINED` for NaN."""
    return UNDEFINED if isnan(value) else f"{value:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class ScoredSlice:
    """One slice as one method reconstructs it; NaN is a score that is not defined.

    Attributes
    ----------
    label
        The method as tables name it.
    acceleration
        Number of grid points divided by the number of acquired samples.
    fold, seed
        Which training of a comparison; 0 for a run that stands alone.
    subject, slice
        Where the slice comes from.
    psnr
        Decibels, peak = maximum of the reference; NaN without a reference, as the next two.
    ssim
        Structural similarity, 7x7 uniform window, range as for PSNR.
    nmse
        Squared error of the magnitudes over the squared reference.
    held_out
        The reference-free score, lower is better; NaN for what is no reconstruction of samples.
    lpips
        Perceptual distance, range as for PSNR, lower is better; NaN also without weights.
    file
        Path of the scan's file in the data folder; empty in scores of earlier versions.
    psnr_body, ssim_body, nmse_body
        The same scores over the body alone, see :func:`sansref.metrics.quality.body_mask`; peak and range stay those of
        the whole image. NaN in scores of earlier versions.
    seconds
        What the reconstruction took, where it was measured; NaN elsewhere, and in scores of earlier versions.
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
    file: str = ""
    psnr_body: float = nan
    ssim_body: float = nan
    nmse_body: float = nan
    seconds: float = nan


COLUMNS = [entry.name for entry in fields(ScoredSlice)]
PUBLISHED = COLUMNS[:11]
"""Columns of the published scores, as the first version wrote them."""

EARLIER = (PUBLISHED, COLUMNS[:15])
"""Columns of files that earlier versions wrote."""

_READ: dict[str, Callable[[str], str | int | float]] = {
    **dict.fromkeys(COLUMNS, float),
    **dict.fromkeys(("label", "subject", "file"), csv_name),
    **dict.fromkeys(("fold", "seed", "slice"), int),
}


def file_in(data: Path, source: str | Path) -> str:
    """Path of a scan's file in the data folder, with slashes; its name where it is not in there, or is ``data``."""
    path, folder = Path(source).resolve(), data.resolve()
    return path.relative_to(folder).as_posix() if path != folder and path.is_relative_to(folder) else path.name


def write_scores(path: str | Path, rows: Sequence[ScoredSlice]) -> None:
    """Write scores as CSV, one line per slice and method, from which :func:`read_scores` reads equal values.

    Control characters in names become spaces.

    Raises
    ------
    FileError
        If the system refuses to write.
    """
    write_text(Path(path), csv_text([COLUMNS, *(astuple(row) for row in rows)]))


def read_scores(path: str | Path) -> list[ScoredSlice]:
    """Read what :func:`write_scores` of this or an earlier version wrote.

    Raises
    ------
    FileError
        If the file cannot be read, or is damaged, naming the line.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            if header not in (COLUMNS, *EARLIER):
                raise _damaged(path, f"begins with {','.join(header)!r}, not with the columns of scores")
            return [_row(path, lines.line_num, header, line) for line in lines]
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror or error})", "Give a file of scores") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, f"is not a CSV file of scores ({error})") from None


def _row(path: str | Path, number: int, header: list[str], line: list[str]) -> ScoredSlice:
    try:
        if len(line) != len(header):
            raise ValueError(f"{len(line)} columns instead of {len(header)}")
        return ScoredSlice(**{name: _READ[name](cell) for name, cell in zip(header, line, strict=True)})  # type: ignore[arg-type]
    except ValueError as error:
        raise _damaged(path, f"is damaged in line {number} ({error})") from None


def _damaged(path: str | Path, problem: str) -> FileError:
    return FileError(path, problem, "Remove it and score again")
