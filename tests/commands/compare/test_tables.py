# ruff: noqa: RUF001  (signs as a reader sees them)
from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

import pytest

from sansref.commands.compare.plan import Plan
from sansref.commands.compare.tables import (
    CSV_COLUMNS,
    build_table,
    comparison_csv,
    comparison_latex,
    comparison_markdown,
    sortable_tables,
)
from sansref.files import csv_name
from sansref.results.score_rows import SliceScore
from sansref.results.score_tables import Scoring
from sansref.results.scores import RANGE_NOTE

PSNR = {"Input": (20.0, 22.0), "SSDU": (30.0, 31.0), "IDR": (32.0, 34.0), "full": (34.0, 38.0)}
"""Of subjects a and b, in a slice each."""


def plan(**changes: Any) -> Plan:
    methods: Mapping[str, Mapping[str, Any]] = {label: {} for label in PSNR}
    values = {"title": "Heads", "methods": methods, "accelerations": {4.0: {}}, "baseline": "SSDU"}
    return Plan(**{**values, "gap": ("SSDU", "full"), **changes})


def score(label: str, subject: str, psnr: float, acceleration: float = 4.0, seed: int = 0) -> SliceScore:
    """Scores that all follow from one; its NMSE and held-out error are better the higher it is."""
    others = {"ssim": psnr / 50, "nmse": 1 / psnr, "held_out": 2 / psnr, "lpips": 3 / psnr}
    return SliceScore(label, acceleration, 0, seed, subject, 0, psnr, **others)


ROWS = [score(label, subject, psnr) for label, pair in PSNR.items() for subject, psnr in zip("ab", pair, strict=True)]

MARKDOWN = f"""\
## Heads

### Scores, acceleration 4x

| method | PSNR (dB) | SSIM | NMSE | held-out error |
| --- | ---: | ---: | ---: | ---: |
| Input | 21.00 ± 1.41 | 0.4200 ± 0.0283 | 0.0477 ± 0.0032 | 0.0955 ± 0.0064 |
| SSDU | 30.50 ± 0.71 | 0.6100 ± 0.0141 | 0.0328 ± 0.0008 | 0.0656 ± 0.0015 |
| IDR | 33.00 ± 1.41 | 0.6600 ± 0.0283 | 0.0303 ± 0.0013 | 0.0607 ± 0.0026 |
| full | **36.00 ± 2.83** | **0.7200 ± 0.0566** | **0.0279 ± 0.0022** | **0.0557 ± 0.0044** |

mean ± standard deviation over 2 slices of 2 subjects; {RANGE_NOTE}; held-out error: reference-free, lower is better

### Intervals, acceleration 4x

| method | PSNR (dB) | SSIM | NMSE | held-out error |
| --- | ---: | ---: | ---: | ---: |
| Input | 21.00 [20.00, 22.00] | 0.4200 [0.4000, 0.4400] | 0.0477 [0.0455, 0.0500] | 0.0955 [0.0909, 0.1000] |
| SSDU | 30.50 [30.00, 31.00] | 0.6100 [0.6000, 0.6200] | 0.0328 [0.0323, 0.0333] | 0.0656 [0.0645, 0.0667] |
| IDR | 33.00 [32.00, 34.00] | 0.6600 [0.6400, 0.6800] | 0.0303 [0.0294, 0.0312] | 0.0607 [0.0588, 0.0625] |
| full | **36.00 [34.00, 38.00]** | **0.7200 [0.6800, 0.7600]** | **0.0279 [0.0263, 0.0294]** \
| **0.0557 [0.0526, 0.0588]** |

mean over slices [95 % interval: percentile bootstrap over subjects, 10,000 resamples, too narrow with 2 subjects only]

### Against SSDU, acceleration 4x

| method | Δ PSNR (dB) | PSNR p (Holm) | PSNR gap closed (%) | Δ SSIM | SSIM p (Holm) | SSIM gap closed (%) |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| Input | −9.50 [−10.00, −9.00] | 1.0000 | −172.7 [−250.0, −128.6] | −0.1900 [−0.2000, −0.1800] | 1.0000 \
| −172.7 [−250.0, −128.6] |
| SSDU | baseline | – | 0.0 [0.0, 0.0] | baseline | – | 0.0 [0.0, 0.0] |
| IDR | +2.50 [+2.00, +3.00] | 1.0000 | 45.5 [42.9, 50.0] | +0.0500 [+0.0400, +0.0600] | 1.0000 | 45.5 [42.9, 50.0] |
| full | **+5.50 [+4.00, +7.00]** | 1.0000 | **100.0 [100.0, 100.0]** | **+0.1100 [+0.0800, +0.1400]** | 1.0000 \
| **100.0 [100.0, 100.0]** |

Δ: mean over 2 subjects of the difference of their means from SSDU [95 % interval as above]; p: exact two-sided \
Wilcoxon signed-rank test over subjects, Holm-corrected for 3 methods; no p of 2 subjects can be below 0.5, nor below \
1 when corrected; gap closed: of the way of the mean over slices from SSDU (0) to full (100)
"""


