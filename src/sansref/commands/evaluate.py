"""Score a trained run on a folder of scans, on subjects that it did not learn from."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields, replace
from math import isnan
from pathlib import Path
from statistics import median
from typing import Literal

from rich.console import Console
from rich.progress import track

from sansref.data.placement import for_people
from sansref.data.readers import FileInfo, scan_files
from sansref.errors import FileError, SettingError, printable
from sansref.files import claim, csv_text, keep_outside, write_text
from sansref.methods import Method
from sansref.methods.classical.regularisation import Choice, Classical, ClassicalName, choose_regularisation
from sansref.metrics.held_out import held_out_mask
from sansref.metrics.lpips import LPIPS
from sansref.results.figures import Panel, error_figure
from sansref.results.score_tables import Scoring, score_note
from sansref.results.scores import (
    BEST_SCALE,
    ZERO_FILLED,
    Normalise,
    PerceptualOptions,
    Reconstruction,
    Score,
    Summary,
    data_note,
    reference_noise,
    score_best_scale,
    score_scan,
    scored_image,
    scored_reference,
    zero_filled,
)
from sansref.scan import Scan
from sansref.training.config import RunConfig
from sansref.training.run import RunDirectory
from sansref.training.subjects import home_of, knows, learned_subjects

Subjects = Literal["auto", "test", "all"]

CLASSICAL: dict[ClassicalName, str] = {"l1_wavelet": "L1-wavelet", "total_variation": "total variation"}
"""What classical methods are called in tables and figures."""

SCANS = 4
"""Slices that a regularisation is chosen on, at most, evenly spread over all that are scored."""


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
    classical
        Compressed sensing that stands beside the run, its regularisation chosen by the error on held-out samples.
    """

    normalise: Literal["auto", "none", "minmax"] = "auto"
    maps: str | None = None
    classical: tuple[ClassicalName, ...] = ()

    def scale_for(self, method: Method) -> Normalise:
        """The scale on which a method's images are compared."""
        if self.normalise == "auto":
            return "minmax" if method.relative else "none"
        return self.normalise


@dataclass(frozen=True)
class Row:
    """One slice: where it comes from, its scores by method, and what :func:`data_note` takes of it.

    ``noise`` is that of a measured reference: the standard deviation as a share of its maximum, and the PSNR of a
    perfect image against it.
    """

    info: FileInfo
    slice: int
    scores: dict[str, Score]
    data: tuple[bool, bool] = (False, False)
    noise: tuple[float, float] | None = None


@dataclass
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    rows
        One per slice.
    left_out
        Subjects that were not scored because the run learned from them.
    learned
        Subjects that were scored although the run learned from them.
    chosen
        Regularisation of each classical method.
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
    learned: list[str] = field(default_factory=list)
    chosen: dict[str, Choice] = field(default_factory=dict)
    bad_files: list[FileError] = field(default_factory=list)
    scoring: Scoring = field(default_factory=Scoring)
    missing: str = ""
    note: str | None = None

    def summaries(self) -> dict[str, Summary]:
        """Mean and standard deviation over slices, per method."""
        return {name: Summary.of([row.scores[name] for row in self.rows]) for name in self.rows[0].scores}

    @property
    def noise(self) -> tuple[float, float] | None:
        """The medians of the noise of measured references, as in :class:`Row`; None where none is measured."""
        levels = [row.noise for row in self.rows if row.noise is not None]
        return (median(level for level, _ in levels), median(limit for _, limit in levels)) if levels else None

    def notes(self) -> Iterator[str]:
        """What a reader of the scores must know, a line each."""
        if self.missing:
            yield f"without LPIPS: {self.missing}"
        for name, choice in self.chosen.items():
            yield f"{name}: regularisation {choice.regularisation:.2g}, chosen on samples held out of some scans"
        if self.noise is not None:
            level, limit = self.noise
            yield (
                f"references are measured and noisy (standard deviation {level:.1%} of their maximum): PSNR, SSIM and "
                f"NMSE take their noise for truth and punish smoothing; a perfect image would have about {limit:.1f} dB"
            )
        if self.learned:
            yield f"the run was trained on {', '.join(map(printable, self.learned))}: new subjects would score lower"
        else:
            yield "the run was trained on none of the scored subjects"
        if self.note:
            yield f"left out: {self.note}"
        if self.left_out:
            names = ", ".join(map(printable, self.left_out))
            yield f"left out, because the run learned from them or did not set them aside: {names}"


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
    lpips, missing = options.load()
    scoring = Scoring(options.scale_for(method), options.backbone, weights=not missing)
    evaluation = Evaluation(scoring=scoring, missing=missing)
    reading = replace(config.selection, subject_from=subject_from or config.selection.subject_from).reader_options
    found = scan_files(data, reading, skip_bad=skip_bad, home=home_of(run))
    files, evaluation.bad_files, evaluation.note = found.files, found.bad, found.left_out
    parts = run.subjects() if knows(run, files) else None
    withheld = parts["training"] if parts is not None and not parts["validation"] else []
    files, evaluation.left_out = _chosen(files, run, subjects)
    claim(out, "evaluation")
    evaluation.learned = sorted(learned_subjects(run, files) & {info.subject for info in files})
    methods: dict[str, Reconstruction] = {ZERO_FILLED: zero_filled}
    for name in options.classical:
        choice = _regularisation(name, config, files, skip_bad)
        evaluation.chosen[CLASSICAL[name]] = choice
        methods[CLASSICAL[name]] = Classical(name, choice.regularisation, seed=config.training.seed).reconstruct
    methods[config.method] = method.reconstruct
    judge = _Judge(config, methods, scoring.normalise, lpips, withheld)
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
        raise SettingError(f"{data} gave no slice to evaluate on{reason}").after(evaluation.bad_files)
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


