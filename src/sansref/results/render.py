"""Tables for the terminal, for Markdown and for LaTeX, and their numbers as CSV."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from math import isnan, nan

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as TerminalTable

from sansref.errors import printable
from sansref.files import csv_text
from sansref.results.scores import UNDEFINED
from sansref.results.statistics import Share
from sansref.results.tables import Line, Summary, Table

CSV_COLUMNS = (
    *("acceleration", "method", "metric", "slices", "subjects", "mean", "std", "low", "high"),
    *("difference", "difference_low", "difference_high", "paired_subjects", "p", "p_holm"),
    *("gap_share", "gap_share_low", "gap_share_high"),
)

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"},
    **{"±": r"$\pm$", "Δ": r"$\Delta$", "\N{MINUS SIGN}": "$-$", UNDEFINED: "--"},
    # At the start of a row these would be read as options of the end of the row before it.
    **{"[": "{[}", "*": "{*}"},
}


def show(tables: Iterable[Table]) -> None:
    """Print tables on the standard output, wider than it is rather than with numbers cut off."""
    for table in tables:
        shown = terminal_table(table)
        wide = Console(width=10_000)
        needed = Measurement.get(wide, wide.options, shown).maximum
        Console(width=max(Console().width, 100, needed)).print(shown)


def terminal_table(table: Table) -> TerminalTable:
    """A table for the terminal, with its note below."""
    shown = TerminalTable(box=SIMPLE_HEAD, caption=table.note)
    for number, heading in enumerate(table.headings):
        shown.add_column(heading.text, justify="left" if number == 0 else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(entry.text for entry in row))
    return shown


def markdown(tables: Iterable[Table], title: str = "") -> str:
    """Tables in Markdown under their captions, the best of each column in bold."""
    parts = [f"## {markdown_text(title)}"] if title else []
    for table in tables:
        head = [markdown_text(heading.text) for heading in table.headings]
        grid = [head, ["---", *["---:"] * (len(head) - 1)], *_texts(table, markdown_text, "**{}**")]
        lines = "\n".join("| " + " | ".join(line) + " |" for line in grid)
        parts += [f"### {markdown_text(table.caption)}", lines, markdown_text(table.note)]
    return "\n\n".join(parts) + "\n"


def markdown_text(text: str) -> str:
    """A line that Markdown shows as it is: no markup, no link, no picture."""
    return re.sub(r"([\\`*_|<]|(?<=\])[(\[:])", r"\\\1", printable(text))


def latex(tables: Iterable[Table]) -> str:
    """Tables in LaTeX, which needs the package booktabs, the best of each column in bold."""
    parts = [r"% needs \usepackage{booktabs}"]
    for table in tables:
        head = [_latex_text(heading.text) for heading in table.headings]
        rows = [" & ".join(row) + r" \\" for row in _texts(table, _latex_text, r"\textbf{{{}}}")]
        parts += [
            r"\begin{table}\centering\footnotesize",
            rf"\caption{{{_latex_text(table.caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            *(r"\toprule", " & ".join(head) + r" \\", r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}",
            rf"\par\smallskip {_latex_text(table.note)}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text))


def _texts(table: Table, escape: Callable[[str], str], bold: str) -> list[list[str]]:
    rows = [[escape(entry.text) for entry in row] for row in table.rows]
    for row, column in table.highlights():
        rows[row][column] = bold.format(rows[row][column])
    return rows


def numbers_csv(summaries: Sequence[Summary]) -> str:
    """All numbers in full, one line for each acceleration, method and score; what is not defined is empty."""
    rows: list[list[object]] = [[*CSV_COLUMNS]]
    for summary in summaries:
        for label, line in summary.lines.items():
            for metric, found in line.estimates.items():
                counted = [found.slices, found.subjects, found.mean, found.std, *found.interval]
                numbers = ["" if isnan(number) else number for number in (*counted, *_tested(line, metric))]
                place = "" if summary.acceleration is None else summary.acceleration
                rows.append([place, label, metric, *numbers])
    return csv_text(rows)


def _tested(line: Line, metric: str) -> list[float]:
    found, share = line.differences.get(metric), line.shares.get(metric, Share(nan, (nan, nan)))
    numbers = [nan] * 6 if found is None else [found.mean, *found.interval, found.subjects, found.p, found.corrected]
    return [*numbers, share.share, *share.interval]
