"""Score tables for the terminal and for Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isnan
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from sansref.errors import printable
from sansref.metrics.lpips import BackboneName
from sansref.results.scores import MINMAX_NOTE, RANGE_NOTE, Normalise, Summary

HEADINGS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "nmse": "NMSE", "lpips": "LPIPS", "held_out": "held-out error"}
BEST: dict[str, Literal["highest", "lowest"]] = {
    "PSNR (dB)": "highest",
    "SSIM": "highest",
    "NMSE": "lowest",
    "held-out error": "lowest",
}
UNDEFINED = "\N{EN DASH}"
NO_WEIGHTS = "no weights"
DIGITS = {"psnr": 2, "ssim": 4, "nmse": 4, "lpips": 4, "held_out": 4}


@dataclass(frozen=True)
class Scoring:
    """How scores were taken, which a table must say beside the numbers.

    Attributes
    ----------
    normalise
        Scale on which images were compared with the reference.
    lpips
        Backbone of the perceptual distance; None leaves its column out.
    weights
        False if LPIPS was asked for, but its weights were not found.
    data
        What there is to say of the data, see :func:`sansref.results.scores.data_note`.
    """

    normalise: Normalise = "none"
    lpips: BackboneName | None = None
    weights: bool = True
    data: str = ""

    @property
    def note(self) -> str:
        """In words."""
        note = MINMAX_NOTE if self.normalise == "minmax" else RANGE_NOTE
        if self.lpips and self.weights:
            note += "; LPIPS 0.1 with the same data range, lower is better"
        return f"{note}; {self.data}" if self.data else note

    @property
    def headings(self) -> dict[str, str]:
        """Names of the scores that are shown, and what stands above them."""
        shown = {name: heading for name, heading in HEADINGS.items() if name != "lpips" or self.lpips}
        return {**shown, "lpips": f"LPIPS ({self.lpips})"} if self.lpips else shown


PLAIN = Scoring()


def score_cells(summaries: Mapping[str, Summary], scoring: Scoring = PLAIN) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a score table: mean ± standard deviation, or the bare value for a single slice."""
    rows = [
        [name, *(_cell(summary, score, scoring) for score in scoring.headings)] for name, summary in summaries.items()
    ]
    return ["method", *scoring.headings.values()], rows


def _cell(summary: Summary, score: str, scoring: Scoring) -> str:
    mean, std = getattr(summary.mean, score), getattr(summary.std, score)
    if score == "lpips" and not scoring.weights:
        return NO_WEIGHTS
    if isnan(mean):
        return UNDEFINED
    spread = f" ± {std:.{DIGITS[score]}f}" if summary.known[score] > 1 else ""
    return f"{mean:.{DIGITS[score]}f}{spread}"


def score_note(summaries: Mapping[str, Summary], scoring: Scoring = PLAIN) -> str:
    """How the scores of a table are defined, and over how many slices."""
    summary = next(iter(summaries.values()))
    count, known = summary.count, summary.known["psnr"]
    over = "one slice" if count == 1 else f"mean ± standard deviation over {count} slices"
    if known == 0:
        over += ", without a reference"
    elif known < count:
        over += f", against the reference over the {known} that have one"
    return f"{over}; {scoring.note}; held-out error: reference-free, lower is better"


def score_table(summaries: Mapping[str, Summary], scoring: Scoring = PLAIN) -> Table:
    """A table for the terminal, which says how the scores are defined and over how many slices."""
    headings, rows = score_cells(summaries, scoring)
    table = Table(box=SIMPLE_HEAD, caption=score_note(summaries, scoring))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def score_markdown(summaries: Mapping[str, Summary], scoring: Scoring = PLAIN) -> str:
    """The same table in Markdown."""
    headings, rows = score_cells(summaries, scoring)
    return markdown_table(map(markdown_text, headings), [map(markdown_text, row) for row in rows]) + "\n"


def markdown_table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells, which are Markdown, as a table without a last line break; all columns but the first to the right."""
    head = [*headings]
    grid = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in grid)


def markdown_text(text: str) -> str:
    """A line that Markdown shows as it is: no markup, no link, no picture."""
    return re.sub(r"([\\`*_|<]|(?<=\])[(\[:])", r"\\\1", printable(text))


def show(table: Table) -> None:
    """Print a table on the standard output, wider than it is rather than with numbers cut off."""
    wide = Console(width=10_000)
    needed = Measurement.get(wide, wide.options, table).maximum
    Console(width=max(Console().width, 100, needed)).print(table)
