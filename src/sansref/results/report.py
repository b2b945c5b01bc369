"""The report: one HTML file with tables, figures and settings, which needs neither network nor scripts."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sansref import __version__
from sansref.errors import FileError
from sansref.files import atomic_path
from sansref.results.error_figure import DPI

if TYPE_CHECKING:
    from jinja2 import Environment

Best = Literal["highest", "lowest"]

_CSS_DPI = 96
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# What a cell starts with, and what may follow it: " ± 0.8", " dB", "%", "×" and "x", but not the rest of a word.
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|inf|nan)(?=x?(?:[^\w.]|$))", re.IGNORECASE)
_MISSING = frozenset({"", "-", "\N{EN DASH}", "\N{EM DASH}", "n/a"})


@dataclass(frozen=True)
class Table:
    """A table of results.

    Columns in which each cell starts with a number ("33.41 ± 1.20") are aligned to the right.

    Attributes
    ----------
    caption
        What the table shows.
    columns
        Headers. The first column names the rows.
    rows
        Cells as they are printed, one for each column.
    best
        Columns whose best cells are set in bold, by the number that they start with; equal numbers share it.

    Raises
    ------
    ValueError
        If a row has another length than ``columns``, or ``best`` names an unknown column.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Mapping[str, Best] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"row must have {len(self.columns)} cells, as columns has, got {list(row)}")
        if unknown := [name for name in self.best if name not in self.columns]:
            raise ValueError(f"best must name columns of {list(self.columns)}, got {unknown}")

    @cached_property
    def numeric(self) -> frozenset[int]:
        """Indices of the columns of numbers."""
        return frozenset(index for index in range(len(self.columns)) if self._is_numeric(index))

    @cached_property
    def highlights(self) -> frozenset[tuple[int, int]]:
        """Row and column of the cells set in bold."""
        return frozenset((row, self.columns.index(name)) for name in self.best for row in self._best_rows(name))

    def _is_numeric(self, column: int) -> bool:
        filled = [row[column] for row in self.rows if row[column].strip() not in _MISSING]
        return bool(filled) and all(_leading_number(cell) is not None for cell in filled)

    def _best_rows(self, name: str) -> list[int]:
        column = self.columns.index(name)
        numbers = {index: _leading_number(row[column]) for index, row in enumerate(self.rows)}
        known = {index: number for index, number in numbers.items() if number is not None and number == number}
        if not known:
            return []
        best = max(known.values()) if self.best[name] == "highest" else min(known.values())
        return [index for index, number in known.items() if number == best]


def _leading_number(cell: str) -> float | None:
    match = _NUMBER.match(cell.strip().replace("\N{MINUS SIGN}", "-"))
    return None if match is None else float(match[0])


@dataclass(frozen=True)
class Figure:
    """A picture of a report.

    Attributes
    ----------
    path
        A PNG file; its content is copied into the report.
    caption
        What the picture shows.
    alt
        What it tells, for a reader who cannot see it.
    """

    path: Path
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading, and what stands below it: paragraphs of plain text, then tables, then figures."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class _Picture:
    """A figure's picture as HTML takes it: a data URI, and the size in CSS pixels."""

    uri: str
    width: int
    height: int


def write_report(
    path: str | Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    facts: Mapping[str, str] | None = None,
    settings: str = "",
) -> None:
    """Write a report as one HTML file.

    Parameters
    ----------
    path
        The file.
    title
        Heading of the page.
    lead
        The result in a sentence or two, plain text.
    sections
        In the order of the page.
    facts
        What was done with which data and versions, as name and value.
    settings
        The configuration as YAML, shown on demand; empty leaves it out.

    Raises
    ------
    FileError
        If a figure cannot be read or is not PNG, or the system refuses to write.
    """
    pictures = {figure.path: _picture(figure.path) for section in sections for figure in section.figures}
    html = (
        template_environment("sansref.results")
        .get_template("report.html.j2")
        .render(
            title=title,
            lead=lead,
            sections=sections,
            facts=facts or {},
            settings=settings,
            pictures=pictures,
            version=__version__,
        )
    )
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def template_environment(package: str) -> Environment:
    """How the templates of a package are filled in: everything is escaped, and a missing value is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _picture(path: Path) -> _Picture:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", "Make the figure again") from error
    if not data.startswith(_PNG_SIGNATURE) or len(data) < 24:
        raise FileError(path, "is not a PNG picture", "Make the figure again, as PNG")
    # Width and height are the first fields of the header chunk.
    width, height = (int.from_bytes(data[start : start + 4], "big") * _CSS_DPI // DPI for start in (16, 20))
    return _Picture("data:image/png;base64," + base64.b64encode(data).decode("ascii"), width, height)
