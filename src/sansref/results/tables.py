"""Tables of scores: means, how sure they are, and what differs from a baseline.

:func:`summarise` works the numbers out, :class:`Summary` holds them, and its tables hold the texts that terminal,
Markdown, LaTeX and the page show alike (:mod:`sansref.results.render`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Literal

from sansref.metrics.lpips import BackboneName
from sansref.results.scores import BODY, METRICS, PROOF, UNDEFINED, Better, Metric, Normalise, ScoredSlice, number_text
from sansref.results.statistics import (
    FEW,
    RESAMPLES,
    Difference,
    Estimate,
    Interval,
    Share,
    against,
    by_subject,
    estimate,
    gap_share,
)

NO_WEIGHTS = "no weights"
RANGE_NOTE = "per slice on magnitudes, data range = maximum of the slice's reference, SSIM 7x7 uniform window"
MINMAX_NOTE = (
    "per slice on magnitudes after min-max (images by the minimum and maximum of the zero-filled image, the reference "
    "by its own), data range 1, SSIM 7x7 uniform window"
)
BODY_NOTE = (
    "over the body alone, which stands out of the air in the smoothed reference, with its holes filled; the rest as "
    "for the whole image"
)
PROOF_NOTE = (
    "SURE: reference-free, the squared error on acquired samples over their noise, 1 as measured; noise kept and "
    "structure lost are its parts"
)
TESTED = ("psnr", "ssim", "psnr_body", "ssim_body")
"""Scores whose differences from the baseline are tested, and whose gap is measured."""


@dataclass(frozen=True)
class Heading:
    """Head of a column: its text, and which of its numbers are better; None where neither is."""

    text: str
    better: Better | None = None


@dataclass(frozen=True)
class Entry:
    """A cell: its text, and the number or word it is sorted by; None and NaN are sorted last."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Table:
    """A table that a reader of the page can sort by each column.

    Attributes
    ----------
    caption
        What the table shows, without a full stop.
    headings
        The first column names the rows.
    rows
        Cells, one for each heading. The best of a column whose heading says what is better are set in bold.
    note
        How the numbers are defined, written below.

    Raises
    ------
    ValueError
        If a row has another length than ``headings``, or a column is sorted by words and numbers, or has a better end
        and is sorted by words.
    """

    caption: str
    headings: Sequence[Heading]
    rows: Sequence[Sequence[Entry]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headings):
                texts = [entry.text for entry in row]
                raise ValueError(f"row must have {len(self.headings)} cells, as headings has, got {texts}")
        for column, heading in enumerate(self.headings):
            words = sum(isinstance(row[column].value, str) for row in self.rows)
            numbers = sum(isinstance(row[column].value, float | int) for row in self.rows)
            if words and (numbers or heading.better):
                raise ValueError(f"column {heading.text!r} must be sorted by numbers, or by words without a better end")

    def numeric(self, column: int) -> bool:
        """Whether a column is sorted by numbers."""
        return any(isinstance(row[column].value, float | int) for row in self.rows)

    def highlights(self) -> frozenset[tuple[int, int]]:
        """Row and column of the cells set in bold."""
        return frozenset((row, column) for column in range(len(self.headings)) for row in self._best_rows(column))

    def _best_rows(self, column: int) -> list[int]:
        better = self.headings[column].better
        values = [finite(row[column].value) for row in self.rows]
        known = [value for value in values if value is not None]
        if better is None or not known:
            return []
        best = max(known) if better == "higher" else min(known)
        return [row for row, value in enumerate(values) if value == best]


def finite(value: float | str | None) -> float | None:
    """A number that can be sorted, written as JSON and highlighted; None for words, NaN and infinity."""
    return None if value is None or isinstance(value, str) or not isfinite(value) else float(value)


@dataclass(frozen=True)
class Scoring:
    """How scores were taken, which a table must say beside the numbers.

    Attributes
    ----------
    normalise
        Scale on which images were compared with the reference.
    lpips
        Backbone of the perceptual distance; None leaves its column out.
    weights
        False if LPIPS was asked for, but its weights were not found.
    data
        What there is to say of the data, see :func:`data_note`.
    """

    normalise: Normalise = "none"
    lpips: BackboneName | None = None
    weights: bool = True
    data: str = ""

    @property
    def note(self) -> str:
        """In words."""
        note = MINMAX_NOTE if self.normalise == "minmax" else RANGE_NOTE
        if self.lpips and self.weights:
            note += "; LPIPS 0.1 with the same data range, lower is better"
        return f"{note}; {self.data}" if self.data else note

    @property
    def metrics(self) -> dict[str, Metric]:
        """The scores that are shown."""
        metrics = {name: metric for name, metric in METRICS.items() if name != "lpips" or self.lpips}
        if self.lpips:
            metrics["lpips"] = METRICS["lpips"]._replace(heading=f"LPIPS ({self.lpips})")
        return metrics


