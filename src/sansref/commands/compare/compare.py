"""The whole comparison: train what is missing, score everything on the test scans, draw and write what came out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from rich.console import Console
from rich.progress import track

from sansref.commands.compare.cells import score_cell, scorer_of
from sansref.commands.compare.plan import Cell, Plan, acceleration_name, slug
from sansref.commands.compare.workers import train_all
from sansref.commands.compare.workplace import Workplace
from sansref.commands.options import PerceptualOptions
from sansref.files import write_text
from sansref.metrics.lpips import load_lpips
from sansref.results.error_figure import build_error_figure, worst_region
from sansref.results.figures import add_legend, looks, new_axes, save_figure
from sansref.results.render import latex, markdown, numbers_csv
from sansref.results.scores import ScoredSlice, write_scores
from sansref.results.tables import Scoring, Summary, data_note, summarise
from sansref.results.viewer.contents import Contents, Curve, Distribution, ViewerSlice, telling_places, worst_places
from sansref.results.viewer.page import write_page
from sansref.training.run import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    # An unreadable file of weights is told before hours of training.
    lpips, missing = load_lpips(perceptual.backbone, perceptual.lpips_weights, perceptual.lpips_download)
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
    first = place.plan.cells[0]
    # The slices of all accelerations are the same.
    tested = {
        cell.test_set: place.test_scans(cell) for cell in place.plan.cells if cell.acceleration == first.acceleration
    }
    options, stored = first.config.coils, {str(info.path): info.coils for info in place.files}
    slices = [
        (meta.synthetic, options.of_reference(stored.get(meta.source, kept), kept) > 1 and not meta.synthetic)
        for scans in tested.values()
        for meta, (kept, *_) in zip(scans.metas, scans.shapes, strict=True)
    ]
    return data_note(slices, options.reference)


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


FORMATS = ("png", "svg")


def draw_errors(folder: Path, slices: Sequence[ViewerSlice]) -> None:
    """Write the worst slices and the median one of each acceleration, with errors and an enlargement of the worst part.

    Parameters
    ----------
    folder
        For ``errors-ACCELERATION-worst-N`` and ``errors-ACCELERATION-median``.
    slices
        Slices of each acceleration, from the worst to the best.
    """
    groups: dict[str, list[ViewerSlice]] = defaultdict(list)
    for shown in slices:
        groups[shown.acceleration].append(shown)
    for acceleration, group in groups.items():
        titles = [(f"worst {number}", shown) for number, shown in enumerate(group, start=1) if shown.among_worst]
        titles += [("median", shown) for shown in group if shown.is_median]
        for title, shown in titles:
            heading = f"{acceleration}, {title} slice: {shown.name}"
            figure = build_error_figure(shown, heading, worst_region(shown))
            _save(figure, folder / f"errors-{acceleration}-{slug(title)}")


def draw_spread(folder: Path, name: str, part: Distribution) -> None:
    """Write the box plots of one metric as ``NAME-ACCELERATION``."""
    for acceleration, methods in part.values.items():
        finite = {label: [one for one in values if np.isfinite(one)] for label, values in methods.items()}
        # Read downwards, the order is that of the table.
        known = {label: values for label, values in reversed(finite.items()) if values}
        if not known:
            continue
        figure, axes = new_axes(f"{part.metric}, {acceleration}", "")
        axes.boxplot(
            list(known.values()),
            orientation="horizontal",
            tick_labels=list(known),
            showmeans=True,
            medianprops={"color": "black"},
            meanprops={"marker": "D", "markerfacecolor": "#D55E00", "markeredgecolor": "none", "markersize": 5},
            flierprops={"marker": ".", "markersize": 4},
        )
        for text in axes.get_yticklabels():
            text.set_parse_math(False)
        _save(figure, folder / f"{name}-{acceleration}")


def draw_curves(folder: Path, curves: Sequence[Curve]) -> None:
    """Write the validation scores over epochs, a figure for each acceleration."""
    labels = list(dict.fromkeys(curve.method for curve in curves))
    look = dict(zip(labels, looks(len(labels)), strict=True))
    for acceleration in dict.fromkeys(curve.acceleration for curve in curves):
        figure, axes = new_axes(f"epoch, {acceleration}", "validation score (lower is better)")
        axes.set_yscale("log")
        named = {}
        for curve in (curve for curve in curves if curve.acceleration == acceleration):
            every = max(1, len(curve.epochs) // 8)
            line = axes.plot(
                curve.epochs, curve.scores, label=curve.method, markevery=every, linewidth=1.4, **look[curve.method]
            )
            named[curve.method] = line[0]
        add_legend(figure, list(named.values()))
        _save(figure, folder / f"training-{acceleration}")


def _save(figure: Figure, path: Path) -> None:
    for kind in FORMATS:
        save_figure(figure, path.with_name(f"{path.name}.{kind}"))


Key = tuple[int, int]
"""Fold and number of a test slice: subject and slice do not tell it where a subject has several files."""


def shown_slices(place: Workplace, rows: Sequence[ScoredSlice]) -> list[ViewerSlice]:
    """Test slices as the first seed's methods reconstruct them, turned upright.

    They run from the worst to the best by mean PSNR of the methods that are trained, see
    :func:`~sansref.results.viewer.contents.telling_places`.

    Parameters
    ----------
    place
        All of whose cells are trained.
    rows
        Scores of all cells, those of a cell in the order of its test scans.
    """
    own = [row for row in rows if row.seed == place.plan.seed_of(row.fold)]
    return [
        shown
        for acceleration in place.plan.accelerations
        for shown in _of_acceleration(place, acceleration, [row for row in own if row.acceleration == acceleration])
    ]


def _of_acceleration(place: Workplace, acceleration: float, rows: Sequence[ScoredSlice]) -> list[ViewerSlice]:
    cells = [
        cell
        for cell in place.plan.cells
        if cell.acceleration == acceleration and cell.seed == place.plan.seed_of(cell.fold)
    ]
    scores = _by_key(rows)
    ranked = _ranked(cells, scores)
    worst, places = worst_places(len(ranked)), telling_places(len(ranked), place.plan.figures)
    found: dict[int, ViewerSlice] = {}
    for fold in {ranked[at][0] for at in places}:
        own = [cell for cell in cells if cell.fold == fold]
        scorer, scans = scorer_of(place, own), place.test_scans(own[0])
        for at in (at for at in places if ranked[at][0] == fold):
            score = list(scores[ranked[at]].values())
            name, median = acceleration_name(acceleration), at == len(ranked) // 2
            found[at] = scorer.show(scans[ranked[at][1]], score, name, at < worst, median)
    return [found[at] for at in places]


def _by_key(rows: Sequence[ScoredSlice]) -> dict[Key, dict[str, ScoredSlice]]:
    """Scores of every slice by method."""
    numbers: dict[tuple[str, int], int] = defaultdict(int)
    scores: dict[Key, dict[str, ScoredSlice]] = defaultdict(dict)
    for row in rows:
        scores[row.fold, numbers[row.label, row.fold]][row.label] = row
        numbers[row.label, row.fold] += 1
    return scores


def _ranked(cells: Sequence[Cell], scores: Mapping[Key, Mapping[str, ScoredSlice]]) -> list[Key]:
    """All slices whose reference shows anything, the one with the lowest mean PSNR of trained methods first."""
    trained = {cell.label for cell in cells if cell.learned} or {cell.label for cell in cells}
    means = {key: float(np.mean([own[label].psnr for label in trained])) for key, own in scores.items()}
    return sorted((key for key, mean in means.items() if not np.isnan(mean)), key=means.__getitem__)