def markdown(rows: list[SliceScore], scoring: Scoring | None = None, **changes: Any) -> str:
    return comparison_markdown(build_table(plan(**changes), rows, scoring or Scoring()))


def test_markdown_of_two_subjects_is_as_worked_out_by_hand() -> None:
    assert markdown(ROWS) == MARKDOWN


def test_methods_stand_in_the_order_of_the_plan_and_others_are_left_out() -> None:
    rows = [*reversed(ROWS), score("other", "a", 99.0), score("IDR", "a", 99.0, acceleration=8.0)]
    assert markdown(rows) == MARKDOWN


def test_every_acceleration_has_its_tables() -> None:
    rows = [*ROWS, score("IDR", "a", 25.0, acceleration=8.0)]
    table = build_table(plan(accelerations={8.0: {}, 4.0: {}}), rows, Scoring())
    captions = [shown.caption for shown in sortable_tables(table)]
    assert captions == [
        f"{kind}, acceleration {place}x" for place in (8, 4) for kind in ("Scores", "Intervals", "Against SSDU")
    ]


def test_a_method_without_scores_is_dashes() -> None:
    lines = markdown([row for row in ROWS if row.label != "full"]).splitlines()
    full = [line for line in lines if line.startswith("| full ")]
    assert full == ["| full | – | – | – | – |", "| full | – | – | – | – |", "| full | – | – | – | – | – | – |"]
    # Its gap is not known either.
    assert "| IDR | **+2.50 [+2.00, +3.00]** | 1.0000 | – |" in "\n".join(lines)


def test_a_single_subject_has_no_interval_and_no_spread() -> None:
    text = markdown([row for row in ROWS if row.subject == "a"])
    assert "| IDR | 32.00 | 0.6400 |" in text
    assert "| IDR | 32.00 [–, –] | 0.6400 [–, –] |" in text
    assert "| IDR | +2.00 [–, –] | 1.0000 | 50.0 [–, –] |" in text
    assert "mean ± standard deviation over 1 slice of 1 subject; " in text
    assert "no p of 1 subject can be below 1, nor below 1 when corrected" in text


def test_the_baseline_is_the_best_where_all_others_are_worse() -> None:
    text = markdown(ROWS, baseline="full", gap=None)
    assert "| full | **baseline** | – | **baseline** | – |" in text
    assert text.count("**") == 2 * (4 + 4 + 2)
    assert "gap" not in text


def test_a_single_method_is_compared_with_nothing() -> None:
    text = markdown(ROWS, methods={"SSDU": {}}, gap=None)
    assert "### Intervals" in text
    assert "Against" not in text


def test_notes_say_what_was_averaged_and_what_is_missing() -> None:
    rows = [*ROWS, *(score(row.label, row.subject, row.psnr + 1, seed=1) for row in ROWS)]
    rows.append(SliceScore("IDR", 4.0, 0, 0, "c", 0, held_out=0.1))
    note = sortable_tables(build_table(plan(seeds=(0, 1)), rows, Scoring("minmax")))[0].note
    assert note.startswith("mean ± standard deviation over up to 3 slices of 3 subjects; ")
    assert "; the score of a slice is the mean over 2 trainings; " in note
    assert "after min-max" in note
    assert "| IDR | 33.50 ± 1.41 |" in markdown(rows)


def test_the_smallest_p_is_said() -> None:
    rows = [score(label, str(s), psnr[0] + s * psnr[1] / 40) for label, psnr in PSNR.items() for s in range(5)]
    note = sortable_tables(build_table(plan(), rows, Scoring()))[2].note
    assert (
        "Holm-corrected for 3 methods; no p of 5 subjects can be below 0.0625, nor below 0.188 when corrected" in note
    )
    many = [score(label, str(s), psnr[0] + s * psnr[1] / 99) for label, psnr in PSNR.items() for s in range(20)]
    table = build_table(plan(), many, Scoring())
    assert [entry.text for entry in (row[2] for row in sortable_tables(table)[2].rows)] == [
        *("<0.0001", "–", "<0.0001", "<0.0001")
    ]
    assert "too narrow" not in sortable_tables(table)[1].note


def test_perceptual_distance_is_shown_where_it_was_asked_for() -> None:
    assert "LPIPS" not in MARKDOWN
    text = markdown(ROWS, Scoring(lpips="alex"))
    assert "| PSNR (dB) | SSIM | NMSE | LPIPS (alex) | held-out error |" in text
    assert "| **0.0836 ± 0.0066** |" in text
    bare = [SliceScore(row.label, 4.0, 0, 0, row.subject, 0, row.psnr, row.ssim, row.nmse, 0.1) for row in ROWS]
    text = markdown(bare, Scoring(lpips="alex", weights=False))
    assert text.count("| no weights |") == 8
    assert "LPIPS 0.1" not in text
    assert "over 2 slices of 2 subjects" in text