def data_note(slices: Sequence[tuple[bool, bool]], coil_reference: Literal["combined", "rss"]) -> str:
    """What a table must say of the data under its scores; empty for measured k-space of one coil.

    Parameters
    ----------
    slices
        Of every slice, whether its k-space is synthetic, and whether it has a measured reference of several coils.
    coil_reference
        How such a reference combines them.
    """
    synthetic = sum(simulated for simulated, _ in slices)
    which = "" if synthetic == len(slices) else f" of {synthetic} slices"
    notes = [f"k-space{which} simulated from magnitude images, which flatters every method"] if synthetic else []
    if any(several for _, several in slices):
        how = "combined by their maps" if coil_reference == "combined" else "as root of the sum of squares"
        notes.append(f"reference: coils {how}")
    return "; ".join(notes)


@dataclass(frozen=True)
class Line:
    """A method's numbers.

    Attributes
    ----------
    estimates
        By score.
    differences
        From the baseline, by score in :data:`TESTED`; empty for the baseline, and without one.
    shares
        Of the gap, by score in :data:`TESTED`; empty without a gap.
    """

    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Difference]
    shares: Mapping[str, Share]


@dataclass(frozen=True)
class Summary:
    """Scores of methods over the same slices.

    Attributes
    ----------
    lines
        By method, in the order of the tables.
    scoring
        How the scores were taken.
    metrics
        The scores that are shown; those over the body, and those of denoising, only where there are any.
    acceleration
        What all slices have in common, None to say nothing of it.
    baseline
        Method that the others are compared with; empty for none.
    gap
        Methods at the lower and the upper end of the gap that others close, or None.
    seeds
        Trainings that the score of a slice is the mean over.
    """

    lines: Mapping[str, Line]
    scoring: Scoring
    metrics: Mapping[str, Metric]
    acceleration: float | None = None
    baseline: str = ""
    gap: tuple[str, str] | None = None
    seeds: int = 1

    @property
    def slices(self) -> int:
        """How many there are, with a reference or without."""
        return max(found.slices for line in self.lines.values() for found in line.estimates.values())

    @property
    def note(self) -> str:
        """Over what the scores of the whole image were taken, and how."""
        found = [estimate for line in self.lines.values() for estimate in line.estimates.values()]
        subjects = max(one.subjects for one in found)
        referenced = {line.estimates["psnr"].slices for line in self.lines.values()} - {0}
        up_to = "up to " if len(referenced) > 1 else ""
        over = f"mean ± standard deviation over {up_to}{_count(self.slices, 'slice')} of {_count(subjects, 'subject')}"
        if self.slices == 1:
            over = "one slice"
        if not referenced:
            over += ", without a reference"
        elif max(referenced) < self.slices:
            over += f", against the reference over the {max(referenced)} that have one"
        if self.seeds > 1:
            over += f"; the score of a slice is the mean over {self.seeds} trainings"
        told = f"{over}; {self.scoring.note}; held-out error: reference-free, lower is better"
        return f"{told}; {PROOF_NOTE}" if PROOF[0] in self.metrics else told

    def scores(self) -> list[Table]:
        """Mean and standard deviation, or the bare value for a single slice: of the whole image, and in the body."""
        return [
            Table(self._caption("Scores", names), *self._means(names, _with_spread), self._score_note(names))
            for names in self._areas()
        ]

    def tables(self) -> list[Table]:
        """Scores, intervals of their means, and what differs from the baseline."""
        shown = self.scores()
        subjects = max(found.subjects for line in self.lines.values() for found in line.estimates.values())
        few = f", too narrow with {_count(subjects, 'subject')} only" if subjects < FEW else ""
        note = f"mean over slices [95 % interval: percentile bootstrap over subjects, {RESAMPLES:,} resamples{few}]"
        if subjects != 1:
            shown += [
                Table(self._caption("Intervals", names), *self._means(names, _with_interval), note)
                for names in self._areas()
            ]
        if self.baseline and len(self.lines) > 1:
            shown += [
                Table(self._caption(f"Against {self.baseline}", names), *self._tests(names), self._test_note())
                for names in self._areas()
            ]
        return shown

    def _areas(self) -> list[list[str]]:
        """Names of the scores of the whole image, and of those in the body."""
        areas = [[name for name in self.metrics if (name in BODY) is inside] for inside in (False, True)]
        return [area for area in areas if area]

    def _caption(self, what: str, names: Sequence[str]) -> str:
        where = "" if names[0] not in BODY else " in the body"
        return what + where + ("" if self.acceleration is None else f", acceleration {self.acceleration:g}x")

    def _score_note(self, names: Sequence[str]) -> str:
        return BODY_NOTE if names[0] in BODY else self.note

    def _means(
        self, names: Sequence[str], text: Callable[[Estimate, Metric], str]
    ) -> tuple[list[Heading], list[list[Entry]]]:
        headings = [Heading(self.metrics[name].heading, self.metrics[name].better) for name in names]
        rows = []
        for label, line in self.lines.items():
            cells = {
                name: Entry(text(line.estimates[name], self.metrics[name]), line.estimates[name].mean) for name in names
            }
            if "lpips" in cells and not self.scoring.weights:
                # Weights that were not found are not the same as a score that is not defined.
                cells["lpips"] = Entry(NO_WEIGHTS)
            rows.append([Entry(label, label), *cells.values()])
        return [Heading("method"), *headings], rows

    def _tests(self, names: Sequence[str]) -> tuple[list[Heading], list[list[Entry]]]:
        tested = {name: self.metrics[name] for name in names if name in TESTED}
        headings = [Heading("method")]
        for metric in tested.values():
            headings += [Heading(f"Δ {metric.heading}", metric.better), Heading(f"{metric.name} p (Holm)")]
            headings += [Heading(f"{metric.name} gap closed (%)", "higher")] if self.gap else []
        rows = []
        for label, line in self.lines.items():
            cells = [Entry(label, label)]
            for name, metric in tested.items():
                cells += _difference(line.differences.get(name), metric)
                cells += [_share(line.shares[name])] if self.gap else []
            rows.append(cells)
        return headings, rows

    def _test_note(self) -> str:
        differences = [line.differences[TESTED[0]] for line in self.lines.values() if line.differences]
        tested = [one for one in differences if not isnan(one.p)] or differences
        subjects, smallest = _count(max(one.subjects for one in tested), "subject"), min(one.smallest for one in tested)
        note = (
            f"Δ: mean over {subjects} of the difference of their means from {self.baseline} [95 % interval as above]; "
            f"p: exact two-sided Wilcoxon signed-rank test over subjects, Holm-corrected for "
            f"{_count(len(tested), 'method')}; no p of {subjects} can be below {smallest:.3g}, nor below "
            f"{min(1.0, len(tested) * smallest):.3g} when corrected"
        )
        if self.gap:
            low, high = self.gap
            note += f"; gap closed: of the way of the mean over slices from {low} (0) to {high} (100)"
        return note


