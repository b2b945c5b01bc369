"""Score a trained run on a folder of scans, on subjects that it did not learn from."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from math import isnan
from pathlib import Path
from statistics import fmean, median
from typing import Literal

from rich.console import Console
from rich.progress import track

from sansref.commands.error_map import MappedSlice, mapped_slice, options_for
from sansref.commands.options import ScoreOptions
from sansref.commands.output_files import law_of
from sansref.commands.reconstruct import scans_of
from sansref.data.placement import for_people
from sansref.data.readers import FileInfo, scan_files
from sansref.errors import FileError, SettingError, printable
from sansref.files import claim, keep_outside, write_text
from sansref.kspace.masks.family import MaskFamily
from sansref.methods import Method
from sansref.methods.classical.regularisation import Choice, Classical, ClassicalName, choose_regularisation
from sansref.metrics.contradiction import FALSE_ALARMS, SEEN, THRESHOLD
from sansref.metrics.error_bound import Estimated, mean_of
from sansref.metrics.error_maps import ErrorMapOptions
from sansref.metrics.held_out import HeldOut, Reconstruct, held_out_mask
from sansref.metrics.lpips import load_lpips
from sansref.results.figures import error_figure
from sansref.results.scorer import (
    BEST_SCALE,
    ZERO_FILLED,
    Scorer,
    reference_noise,
    zero_filled,
)
from sansref.results.scores import Normalise, ScoredSlice, file_in, write_scores
from sansref.results.statistics import Estimate, standard_error
from sansref.results.tables import Scoring, Summary, data_note, finite, summarise
from sansref.results.viewer.contents import (
    SHOWN,
    Contents,
    Curve,
    Distribution,
    ViewerSlice,
    telling_places,
    worst_places,
)
from sansref.results.viewer.page import write_page
from sansref.scan import Scan
from sansref.training.config import RunConfig
from sansref.training.history import kept_row, read_history
from sansref.training.run import RunDirectory, environment
from sansref.training.subjects import home_of, knows, learned_subjects
from sansref.yaml_json import read_json

Subjects = Literal["auto", "test", "all"]

CLASSICAL: dict[ClassicalName, str] = {"l1_wavelet": "L1-wavelet", "total_variation": "total variation"}
"""What classical methods are called in tables and figures."""

SCANS = 4
"""Slices that a regularisation is chosen on, at most, evenly spread over all that are scored."""


@dataclass(frozen=True)
class EvaluatedSlice:
    """One slice of a file, its scores by method, and what is known of its reference.

    Attributes
    ----------
    info, slice
        Where it comes from.
    scores
        By method.
    data
        Whether its k-space is synthetic, and whether it has a measured reference of several coils.
    noise
        Noise of a measured reference, see :func:`~sansref.results.scorer.reference_noise`.
    estimated
        PSNR of the run's image, estimated without the reference; None if that was not asked for.
    contradictions
        How many regions of the run's image the scan contradicts.
    emulated
        Whether it was undersampled here.
    """

    info: FileInfo
    slice: int
    scores: dict[str, ScoredSlice]
    data: tuple[bool, bool] = (False, False)
    noise: tuple[float, float] | None = None
    estimated: Estimated | None = None
    contradictions: int = 0
    emulated: bool = False


@dataclass
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    slices
        All that were scored.
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
    method
        Name of the run's method.
    replaced
        The data whose evaluation lay there before, where they are others; empty where none did.
    unseen
        Warns of the mask of scans that were undersampled here; empty where the run has learned from such masks.
    validated
        Error on held-out samples of the run's own validation scans; None where it was validated by references.
    """

    slices: list[EvaluatedSlice] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    learned: list[str] = field(default_factory=list)
    chosen: dict[str, Choice] = field(default_factory=dict)
    bad_files: list[FileError] = field(default_factory=list)
    scoring: Scoring = field(default_factory=Scoring)
    missing: str = ""
    note: str | None = None
    method: str = ""
    replaced: str = ""
    unseen: str = ""
    validated: float | None = None

    @property
    def estimated(self) -> Estimated | None:
        """The mean over slices of the PSNR that is estimated without references; None if that was not asked for."""
        known = [one.estimated for one in self.slices if one.estimated is not None]
        return mean_of(known) if known else None

    @property
    def rows(self) -> list[ScoredSlice]:
        """Scores of all slices by all methods."""
        return [row for one in self.slices for row in one.scores.values()]

    @property
    def summary(self) -> Summary:
        """Means over all slices."""
        return summarise(self.rows, self.scoring)

    @property
    def noise(self) -> tuple[float, float] | None:
        """The medians of level and limit of the noise of measured references; None where none is measured."""
        levels = [one.noise for one in self.slices if one.noise is not None]
        return (median(level for level, _ in levels), median(limit for _, limit in levels)) if levels else None

    def notes(self) -> Iterator[str]:
        """What a reader of the scores must know, a line each."""
        if self.unseen:
            yield self.unseen
        yield from self._told_by_held_out()
        if self.missing:
            yield f"without LPIPS: {self.missing}"
        for name, choice in self.chosen.items():
            yield f"{name}: regularisation {choice.regularisation:.2g}, chosen on samples held out of some scans"
        if self.estimated is not None:
            true = [one.scores[self.method].psnr for one in self.slices]
            beside = "" if any(map(isnan, true)) else f"; with them it is {fmean(true):.1f} dB"
            yield f"PSNR of {self.method} estimated without references: {self.estimated}{beside}"
            marked = sum(one.contradictions > 0 for one in self.slices)
            strong = f"contradictions of {THRESHOLD:g} standard deviations or more"
            yield f"{strong} in {marked} of {len(self.slices)} slice(s); {FALSE_ALARMS}. {SEEN}"
        if self.noise is not None:
            level, limit = self.noise
            yield (
                f"references are measured and noisy (standard deviation {level:.1%} of their maximum): PSNR, SSIM and "
                "NMSE take this noise for truth and penalise smoothing; a perfect image would score about "
                f"{limit:.1f} dB"
            )
        if self.learned:
            names = ", ".join(map(printable, self.learned))
            yield f"the run was trained on {names}, which are scored here: new subjects would score lower"
        else:
            yield "none of the scored subjects was used for training"
        if self.note:
            yield f"left out: {self.note}"
        if self.left_out:
            names = ", ".join(map(printable, self.left_out))
            yield f"left out, because the run learned from them or did not set them aside: {names}"

    def _told_by_held_out(self) -> Iterator[str]:
        """What can be told without references: how the run stands beside others, and whether it is of use here."""
        labels = (self.method, *self.chosen, ZERO_FILLED)
        known = [one.scores for one in self.slices if not any(isnan(one.scores[label].held_out) for label in labels)]
        if not known:
            return
        told = ", ".join(f"{label} {fmean(scores[label].held_out for scores in known):.3g}" for label in labels)
        home = "" if self.validated is None else f"; on its own validation scans the run had {self.validated:.3g}"
        yield f"error on held-out samples: {told}{home}"
        for name in self.chosen:
            people: dict[str, list[float]] = defaultdict(list)
            for scores in known:
                people[scores[name].subject].append(scores[name].held_out - scores[self.method].held_out)
            # Slices of one person are alike: they count as one, unless there is nobody else.
            gains = [*map(fmean, people.values())] if len(people) > 1 else next(iter(people.values()))
            if fmean(gains) <= (standard_error(gains) if len(gains) > 1 else 0):
                yield (
                    f"warning: the run predicts the held-out samples of these scans no better than {name} does: train "
                    "on scans like these, or reconstruct each by 'sansref zeroshot'"
                )


