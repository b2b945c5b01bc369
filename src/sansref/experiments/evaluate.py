"""Score a trained run on a folder of scans, on subjects that it did not learn from."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields, replace
from math import isnan
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track

from sansref.data.placement import for_people
from sansref.data.readers import FileInfo, scan_files
from sansref.errors import FileError, SettingError
from sansref.experiments.figures import Panel, error_figure
from sansref.experiments.perceptual import PerceptualOptions
from sansref.experiments.scores import (
    BEST_SCALE,
    ZERO_FILLED,
    Normalise,
    Reconstruction,
    Score,
    Summary,
    data_note,
    score_best_scale,
    score_scan,
    scored_image,
    scored_reference,
    zero_filled,
)
from sansref.experiments.tables import Scoring, score_note
from sansref.files import claim, csv_text, keep_outside, write_text
from sansref.methods import Method, measured, stack
from sansref.metrics.lpips import LPIPS
from sansref.scan import Scan
from sansref.training.config import RunConfig
from sansref.training.parts import home_of, knows, learned_subjects
from sansref.training.run import RunDirectory

Subjects = Literal["auto", "test", "all"]


@dataclass(frozen=True)
class ScoreOptions(PerceptualOptions):
    """How reconstructions are compared with their reference.

    Attributes
    ----------
    normalise
        minmax scales every image by the minimum and maximum of the zero-filled image and the reference by its own;
        auto does so where the method knows relative grey values only, and nowhere else.
    maps
        Coil maps of the scans: a file, or a folder of files that are named as the scans are; null takes those in the
        scan's own file, if any, and none always estimates. Those of the run's training data are not taken.
    """

    normalise: Literal["auto", "none", "minmax"] = "auto"
    maps: str | None = None

    def scale_for(self, method: Method) -> Normalise:
        """The scale on which a method's images are compared."""
        if self.normalise == "auto":
            return "minmax" if method.relative else "none"
        return self.normalise