def _regularisation(name: ClassicalName, config: RunConfig, files: list[FileInfo], skip_bad: bool) -> Choice:
    """Choose on a few slices of all files, by samples that are held out of them; no reference is looked at."""
    slices = [(info, index) for info in files for index in config.selection.indices(info.slices)]
    scans: list[Scan] = []
    for info, index in slices[:: -(-len(slices) // SCANS)]:
        try:
            scans += config.preparation.scans(info, [index])
        except FileError:
            if not skip_bad:
                raise
    options = config.training
    # Other samples than those that images are scored on.
    held_out = [held_out_mask(scan, options.held_out, options.seed + 1, item) for item, scan in enumerate(scans)]
    family = config.sampling.family(emulated=all(scan.meta.emulated for scan in scans))
    if not scans:
        raise SettingError("no slice is left to choose a regularisation on: leave out --classical, or give other data")
    return choose_regularisation(name, scans, held_out, family)


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
            data = scan.meta.synthetic, self._combines_coils(info, scan)
            rows.append(Row(info, scan.meta.slice, scores, data, reference_noise(scan)))
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
        """Draw the images of a slice, with their errors where it has a reference."""
        (scan,) = self.config.preparation.scans(row.info, [row.slice])
        panels = [self._panel(name, scan, row.scores[name]) for name in self.methods]
        truth = None
        if scan.reference is not None:
            truth = for_people(scored_reference(scan, self.normalise), scan.meta.geometry)
        error_figure(path, truth, panels, title)

    def _panel(self, name: str, scan: Scan, score: Score) -> Panel:
        image = scored_image(self.methods[name](scan.batch())[0].detach(), scan, self.normalise)
        free = f"held-out error {score.held_out:.4f}"
        caption = free if scan.reference is None else f"{score.psnr:.2f} dB / {score.ssim:.4f}"
        return Panel(name, for_people(image, scan.meta.geometry), caption)


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
        "learned_from": evaluation.learned,
        "regularisation": {name: choice.regularisation for name, choice in evaluation.chosen.items()},
        "reference_noise": None if evaluation.noise is None else evaluation.noise[0],
        "psnr_of_a_perfect_image": None if evaluation.noise is None else evaluation.noise[1],
        "methods": {name: result.as_dict() for name, result in summaries.items()},
    }
    write_text(out / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False))


def _draw(evaluation: Evaluation, judge: _Judge, out: Path) -> None:
    for title, row in _telling_rows(evaluation.rows, judge.config.method):
        learned = " (trained on)" if row.info.subject in evaluation.learned else ""
        subject = f"{title} slice: {row.info.subject}{learned}, slice {row.slice}"
        judge.figure(out / f"{title}.png", row, subject)


def _telling_rows(rows: list[Row], method: str) -> Iterator[tuple[str, Row]]:
    """The worst slice before the median one: averages hide failures. By PSNR; without any, by held-out error."""
    known = [row for row in rows if not isnan(row.scores[method].psnr)]
    ranked = sorted(known, key=lambda row: row.scores[method].psnr)
    if not known:
        known = [row for row in rows if not isnan(row.scores[method].held_out)]
        ranked = sorted(known, key=lambda row: -row.scores[method].held_out)
    if ranked:
        yield "worst", ranked[0]
        yield "median", ranked[len(ranked) // 2]