def _mapping(
    options: ScoreOptions, method: Method, config: RunConfig, family: Callable[[bool], MaskFamily]
) -> Callable[[Scan], MappedSlice] | None:
    """What makes error maps of a scan; None where none are wanted.

    Raises ``SettingError`` for an impossible bound, and for a method that they cannot be made of.
    """
    made = ErrorMapOptions(options.bound)
    if not options.error_map:
        return None
    made = options_for(method, config, made)
    return lambda scan: mapped_slice(method.reconstruct, scan, family(scan.meta.emulated), made)


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
        Folder for ``report.html``, ``scores.csv``, ``summary.json`` and figures of the worst and the median slice.
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
        Rule for the person that a file belongs to, as in :class:`~sansref.data.slices.Slices`; None goes by the run's
        configuration.

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
    config = replace(config, slices=replace(config.slices, maps=options.maps), noise=None)
    lpips, missing = load_lpips(options.backbone, options.lpips_weights, options.lpips_download)
    relative: Normalise = "minmax" if method.relative else "none"
    scale = relative if options.normalise == "auto" else options.normalise
    scoring = Scoring(scale, options.backbone, weights=not missing)
    mapped = _mapping(options, method, config, cache(config.sampling.family))
    evaluation = Evaluation(scoring=scoring, missing=missing, method=config.method, validated=_validated(run, config))
    reading = replace(config.slices, subject_from=subject_from or config.slices.subject_from).reader_options
    found = scan_files(data, reading, skip_bad=skip_bad, home=home_of(run))
    files, evaluation.bad_files, evaluation.note = found.files, found.bad, found.left_out
    parts = run.subjects() if knows(run, files) else None
    withheld = parts["training"] if parts is not None and not parts["validation"] else []
    files, evaluation.left_out = _chosen(files, run, subjects)
    claim(out, "evaluation")
    evaluation.replaced = _earlier(data, out)
    evaluation.learned = sorted(learned_subjects(run, files) & {info.subject for info in files})
    methods: dict[str, Reconstruct] = {ZERO_FILLED: zero_filled, BEST_SCALE: zero_filled}
    for name in options.classical:
        choice = _regularisation(name, config, files, skip_bad)
        evaluation.chosen[CLASSICAL[name]] = choice
        methods[CLASSICAL[name]] = Classical(name, choice.regularisation, seed=config.training.seed).reconstruct
    methods[config.method] = method.reconstruct
    held_out = HeldOut(config.split.held_out, config.data_seed, cache(config.sampling.family))
    scorer = Scorer(methods, held_out, scoring.normalise, lpips, {BEST_SCALE}, config.denoises)
    # On its own training scans a run was validated on the samples that it was not given: those of each scan's place.
    inner = replace(scorer, held_out=replace(held_out, seed=config.training.seed))
    console, place = console or Console(stderr=True), 0
    for info in track(files, "scoring", console=console, transient=True, disable=not console.is_terminal):
        try:
            if info.subject in withheld:
                scored = _scored(inner, config, data, info, place, mapped)
                place += len(scored)
            else:
                scored = _scored(scorer, config, data, info, mapped=mapped)
            evaluation.slices += scored
        except FileError as error:
            if not skip_bad:
                raise
            evaluation.bad_files.append(error)
    if not evaluation.slices:
        reason = f" ({evaluation.bad_files[0]})" if evaluation.bad_files else ""
        raise SettingError(f"{data} has no slice to evaluate on{reason}").after(evaluation.bad_files)
    if any(one.emulated for one in evaluation.slices):
        evaluation.unseen = law_of(run)[1]
    note = data_note([one.data for one in evaluation.slices], config.coils.reference)
    evaluation.scoring = replace(scoring, data=note)
    write_scores(out / "scores.csv", evaluation.rows)
    _write_summary(evaluation, data, out)
    _write_page(evaluation, _shown(evaluation, scorer, config, out, mapped), run, out)
    return evaluation


