"""The whole comparison: train what is missing, then score everything on the test scans, then write what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import yaml
from rich.console import Console
from rich.progress import track

from sansref.commands.compare.cells import score_cell
from sansref.commands.compare.figures import draw_curves, draw_errors, draw_spread
from sansref.commands.compare.plan import Plan, acceleration_name
from sansref.commands.compare.shown_slices import shown_slices
from sansref.commands.compare.workers import train_all
from sansref.commands.compare.workplace import Workplace
from sansref.files import write_text
from sansref.results.render import latex, markdown, numbers_csv
from sansref.results.scorer import PerceptualOptions
from sansref.results.scores import ScoredSlice, write_scores
from sansref.results.tables import Scoring, Summary, data_note, summarise
from sansref.results.viewer.contents import Contents, Curve, Distribution
from sansref.results.viewer.page import write_page
from sansref.training.run import environment


@dataclass(frozen=True)
class Compared:
    """What a comparison found.

    Attributes
    ----------
    tables
        Tables of all methods, in Markdown.
    missing
        Why LPIPS was asked for and not computed, or empty.
    """

    tables: str
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
    rows: list[ScoredSlice] = []
    cells = place.plan.cells
    for cell in track(cells, "scoring", console=console, transient=True, disable=not console.is_terminal):
        rows += score_cell(place, cell, lpips)
    scoring = Scoring(place.plan.normalise, perceptual.backbone, weights=not missing, data=_data_note(place))
    summaries = summaries_of(place.plan, rows, scoring)
    tables = [table for summary in summaries for table in summary.tables()]
    text = markdown(tables, place.plan.title)
    write_scores(place.out / "scores.csv", rows)
    write_text(place.out / "table.md", text)
    write_text(place.out / "table.tex", latex(tables))
    write_text(place.out / "table.csv", numbers_csv(summaries))
    _write_report(place, rows, summaries)
    return Compared(text, missing)


def summaries_of(plan: Plan, rows: Sequence[ScoredSlice], scoring: Scoring) -> list[Summary]:
    """Work out the numbers at each acceleration from the scores of all cells."""
    ends = (plan.baseline, plan.gap, len(plan.seeds))
    return [
        summarise([row for row in rows if row.acceleration == place], scoring, list(plan.methods), place, *ends)
        for place in plan.accelerations
    ]


def _data_note(place: Workplace) -> str:
    tested = {cell.test_set: place.test_scans(cell) for cell in place.plan.cells}
    slices = [
        (meta.synthetic, coils > 1 and not meta.synthetic)
        for scans in tested.values()
        for meta, (coils, *_) in zip(scans.metas, scans.shapes, strict=True)
    ]
    return data_note(slices, place.plan.cells[0].config.coils.coil_reference)


def _write_report(place: Workplace, rows: Sequence[ScoredSlice], summaries: Sequence[Summary]) -> None:
    slices = shown_slices(place, rows)
    trained = [cell for cell in place.plan.cells if cell.learned]
    curves = [
        Curve.of_run(cell.label, acceleration_name(cell.acceleration), place.run_of(cell).path) for cell in trained
    ]
    metrics = {name: metric for summary in summaries for name, metric in summary.metrics.items()}
    groups = {acceleration_name(a): [row for row in rows if row.acceleration == a] for a in place.plan.accelerations}
    distributions = {
        name: Distribution.of(name, metric, place.plan.methods, groups) for name, metric in metrics.items()
    }
    figures = place.out / "figures"
    draw_errors(figures, slices)
    draw_curves(figures, curves)
    for name, part in distributions.items():
        draw_spread(figures, name, part)
    page = Contents(
        place.plan.title,
        tables=[table for summary in summaries for table in summary.tables()],
        distributions=list(distributions.values()),
        slices=slices,
        curves=curves,
        config=_resolved(place),
        versions={name: str(value) for name, value in environment().items()},
    )
    write_page(place.out / "report.html", page)


def _resolved(place: Workplace) -> str:
    """The configuration of every method at every acceleration, for the first fold and seed."""
    first: dict[str, dict[str, object]] = {}
    for cell in place.plan.cells:
        name = f"{cell.label}, {acceleration_name(cell.acceleration)}"
        settings = cell.config.values() if cell.learned else {"method": cell.method, **place.recipe(cell)}
        first.setdefault(name, settings)
    return yaml.safe_dump(first, sort_keys=False, allow_unicode=True)
