"""The tables of a comparison: scores, how sure they are, and what differs from the baseline.

One :class:`ComparisonTable` holds the numbers; Markdown, LaTeX and the page show the same texts of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan

from sansref.commands.compare.plan import Plan, acceleration_name
from sansref.errors import printable
from sansref.files import csv_text
from sansref.results.score_rows import SliceScore
from sansref.results.score_tables import DIGITS, NO_WEIGHTS, UNDEFINED, Scoring, markdown_table, markdown_text
from sansref.results.statistics import (
    FEW,
    RESAMPLES,
    Difference,
    Estimate,
    Interval,
    Share,
    Values,
    against,
    by_subject,
    estimate,
    gap_share,
)
from sansref.results.viewer.contents import Better, Entry, Heading, SortableTable

BETTER: Mapping[str, Better] = {"psnr": "high", "ssim": "high", "nmse": "low", "lpips": "low", "held_out": "low"}
TESTED = ("psnr", "ssim")
"""Scores whose differences from the baseline are tested, and whose gap is measured."""
Cells = tuple[list[Heading], list[list[Entry]]]

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


@dataclass(frozen=True)
class Line:
    """A method at one acceleration.

    Attributes
    ----------
    label
        The method as the plan names it.
    estimates
        By score.
    differences
        From the baseline, by score in :data:`TESTED`; empty for the baseline.
    shares
        Of the gap, by score in :data:`TESTED`; empty if the plan has no gap.
    """

    label: str
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Difference]
    shares: Mapping[str, Share]


@dataclass(frozen=True)
class ComparisonTable:
    """All numbers of a comparison.

    Attributes
    ----------
    plan
        Gives the order of methods and accelerations, baseline and gap.
    scoring
        How the scores were taken.
    lines
        Methods by acceleration.
    """

    plan: Plan
    scoring: Scoring
    lines: Mapping[float, Sequence[Line]]


def build_table(plan: Plan, rows: Sequence[SliceScore], scoring: Scoring) -> ComparisonTable:
    """Work out a comparison's table from the scores of all its cells; a method without scores has NaN."""
    found: dict[tuple[float, str], list[SliceScore]] = defaultdict(list)
    for row in rows:
        found[row.acceleration, row.label].append(row)
    lines = {}
    for acceleration in plan.accelerations:
        values = {
            label: {metric: by_subject(found[acceleration, label], metric) for metric in scoring.headings}
            for label in plan.methods
        }
        lines[acceleration] = _lines(plan, values)
    return ComparisonTable(plan, scoring, lines)


def _lines(plan: Plan, values: Mapping[str, Mapping[str, Values]]) -> list[Line]:
    """Methods at one acceleration, from their values by label and score."""
    others = [label for label in values if label != plan.baseline]
    tests = {
        metric: against(values[plan.baseline][metric], {label: values[label][metric] for label in others})
        for metric in TESTED
    }
    lines = []
    for label, scores in values.items():
        estimates = {metric: estimate(known) for metric, known in scores.items()}
        differences = {metric: test[label] for metric, test in tests.items() if label in test}
        shares = {}
        if plan.gap is not None:
            low, high = (values[end] for end in plan.gap)
            shares = {name: gap_share(scores[name], low[name], high[name], BETTER[name]) for name in TESTED}
        lines.append(Line(label, estimates, differences, shares))
    return lines


def sortable_tables(table: ComparisonTable) -> list[SortableTable]:
    """For each acceleration: scores, intervals of their means, and what differs from the baseline."""
    shown = []
    for acceleration, lines in table.lines.items():
        place = f"acceleration {acceleration_name(acceleration)}"
        shown += [
            SortableTable(f"Scores, {place}", *_means(table, lines, _with_spread), _score_note(table, lines)),
            SortableTable(f"Intervals, {place}", *_means(table, lines, _with_interval), _interval_note(lines)),
        ]
        if len(lines) > 1:
            caption = f"Against {table.plan.baseline}, {place}"
            shown.append(SortableTable(caption, *_tests(table, lines), _test_note(table, lines)))
    return shown


def _means(table: ComparisonTable, lines: Sequence[Line], text: Callable[[Estimate, str], str]) -> Cells:
    headings = [Heading(heading, BETTER[metric]) for metric, heading in table.scoring.headings.items()]
    # Weights that were not found are not the same as a score that is not defined.
    absent = {} if table.scoring.weights else {"lpips": Entry(NO_WEIGHTS)}
    rows = []
    for line in lines:
        entries = {metric: Entry(text(found, metric), found.mean) for metric, found in line.estimates.items()}
        rows.append([Entry(line.label, line.label), *{**entries, **absent}.values()])
    return [Heading("method"), *headings], rows


def _with_spread(found: Estimate, metric: str) -> str:
    mean, std = (_number(value, DIGITS[metric]) for value in (found.mean, found.std))
    return f"{mean} ± {std}" if found.slices > 1 else mean


def _with_interval(found: Estimate, metric: str) -> str:
    return _between(found.mean, found.interval, DIGITS[metric])


def _tests(table: ComparisonTable, lines: Sequence[Line]) -> Cells:
    headings = [Heading("method")]
    for metric in TESTED:
        heading = table.scoring.headings[metric]
        name = heading.split(" (")[0]
        headings += [Heading(f"Δ {heading}", BETTER[metric]), Heading(f"{name} p (Holm)")]
        headings += [Heading(f"{name} gap closed (%)", "high")] if table.plan.gap else []
    rows = []
    for line in lines:
        cells = [Entry(line.label, line.label)]
        for metric in TESTED:
            cells += _difference(line.differences.get(metric), DIGITS[metric])
            cells += [_share(line.shares[metric])] if table.plan.gap else []
        rows.append(cells)
    return headings, rows