def _validated(run: RunDirectory, config: RunConfig) -> float | None:
    rows = read_history(run.path / "metrics.csv")
    if not rows or config.training.score != "held_out" or config.denoises:  # no held-out errors
        return None
    return float(kept_row(rows, config.training.keep)["score"])


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
    slices = [(info, index) for info in files for index in config.slices.indices(info.slices)]
    scans: list[Scan] = []
    for info, index in slices[:: -(-len(slices) // SCANS)]:
        try:
            scans += scans_of(config, info, [index])
        except FileError:
            if not skip_bad:
                raise
    # Other samples than those that images are scored on.
    share, seed = config.split.held_out, config.training.seed + 1
    held_out = [held_out_mask(scan, share, seed, item) for item, scan in enumerate(scans)]
    family = config.sampling.family(emulated=all(scan.meta.emulated for scan in scans))
    if not scans:
        raise SettingError("no slice is left for choosing a regularisation: leave out --classical, or give other data")
    return choose_regularisation(name, scans, held_out, family, denoise=config.denoises)


def _scored(
    scorer: Scorer,
    config: RunConfig,
    data: Path,
    info: FileInfo,
    first: int | None = None,
    mapped: Callable[[Scan], MappedSlice] | None = None,
) -> list[EvaluatedSlice]:
    """Score every slice of a file; their held-out samples follow from ``first`` on, None for the slices' numbers."""
    found = []
    for place, scan in enumerate(scans_of(config, info), start=first or 0):
        rows = scorer.score(scan, scan.meta.slice if first is None else place)
        scores = {row.label: replace(row, file=file_in(data, info.path)) for row in rows}
        coils = config.coils.of_reference(info.coils, len(scan.kspace))
        several = scan.reference is not None and coils > 1 and not scan.meta.synthetic
        maps = mapped(scan) if mapped else None
        found.append(
            EvaluatedSlice(
                info,
                scan.meta.slice,
                scores,
                (scan.meta.synthetic, several),
                reference_noise(scan),
                maps.psnr if maps else None,
                len(maps.regions) if maps else 0,
                scan.meta.emulated,
            )
        )
    return found


def _earlier(data: Path, out: Path) -> str:
    """The other data that were scored into a folder before; empty where there are none, or nobody can tell."""
    found: object = None
    with suppress(FileError):
        found = read_json(out / "summary.json", "")
    earlier = found.get("data") if isinstance(found, dict) else None
    return earlier if isinstance(earlier, str) and earlier != str(data.resolve()) else ""


def _write_summary(evaluation: Evaluation, data: Path, out: Path) -> None:
    summary = evaluation.summary
    found = {
        "data": str(data.resolve()),
        "scores": summary.note,
        "normalise": evaluation.scoring.normalise,
        "lpips": evaluation.scoring.lpips,
        "lpips_missing": evaluation.missing or None,
        "subjects": sorted({one.info.subject for one in evaluation.slices}),
        "learned_from": evaluation.learned,
        "regularisation": {name: choice.regularisation for name, choice in evaluation.chosen.items()},
        "reference_noise": None if evaluation.noise is None else evaluation.noise[0],
        "psnr_estimated": None if evaluation.estimated is None else asdict(evaluation.estimated),
        "psnr_of_a_perfect_image": None if evaluation.noise is None else evaluation.noise[1],
        "methods": {label: _as_json(line.estimates, len(evaluation.slices)) for label, line in summary.lines.items()},
    }
    write_text(out / "summary.json", json.dumps(found, indent=2, ensure_ascii=False))


def _as_json(estimates: Mapping[str, Estimate], slices: int) -> dict[str, object]:
    """Numbers of a method, without NaN and infinity, which JSON does not have."""
    return {
        "slices": slices,
        "known": {name: found.slices for name, found in estimates.items()},
        "mean": {name: finite(found.mean) for name, found in estimates.items()},
        "std": {name: finite(found.std) for name, found in estimates.items()},
    }


def _shown(
    evaluation: Evaluation,
    scorer: Scorer,
    config: RunConfig,
    out: Path,
    mapped: Callable[[Scan], MappedSlice] | None,
) -> list[ViewerSlice]:
    """Reconstruct telling slices, and draw the worst and the median one."""
    ranked = _ranked(evaluation.slices, config.method)
    middle, worst = len(ranked) // 2, worst_places(len(ranked))
    found = []
    for at in telling_places(len(ranked), SHOWN):
        one = ranked[at]
        (scan,) = scans_of(config, one.info, [one.slice])
        shown = scorer.show(scan, list(one.scores.values()), "", at < worst, at == middle)
        found.append(with_maps(shown, config.method, mapped(scan)) if mapped else shown)
        learned = " (trained on)" if one.info.subject in evaluation.learned else ""
        for title in [title for title, place in (("worst", 0), ("median", middle)) if at == place]:
            heading = f"{title} slice: {shown.subject}{learned}, slice {shown.number}"
            error_figure(out / f"{title}.png", shown, heading)
    return found


def with_maps(shown: ViewerSlice, method: str, found: MappedSlice) -> ViewerSlice:
    """A slice of the viewer with the error maps of one method's image of it, and what they tell."""
    bound, contradiction = (for_people(one, found.meta.geometry).numpy() for one in found.layers[1:])
    maps = {"error_bound": bound / found.meta.scale, "contradiction": contradiction}
    told = {"PSNR estimated": str(found.psnr), "contradictions": str(len(found.regions))}
    details = {**shown.details, method: {**shown.details.get(method, {}), **told}}
    return replace(shown, maps={**shown.maps, method: maps}, details=details)


def _ranked(slices: Sequence[EvaluatedSlice], method: str) -> list[EvaluatedSlice]:
    """Slices from the worst on: averages hide failures. By PSNR; without any, by held-out error, or else by SURE."""
    known = [one for one in slices if not isnan(one.scores[method].psnr)]
    if known:
        return sorted(known, key=lambda one: one.scores[method].psnr)
    known = [one for one in slices if not isnan(one.scores[method].held_out)]
    if known:
        return sorted(known, key=lambda one: -one.scores[method].held_out)
    known = [one for one in slices if not isnan(one.scores[method].risk)]
    return sorted(known, key=lambda one: -one.scores[method].risk)


def _write_page(evaluation: Evaluation, shown: Sequence[ViewerSlice], run: RunDirectory, out: Path) -> None:
    summary, method = evaluation.summary, run.config().method
    subjects = len({one.info.subject for one in evaluation.slices})
    accelerations = [one.scores[method].acceleration for one in evaluation.slices]
    page = Contents(
        f"Evaluation of {run.path.resolve().name}",
        f"Scores of {method} on {len(evaluation.slices)} slice(s) of {subjects} subject(s).",
        list(evaluation.notes()),
        {"Method": method, "Acceleration": f"{median(accelerations):.3g}x (median over slices)"},
        summary.tables(),
        [Distribution.of(name, one, summary.lines, {"": evaluation.rows}) for name, one in summary.metrics.items()],
        shown,
        [Curve.of_run(method, "", run.path)] if read_history(run.path / "metrics.csv") else [],
        config=run.config_file.read_text(encoding="utf-8"),
        versions={name: str(value) for name, value in environment().items()},
    )
    write_page(out / "report.html", page)