def test_cells_are_sorted_by_their_numbers() -> None:
    scores, intervals, tests = sortable_tables(build_table(plan(), ROWS, Scoring()))
    assert [row[1].value for row in scores.rows] == [21.0, 30.5, 33.0, 36.0]
    assert [row[1].value for row in intervals.rows] == [21.0, 30.5, 33.0, 36.0]
    assert [row[1].value for row in tests.rows] == [-9.5, 0.0, 2.5, 5.5]
    assert [row[2].value for row in tests.rows] == [1.0, None, 1.0, 1.0]
    assert tests.rows[2][3].value == pytest.approx(100 * 2.5 / 5.5)
    assert [heading.better for heading in scores.headings] == [None, "high", "high", "low", "low"]
    assert [heading.better for heading in tests.headings] == [None, "high", None, "high", "high", None, "high"]


def test_markdown_shows_labels_as_they_are() -> None:
    labels = {"SSDU": {}, "a|b*c_d<e>`f`": {}}
    assert "| a\\|b\\*c\\_d\\<e>\\`f\\` | – |" in markdown([], methods=labels, gap=None)


def test_latex_is_a_table_of_booktabs() -> None:
    lines = comparison_latex(build_table(plan(), ROWS, Scoring())).splitlines()
    start = lines.index(r"\caption{Scores, acceleration 4x}")
    assert lines[start + 1 : start + 8] == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"method & PSNR (dB) & SSIM & NMSE & held-out error \\",
        r"\midrule",
        r"Input & 21.00 $\pm$ 1.41 & 0.4200 $\pm$ 0.0283 & 0.0477 $\pm$ 0.0032 & 0.0955 $\pm$ 0.0064 \\",
        r"SSDU & 30.50 $\pm$ 0.71 & 0.6100 $\pm$ 0.0141 & 0.0328 $\pm$ 0.0008 & 0.0656 $\pm$ 0.0015 \\",
        r"IDR & 33.00 $\pm$ 1.41 & 0.6600 $\pm$ 0.0283 & 0.0303 $\pm$ 0.0013 & 0.0607 $\pm$ 0.0026 \\",
    ]
    assert lines[start + 8].startswith(r"full & \textbf{36.00 $\pm$ 2.83} & \textbf{0.7200")
    assert lines[start + 9 : start + 11] == [r"\bottomrule", r"\end{tabular}"]
    assert r"SSDU & baseline & -- & 0.0 {[}0.0, 0.0] & baseline & -- & 0.0 {[}0.0, 0.0] \\" in lines
    assert any(line.startswith(r"Input & $-$9.50 {[}$-$10.00, $-$9.00] & 1.0000 & $-$172.7") for line in lines)
    assert lines.count(r"\begin{table}\centering\footnotesize") == lines.count(r"\end{table}") == 3
    for line in lines:
        assert line.count("{") == line.count("}")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("50 % & #1_$x$ {a}", r"50 \% \& \#1\_\$x\$ \{a\}"),
        (r"a\b^c~d", r"a\textbackslash{}b\textasciicircum{}c\textasciitilde{}d"),
        ("<naïve> Δ", r"$<$naïve$>$ $\Delta$"),
        ("[8] ours", "{[}8] ours"),
        ("* ours", "{*} ours"),
    ],
)
def test_latex_shows_labels_as_they_are(label: str, expected: str) -> None:
    table = build_table(plan(methods={"SSDU": {}, label: {}}, gap=None), [], Scoring())
    assert f"\n{expected} & -- & -- & -- & -- \\\\\n" in comparison_latex(table)


def test_csv_holds_every_number_in_full() -> None:
    labels = {"SSDU": {}, 'IDR, "large"\nÄ': {}, "full": {}}
    rows = [score(label, s, 30 + k + 1 / (k + ord(s))) for k, label in enumerate(labels) for s in "abcdefg"]
    table = build_table(plan(methods=labels, accelerations={4.0: {}, 8.0: {}}), rows, Scoring(lpips="vgg"))
    found = list(csv.DictReader(io.StringIO(comparison_csv(table), newline="")))
    assert list(found[0]) == list(CSV_COLUMNS)
    keys = [(float(line["acceleration"]), csv_name(line["method"]), line["metric"]) for line in found]
    metrics = ["psnr", "ssim", "nmse", "lpips", "held_out"]
    assert keys == [(place, label, metric) for place in (4.0, 8.0) for label in labels for metric in metrics]
    by_key = {
        key: {name: float(line[name] or "nan") for name in CSV_COLUMNS[3:]}
        for key, line in zip(keys, found, strict=True)
    }
    line = table.lines[4.0][1]
    for metric in ("psnr", "ssim"):
        mean, difference, share = line.estimates[metric], line.differences[metric], line.shares[metric]
        assert list(by_key[4.0, line.label, metric].values()) == [
            *(7, 7, mean.mean, mean.std, *mean.interval, difference.mean, *difference.interval),
            *(7, difference.p, difference.corrected, share.share, *share.interval),
        ]
        assert difference.p == 2 / 2**7
        assert difference.corrected == 4 / 2**7
    held_out = list(by_key[4.0, line.label, "held_out"].values())
    assert held_out[2] == line.estimates["held_out"].mean
    assert all(math.isnan(number) for number in held_out[6:])
    assert list(by_key[8.0, "full", "psnr"].values())[:2] == [0, 0]
    assert found[-1]["mean"] == ""