def _difference(found: Difference | None, digits: int) -> list[Entry]:
    if found is None:
        # Counts as zero: where all others are worse, none of them is the best.
        return [Entry("baseline", 0.0), Entry(UNDEFINED)]
    p = "<0.0001" if found.corrected < 1e-4 else _number(found.corrected, 4)
    return [Entry(_between(found.mean, found.interval, digits, "+"), found.mean), Entry(p, found.corrected)]


def _share(found: Share) -> Entry:
    percent, low, high = (100 * value for value in (found.share, *found.interval))
    return Entry(_between(percent, (low, high), 1), percent)


def _between(value: float, interval: Interval, digits: int, sign: str = "") -> str:
    if isnan(value):
        return UNDEFINED
    low, high = (_number(end, digits, sign) for end in interval)
    return f"{_number(value, digits, sign)} [{low}, {high}]"


def _number(value: float, digits: int, sign: str = "") -> str:
    return UNDEFINED if isnan(value) else f"{value:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _score_note(table: ComparisonTable, lines: Sequence[Line]) -> str:
    counts = {(found.slices, found.subjects) for line in lines for found in line.estimates.values() if found.slices}
    slices, subjects = max(counts, default=(0, 0))
    over = f"{'up to ' if len(counts) > 1 else ''}{_count(slices, 'slice')} of {_count(subjects, 'subject')}"
    seeds = len(table.plan.seeds)
    trained = f"; the score of a slice is the mean over {seeds} trainings" if seeds > 1 else ""
    end = f"{table.scoring.note}; held-out error: reference-free, lower is better"
    return f"mean ± standard deviation over {over}{trained}; {end}"


def _interval_note(lines: Sequence[Line]) -> str:
    subjects = max(found.subjects for line in lines for found in line.estimates.values())
    few = f", too narrow with {_count(subjects, 'subject')} only" if subjects < FEW else ""
    return f"mean over slices [95 % interval: percentile bootstrap over subjects, {RESAMPLES:,} resamples{few}]"


def _test_note(table: ComparisonTable, lines: Sequence[Line]) -> str:
    baseline, gap = table.plan.baseline, table.plan.gap
    tested = [line.differences[TESTED[0]] for line in lines if line.differences]
    subjects, smallest = _count(max(one.subjects for one in tested), "subject"), min(one.smallest for one in tested)
    note = (
        f"Δ: mean over {subjects} of the difference of their means from {baseline} [95 % interval as above]; p: exact "
        f"two-sided Wilcoxon signed-rank test over subjects, Holm-corrected for {_count(len(tested), 'method')}; no p "
        f"of {subjects} can be below {smallest:.3g}, nor below {min(1.0, len(tested) * smallest):.3g} when corrected"
    )
    end = f"; gap closed: of the way of the mean over slices from {gap[0]} (0) to {gap[1]} (100)" if gap else ""
    return note + end


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def comparison_markdown(table: ComparisonTable) -> str:
    """All tables in Markdown, the best of each column in bold."""
    parts = [f"## {markdown_text(table.plan.title)}"]
    for shown in sortable_tables(table):
        head = [markdown_text(heading.text) for heading in shown.headings]
        rows = _texts(shown, markdown_text, "**{}**")
        parts += [f"### {markdown_text(shown.caption)}", markdown_table(head, rows), markdown_text(shown.note)]
    return "\n\n".join(parts) + "\n"


def comparison_latex(table: ComparisonTable) -> str:
    """All tables in LaTeX, which needs the package booktabs, the best of each column in bold."""
    parts = [r"% needs \usepackage{booktabs}"]
    for shown in sortable_tables(table):
        head = [_latex_text(heading.text) for heading in shown.headings]
        rows = [" & ".join(row) + r" \\" for row in _texts(shown, _latex_text, r"\textbf{{{}}}")]
        parts += [
            r"\begin{table}\centering\footnotesize",
            rf"\caption{{{_latex_text(shown.caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            *(r"\toprule", " & ".join(head) + r" \\", r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}",
            rf"\par\smallskip {_latex_text(shown.note)}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


def _texts(table: SortableTable, escape: Callable[[str], str], bold: str) -> list[list[str]]:
    rows = [[escape(entry.text) for entry in row] for row in table.rows]
    for row, column in table.highlights():
        rows[row][column] = bold.format(rows[row][column])
    return rows


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text))


def comparison_csv(table: ComparisonTable) -> str:
    """All numbers in full, one line for each acceleration, method and score; what is not defined is empty."""
    rows: list[list[object]] = [[*CSV_COLUMNS]]
    for acceleration, lines in table.lines.items():
        for line in lines:
            for metric, found in line.estimates.items():
                counted = [found.slices, found.subjects, found.mean, found.std, *found.interval]
                numbers = ["" if isnan(number) else number for number in (*counted, *_tested(line, metric))]
                rows.append([acceleration, line.label, metric, *numbers])
    return csv_text(rows)


def _tested(line: Line, metric: str) -> list[float]:
    found, share = line.differences.get(metric), line.shares.get(metric, Share(nan, (nan, nan)))
    numbers = [nan] * 6 if found is None else [found.mean, *found.interval, found.subjects, found.p, found.corrected]
    return [*numbers, share.share, *share.interval]