def summarise(
    rows: Sequence[ScoredSlice],
    scoring: Scoring,
    labels: Sequence[str] = (),
    acceleration: float | None = None,
    baseline: str = "",
    gap: tuple[str, str] | None = None,
    seeds: int = 1,
) -> Summary:
    """Work the numbers out from scores of the same slices.

    Parameters
    ----------
    rows
        Scores, those of one training in the order of its slices.
    scoring
        How they were taken.
    labels
        Methods in the order of the tables, NaN for one without scores; those of ``rows`` by default.
    acceleration, baseline, gap, seeds
        As in :class:`Summary`.
    """
    labels = list(labels) or list(dict.fromkeys(row.label for row in rows))
    own = {label: [row for row in rows if row.label == label] for label in labels}
    bodies = any(not isnan(row.psnr_body) for mine in own.values() for row in mine)
    proofs = any(not isnan(row.risk) for mine in own.values() for row in mine)
    left_out = {*(() if bodies else BODY), *(() if proofs else PROOF)}
    metrics = {name: metric for name, metric in scoring.metrics.items() if name not in left_out}
    values = {label: {name: by_subject(mine, name) for name in metrics} for label, mine in own.items()}
    tested = [name for name in TESTED if name in metrics]
    others = [label for label in labels if label != baseline]
    tests = {}
    if baseline:
        tests = {
            name: against(values[baseline][name], {label: values[label][name] for label in others}) for name in tested
        }
    lines = {}
    for label, scores in values.items():
        shares = {}
        if gap is not None:
            low, high = (values[end] for end in gap)
            shares = {name: gap_share(scores[name], low[name], high[name], METRICS[name].better) for name in tested}
        lines[label] = Line(
            {name: estimate(known) for name, known in scores.items()},
            {name: test[label] for name, test in tests.items() if label in test},
            shares,
        )
    return Summary(lines, scoring, metrics, acceleration, baseline, gap, seeds)


def _with_spread(found: Estimate, metric: Metric) -> str:
    mean = metric.text(found.mean)
    return f"{mean} ± {metric.text(found.std)}" if found.slices > 1 else mean


def _with_interval(found: Estimate, metric: Metric) -> str:
    return _between(found.mean, found.interval, metric.digits)


def _difference(found: Difference | None, metric: Metric) -> list[Entry]:
    if found is None:
        # Counts as zero: where all others are worse, none of them is the best.
        return [Entry("baseline", 0.0), Entry(UNDEFINED)]
    p = "<0.0001" if found.corrected < 1e-4 else number_text(found.corrected, 4)
    return [Entry(_between(found.mean, found.interval, metric.digits, "+"), found.mean), Entry(p, found.corrected)]


def _share(found: Share) -> Entry:
    percent, low, high = (100 * value for value in (found.share, *found.interval))
    return Entry(_between(percent, (low, high), 1), percent)


def _between(value: float, interval: Interval, digits: int, sign: str = "") -> str:
    if isnan(value):
        return UNDEFINED
    low, high = (number_text(end, digits, sign) for end in interval)
    return f"{number_text(value, digits, sign)} [{low}, {high}]"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
