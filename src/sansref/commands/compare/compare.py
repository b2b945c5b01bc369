"""The whole comparison: train what is missing, then score everything on the test scans, then write what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import track

from sansref.commands.compare.cells import score_cell
from sansref.commands.compare.figures import draw_curves, draw_errors, draw_spread
from sansref.commands.compare.plan import acceleration_name
from sansref.commands.compare.shown_slices import shown_slices
from sansref.commands.compare.tables import (
    BETTER,
    ComparisonTable,
    build_table,
    comparison_csv,
    comparison_latex,
    comparison_markdown,
    sortable_tables,
)
from sansref.commands.compare.workers import train_all
from sansref.commands.compare.workplace import Workplace
from sansref.files import write_text
from sansref.results.score_rows import SliceScore, write_scores
from sansref.results.score_tables import Scoring
from sansref.results.scores import PerceptualOptions, data_note
from sansref.results.statistics import by_subject
from sansref.results.viewer.contents import Comparison, Curve, Distribution
from sansref.results.viewer.page import write_page
from sansref.training.history import read_history
from sansref.training.run import environment


@dataclass(frozen=True)
class Compared:
    """What a comparison found.

    Attributes
    ----------
    table
        Of all methods.
    missing
        Why LPIPS was asked for and not computed, or empty.
    """

    table: ComparisonTable
    missing: str


def compare(
    place: Workplace,
    jobs: int = 1,
    ray: str | None = None,
    perceptual: PerceptualOptions | None = None,
    console: Console | None = None,
) -> Compared:
    """Train the cells of a comparison that are not trained yet, score them all, and write tables, figures and report.

    Test scans are read when everything has been trained, and not before. What an earlier command has finished is used.

    Parameters
    ----------
    place
        What, on which data, where.
    jobs
        Cells trained side by side.
    ray
        Address of a Ray cluster to train on instead; None trains here.
    perceptual
        Whether LPIPS is taken.
    console
        Where progress is drawn.

    Raises
    ------
    SansrefError
        For unusable files or settings, or if cells have failed.
    """
    console, perceptual = console or Console(stderr=True), perceptual or PerceptualOptions()
    lpips, missing = perceptual.load()  # an unreadable file of weights is told before hours of training
    place.check()
    if place.found.left_out:
        console.out(f"left out: {place.found.left_out}", highlight=False)
    train_all(place, jobs, ray, console)
    place.check_data()  # trained for hours, on files that somebody may have replaced meanwhile
    rows: list[SliceScore] = []
    cells = place.plan.cells
    for cell in track(cells, "scoring", console=console, transient=True, disable=not console.is_terminal):
        rows += score_cell(place, cell, lpips)
    scoring = Scoring(place.plan.normalise, perceptual.backbone, weights=not missing, data=_data_note(place))
    table = build_table(place.plan, rows, scoring)
    write_scores(place.out / "scores.csv", rows)
    _write_tables(place.out, table)
    _write_report(place, rows, table)
    return Compared(table, missing)


def _data_note(place: Workplace) -> str:
    tested = {cell.test_set: place.test_scans(cell) for cell in place.plan.cells}
    slices = [
        (meta.synthetic, coils > 1 and not meta.synthetic)
        for scans in tested.values()
        for meta, (coils, *_) in zip(scans.metas, scans.shapes, strict=True)
    ]
    return data_note(slices, place.plan.cells[0].config.coils.coil_reference)


def _write_tables(out: Path, table: ComparisonTable) -> None:
    write_text(out / "table.md", comparison_markdown(table))
    write_text(out / "table.tex", comparison_latex(table))
    write_text(out / "table.csv", comparison_csv(table))


def _write_report(place: Workplace, rows: Sequence[SliceScore], table: ComparisonTable) -> None:
    slices, curves = shown_slices(place, rows), _training_curves(place)
    distributions = {
        name: _distribution(place, rows, name, heading) for name, heading in table.scoring.headings.items()
    }
    figures = place.out / "figures"
    draw_errors(figures, slices)
    draw_curves(figures, curves)
    for name, part in distributions.items():
        draw_spread(figures, name, part)
    page = Comparison(
        place.plan.title,
        "",
        sortable_tables(table),
        list(distributions.values()),
        slices,
        curves,
        config=_resolved(place),
        versions={name: str(value) for name, value in environment().items()},
    )
    write_page(place.out / "report.html", page, max_slices=place.plan.figures * len(place.plan.accelerations))


def _training_curves(place: Workplace) -> list[Curve]:
    """The validation score of every epoch of every training, stages one after the other."""
    curves = []
    for cell in (cell for cell in place.plan.cells if cell.learned):
        scores = [float(row["score"]) for row in read_history(place.run_of(cell).path / "metrics.csv")]
        curves.append(Curve(cell.label, acceleration_name(cell.acceleration), range(1, len(scores) + 1), scores))
    return curves


def _distribution(place: Workplace, rows: Sequence[SliceScore], metric: str, heading: str) -> Distribution:
    """A metric of every slice, the mean over seeds."""
    values = {
        acceleration_name(acceleration): {
            label: _per_slice(rows, acceleration, label, metric) for label in place.plan.methods
        }
        for acceleration in place.plan.accelerations
    }
    return Distribution(heading, values, BETTER[metric])


def _per_slice(rows: Sequence[SliceScore], acceleration: float, label: str, metric: str) -> list[float]:
    own = [row for row in rows if (row.acceleration, row.label) == (acceleration, label)]
    return [value for values in by_subject(own, metric).values() for value in values]


def _resolved(place: Workplace) -> str:
    """The configuration of every method at every acceleration, for the first fold and seed."""
    first: dict[str, dict[str, object]] = {}
    for cell in place.plan.cells:
        name = f"{cell.label}, {acceleration_name(cell.acceleration)}"
        settings = cell.config.values() if cell.learned else {"method": cell.method, **place.recipe(cell)}
        first.setdefault(name, settings)
    return yaml.safe_dump(first, sort_keys=False, allow_unicode=True)
