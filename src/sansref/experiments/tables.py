"""Score tables for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sansref.experiments.scores import RANGE_NOTE, Score, Summary

HEADINGS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "nmse": "NMSE", "held_out": "held-out error"}
BEST: dict[str, Literal["highest", "lowest"]] = {
    "PSNR (dB)": "highest",
    "SSIM": "highest",
    "NMSE": "lowest",
    "held-out error": "lowest",
}
_DIGITS = {"psnr": 2, "ssim": 4, "nmse": 4, "held_out": 4}


def score_cells(summaries: Mapping[str, Summary]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a score table: mean ± standard deviation, or the bare value for a single slice."""
    rows = []
    for name, summary in summaries.items():
        cells = [name]
        for entry in fields(Score):
            digits = _DIGITS[entry.name]
            cell = f"{getattr(summary.mean, entry.name):.{digits}f}"
            if summary.count > 1:
                cell += f" ± {getattr(summary.std, entry.name):.{digits}f}"
            cells.append(cell)
        rows.append(cells)
    return ["method", *HEADINGS.values()], rows


def score_table(summaries: Mapping[str, Summary]) -> Table:
    """A table for the terminal, which says how the scores are defined and over how many slices."""
    count = next(iter(summaries.values())).count
    headings, rows = score_cells(summaries)
    over = "one slice" if count == 1 else f"mean ± standard deviation over {count} slices"
    table = Table(box=SIMPLE_HEAD, caption=f"{over}; {RANGE_NOTE}; held-out error: reference-free, lower is better")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def score_markdown(summaries: Mapping[str, Summary]) -> str:
    """The same table in Markdown."""
    headings, rows = score_cells(summaries)
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def show(table: Table) -> None:
    """Print a table on the standard output, wider than it is rather than with numbers cut off."""
    Console(width=max(Console().width, 100)).print(table)