@dataclass(frozen=True)
class Row:
    """One slice: where it comes from, its scores by method, and what :func:`data_note` takes of it."""

    info: FileInfo
    slice: int
    scores: dict[str, Score]
    data: tuple[bool, bool] = (False, False)


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
    scoring
        How the scores were taken.
    missing
        Why LPIPS was asked for and not computed, or empty.
    note
        Which label maps and masks were left out, None without any.
    """

    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    bad_files: list[FileError] = field(default_factory=list)
    scoring: Scoring = field(default_factory=Scoring)
    missing: str = ""
    note: str | None = None

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
    options: ScoreOptions | None = None,
    subject_from: str | None = None,
) -> Evaluation:
    """Score a run and the zero-filled image, as it is and at its best scale, on every chosen slice of a folder.

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
    options
        How images are compared with the reference.
    subject_from
        Whose the files are, as in :class:`~sansref.data.selection.Selection`; None goes by what the run's
        configuration says.

    Raises
    ------
    SettingError
        If no subject is left to evaluate on, ``out`` holds something else or scans, or weights for LPIPS cannot be
        downloaded.
    FileError
        If a file cannot be read: a scan that may not be skipped, or the given weights.
    """
    keep_outside(out, data, "--data")
    config, method, options = run.config(), run.load(), options or ScoreOptions()
    config = replace(config, selection=replace(config.selection, maps=options.maps))
    claim(out, "evaluation")
    lpips, missing = options.load()
    scoring = Scoring(options.scale_for(method), options.backbone, weights=not missing)
    evaluation = Evaluation(scoring=scoring, missing=missing)
    reading = replace(config.selection, subject_from=subject_from or config.selection.subject_from).reader_options
    found = scan_files(data, reading, skip_bad=skip_bad, home=home_of(run))
    files, evaluation.bad_files, evaluation.note = found.files, found.bad, found.left_out
    parts = run.subjects() if knows(run, files) else None
    withheld = parts["training"] if parts is not None and not parts["validation"] else []
    methods: dict[str, Reconstruction] = {ZERO_FILLED: zero_filled, config.method: method.reconstruct}
    judge = _Judge(config, methods, scoring.normalise, lpips, withheld)
    files, evaluation.left_out = _chosen(files, run, subjects)
    console = console or Console(stderr=True)
    for info in track(files, "scoring", console=console, transient=True, disable=not console.is_terminal):
        try:
            evaluation.rows += judge.rows(info)
        except FileError as error:
            if not skip_bad:
                raise
            evaluation.bad_files.append(error)
    if not evaluation.rows:
        reason = f" ({evaluation.bad_files[0]})" if evaluation.bad_files else ""
        raise SettingError(f"{data} gave no slice to evaluate on{reason}")
    note = data_note([row.data for row in evaluation.rows], config.coils.coil_reference)
    evaluation.scoring = replace(scoring, data=note)
    _write_scores(evaluation, out)
    _draw(evaluation, judge, out)
    return evaluation


def _chosen(files: list[FileInfo], run: RunDirectory, subjects: Subjects) -> tuple[list[FileInfo], list[str]]:
    set_aside = set(run.subjects()["test"]) if knows(run, files) else set()
    found = {info.subject for info in files}
    wanted = {"all": found, "test": found & set_aside, "auto": found - learned_subjects(run, files)}[subjects]
    if not wanted:
        raise SettingError(
            f"none of the {len(found)} subject(s) is left to evaluate on: train with --test 0.2 to set some aside, "
            "give other data, or use --subjects all to score what was trained on"
        )
    return [info for info in files if info.subject in wanted], sorted(found - wanted)


class _Judge:
    """Scores files, and shows what was scored.

    ``withheld``: subjects on whose training scans the run was validated too; these are scored on the samples that it
    was not given: those of each scan's place among all of them.
    """

    def __init__(
        self,
        config: RunConfig,
        methods: dict[str, Reconstruction],
        normalise: Normalise,
        lpips: LPIPS | None,
        withheld: Collection[str],
    ) -> None:
        self.config, self.methods, self.normalise, self.lpips = config, methods, normalise, lpips
        self.families = {emulated: config.sampling.family(emulated) for emulated in (True, False)}
        self.withheld, self.judged = frozenset(withheld), 0

    def rows(self, info: FileInfo) -> list[Row]:
        """Score every slice of a file."""
        rows = []
        withheld = info.subject in self.withheld
        for place, scan in enumerate(self.config.preparation.scans(info), start=self.judged):
            scores = self._scores(scan, place if withheld else scan.meta.slice, withheld)
            rows.append(Row(info, scan.meta.slice, scores, (scan.meta.synthetic, self._combines_coils(info, scan))))
        self.judged += len(rows) if withheld else 0
        return rows

    def _combines_coils(self, info: FileInfo, scan: Scan) -> bool:
        """Whether a reference is made of several measured coils; that by rss is, also of one virtual coil."""
        coils = info.coils if self.config.coils.coil_reference == "rss" else len(scan.kspace)
        return scan.reference is not None and coils > 1 and not scan.meta.synthetic

    def _scores(self, scan: Scan, item: int, withheld: bool) -> dict[str, Score]:
        options, family, lpips = self.config.training, self.families[scan.meta.emulated], self.lpips
        seed = options.seed if withheld else options.seed_of_data
        scores = {}
        for name, method in self.methods.items():
            scores[name], _ = score_scan(method, scan, family, options.held_out, seed, item, lpips, self.normalise)
            if name == ZERO_FILLED:
                scores[BEST_SCALE] = score_best_scale(scan, lpips, self.normalise)
        return scores

    def figure(self, path: Path, row: Row, title: str) -> None:
        """Draw the images of a slice that has a reference, with their errors."""
        (scan,) = self.config.preparation.scans(row.info, [row.slice])
        panels = [self._panel(name, scan, row.scores[name]) for name in self.methods]
        error_figure(path, for_people(scored_reference(scan, self.normalise), scan.meta.geometry), panels, title)

    def _panel(self, name: str, scan: Scan, score: Score) -> Panel:
        image = scored_image(self.methods[name](stack([measured(scan)]))[0].detach(), scan, self.normalise)
        return Panel(name, for_people(image, scan.meta.geometry), f"{score.psnr:.2f} dB / {score.ssim:.4f}")


def _write_scores(evaluation: Evaluation, out: Path) -> None:
    names = [entry.name for entry in fields(Score) if entry.name != "lpips" or evaluation.scoring.lpips]
    rows: list[list[object]] = [["subject", "file", "slice", "method", *names]]
    for row in evaluation.rows:
        for method, score in row.scores.items():
            origin = [row.info.subject, row.info.path.name, row.slice]
            rows.append([*origin, method, *(f"{getattr(score, name):.6g}" for name in names)])
    write_text(out / "scores.csv", csv_text(rows))
    summaries = evaluation.summaries()
    summary = {
        "scores": score_note(summaries, evaluation.scoring),
        "normalise": evaluation.scoring.normalise,
        "lpips": evaluation.scoring.lpips,
        "lpips_missing": evaluation.missing or None,
        "subjects": sorted({row.info.subject for row in evaluation.rows}),
        "methods": {name: result.as_dict() for name, result in summaries.items()},
    }
    write_text(out / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False))


def _draw(evaluation: Evaluation, judge: _Judge, out: Path) -> None:
    for title, row in _telling_rows(evaluation.rows, judge.config.method):
        subject = f"{title} slice: {row.info.subject}, slice {row.slice}"
        judge.figure(out / f"{title}.png", row, subject)


def _telling_rows(rows: list[Row], method: str) -> Iterator[tuple[str, Row]]:
    """The worst slice with a reference before the median one: averages hide failures."""
    known = [row for row in rows if not isnan(row.scores[method].psnr)]
    ranked = sorted(known, key=lambda row: row.scores[method].psnr)
    if ranked:
        yield "worst", ranked[0]
        yield "median", ranked[len(ranked) // 2]
