"""Score a trained run on a folder of scans, on subjects that it did not learn from."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from math import isnan
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track
from torch import Tensor

from sansref.data.prepare import Preparation
from sansref.data.readers import FileInfo, ReaderOptions
from sansref.errors import FileError, SettingError
from sansref.experiments.figures import Panel, error_figure
from sansref.experiments.scores import RANGE_NOTE, Reconstruction, Score, Summary, magnitude, score_scan, zero_filled
from sansref.files import atomic_path, write_text
from sansref.kspace.family import MaskFamily
from sansref.methods import measured, stack
from sansref.scan import Scan
from sansref.training.config import RunConfig
from sansref.training.run import RunDirectory
from sansref.training.train import knows, scan_files

Subjects = Literal["auto", "test", "all"]


@dataclass(frozen=True)
class Row:
    """One slice: where it comes from, and its scores by method."""

    info: FileInfo
    slice: int
    scores: dict[str, Score]


@dataclass
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    rows
        One per slice.
    left_out
        Subjects that were not scored because the run learned from them.
    bad_files
        Files that could not be read and were skipped.
    """

    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    bad_files: list[FileError] = field(default_factory=list)

    def summaries(self) -> dict[str, Summary]:
        """Mean and standard deviation over slices, per method."""
        return {name: Summary.of([row.scores[name] for row in self.rows]) for name in self.rows[0].scores}


def evaluate(
    run: RunDirectory,
    data: Path,
    out: Path,
    subjects: Subjects = "auto",
    skip_bad: bool = False,
    console: Console | None = None,
) -> Evaluation:
    """Score a run and the zero-filled image on every chosen slice of a folder.

    Parameters
    ----------
    run
        A finished run.
    data
        Folder of scans, or one file; selected, undersampled and scaled as the run's configuration says.
    out
        Folder for ``scores.csv``, ``summary.json`` and figures of the worst and the median slice.
    subjects
        auto leaves out the subjects that the run trained or validated on, test takes only those that it set
        aside, all takes everyone. In other data than the run's, all subjects are new, whatever their names.
    skip_bad
        Leave unreadable files out instead of stopping at the first.
    console
        Where progress is drawn.

    Raises
    ------
    SettingError
        If no subject is left to evaluate on.
    """
    config = run.config()
    methods: dict[str, Reconstruction] = {"zero-filled": zero_filled, config.method: run.load().reconstruct}
    families = {emulated: config.sampling.family(emulated) for emulated in (True, False)}
    evaluation = Evaluation()
    files, evaluation.bad_files = scan_files(data, ReaderOptions(config.selection.plane), skip_bad)
    files, evaluation.left_out = _chosen(files, run, subjects)
    console = console or Console(stderr=True)
    for info in track(files, "scoring", console=console, transient=True, disable=not console.is_terminal):
        try:
            evaluation.rows += _score_file(config, families, methods, info)
        except FileError as error:
            if not skip_bad:
                raise
            evaluation.bad_files.append(error)
    if not evaluation.rows:
        reason = f" ({evaluation.bad_files[0]})" if evaluation.bad_files else ""
        raise SettingError(f"{data} gave no slice to evaluate on{reason}")
    _write(evaluation, config, methods, out)
    return evaluation


def _chosen(files: list[FileInfo], run: RunDirectory, subjects: Subjects) -> tuple[list[FileInfo], list[str]]:
    parts = run.subjects() if knows(run, files) else {"training": [], "validation": [], "test": []}
    learned = {*parts["training"], *parts["validation"]}
    found = {info.subject for info in files}
    wanted = {"all": found, "test": found & set(parts["test"]), "auto": found - learned}[subjects]
    if not wanted:
        raise SettingError(
            f"none of the {len(found)} subject(s) is left to evaluate on: train with --test 0.2 to set some aside, "
            "give other data, or use --subjects all to score what was trained on"
        )
    return [info for info in files if info.subject in wanted], sorted(found - wanted)


def _score_file(
    config: RunConfig, families: dict[bool, MaskFamily], methods: dict[str, Reconstruction], info: FileInfo
) -> list[Row]:
    rows = []
    for scan in config.preparation.scans(info.path):
        options, number = config.training, scan.meta.slice
        scores = {
            name: score_scan(method, scan, families[scan.meta.emulated], options.held_out, options.seed, number)[0]
            for name, method in methods.items()
        }
        rows.append(Row(info, number, scores))
    return rows


def _write(evaluation: Evaluation, config: RunConfig, methods: dict[str, Reconstruction], out: Path) -> None:
    with atomic_path(out / "scores.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "file", "slice", "method", *asdict(next(iter(evaluation.rows[0].scores.values())))])
        for row in evaluation.rows:
            for name, score in row.scores.items():
                origin = [row.info.subject, row.info.path.name, row.slice]
                writer.writerow([*origin, name, *(f"{value:.6g}" for value in asdict(score).values())])
    summary = {
        "scores": RANGE_NOTE,
        "subjects": sorted({row.info.subject for row in evaluation.rows}),
        "methods": {name: result.as_dict() for name, result in evaluation.summaries().items()},
    }
    write_text(out / "summary.json", json.dumps(summary, indent=2))
    for title, row in _telling_rows(evaluation.rows, config.method):
        scan = _slice_of(config.preparation, row)
        assert scan.reference is not None
        panels = [_panel(name, method, scan, row.scores[name]) for name, method in methods.items()]
        subject = f"{title} slice: {row.info.subject}, slice {row.slice}"
        error_figure(out / f"{title}.png", magnitude(scan.reference, scan), panels, subject)


def _telling_rows(rows: list[Row], method: str) -> Iterator[tuple[str, Row]]:
    """The worst slice with a reference before the median one: averages hide failures."""
    known = [row for row in rows if not isnan(row.scores[method].psnr)]
    ranked = sorted(known, key=lambda row: row.scores[method].psnr)
    if ranked:
        yield "worst", ranked[0]
        yield "median", ranked[len(ranked) // 2]


def _slice_of(recipe: Preparation, row: Row) -> Scan:
    return next(scan for scan in recipe.scans(row.info.path) if scan.meta.slice == row.slice)


def _panel(name: str, method: Reconstruction, scan: Scan, score: Score) -> Panel:
    image: Tensor = method(stack([measured(scan)]))[0].detach()
    return Panel(name, magnitude(image, scan), f"{score.psnr:.2f} dB / {score.ssim:.4f}")
