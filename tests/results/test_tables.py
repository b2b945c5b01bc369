# ruff: noqa: RUF001  (signs as a reader sees them)
from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
from rich.console import Console

from sansref.files import csv_name
from sansref.results.render import CSV_COLUMNS, latex, markdown, numbers_csv, show, terminal_table
from sansref.results.scores import UNDEFINED, ScoredSlice
from sansref.results.tables import BODY_NOTE, RANGE_NOTE, Scoring, Summary, data_note, summarise

PSNR = {"Input": (20.0, 22.0), "SSDU": (30.0, 31.0), "IDR": (32.0, 34.0), "full": (34.0, 38.0)}
"""Of subjects a and b, in a slice each."""


def summary(rows: Sequence[ScoredSlice], scoring: Scoring | None = None, **changes: Any) -> Summary:
    values = {"labels": list(PSNR), "acceleration": 4.0, "baseline": "SSDU", "gap": ("SSDU", "full")}
    return summarise(rows, scoring or Scoring(), **{**values, **changes})


def score(label: str, subject: str, psnr: float, seed: int = 0) -> ScoredSlice:
    """Scores that all follow from one; its NMSE and held-out error are better the higher it is."""
    return ScoredSlice(label, 4.0, 0, seed, subject, 0, psnr, psnr / 50, 1 / psnr, 2 / psnr, 3 / psnr)


def inside(row: ScoredSlice) -> ScoredSlice:
    """The same with scores in the body, 3 dB lower."""
    return replace(row, psnr_body=row.psnr - 3, ssim_body=row.ssim - 0.06, nmse_body=2 * row.nmse)


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


def text(rows: Sequence[ScoredSlice], scoring: Scoring | None = None, **changes: Any) -> str:
    return markdown(summary(rows, scoring, **changes).tables(), "Heads")


def test_markdown_of_two_subjects_is_as_worked_out_by_hand() -> None:
    assert text(ROWS) == MARKDOWN


def test_methods_stand_in_the_given_order_and_others_are_left_out() -> None:
    assert text([*reversed(ROWS), score("other", "a", 99.0)]) == MARKDOWN


def test_scores_in_the_body_stand_in_tables_of_their_own() -> None:
    found = summary([inside(row) for row in ROWS])
    kinds = [f"{kind}{where}" for kind in ("Scores", "Intervals", "Against SSDU") for where in ("", " in the body")]
    assert [table.caption for table in found.tables()] == [f"{kind}, acceleration 4x" for kind in kinds]
    assert markdown(found.tables()[::2], "Heads") == MARKDOWN
    scores, intervals, tests = (markdown([table]) for table in found.tables()[1::2])
    assert "| method | PSNR in the body (dB) | SSIM in the body | NMSE in the body |" in scores
    assert "| IDR | 30.00 ± 1.41 | 0.6000 ± 0.0283 | 0.0607 ± 0.0026 |" in scores
    assert BODY_NOTE in scores
    assert "| IDR | 30.00 [29.00, 31.00] | 0.6000 [0.5800, 0.6200] | 0.0607 [0.0588, 0.0625] |" in intervals
    assert "| Δ PSNR in the body (dB) | PSNR in the body p (Holm) | PSNR in the body gap closed (%) |" in tests
    assert "| IDR | +2.50 [+2.00, +3.00] | 1.0000 | 45.5 [42.9, 50.0] |" in tests
    assert r"\caption{Scores in the body, acceleration 4x}" in latex(found.tables())
    metrics = {line["metric"] for line in csv.DictReader(io.StringIO(numbers_csv([found]), newline=""))}
    assert {"psnr_body", "ssim_body", "nmse_body"} < metrics
    assert [table.caption for table in found.scores()] == [table.caption for table in found.tables()[:2]]


def test_a_method_without_scores_is_dashes() -> None:
    lines = text([row for row in ROWS if row.label != "full"]).splitlines()
    full = [line for line in lines if line.startswith("| full ")]
    assert full == ["| full | – | – | – | – |", "| full | – | – | – | – |", "| full | – | – | – | – | – | – |"]
    # Its gap is not known either.
    assert "| IDR | **+2.50 [+2.00, +3.00]** | 1.0000 | – |" in "\n".join(lines)


def test_a_single_subject_has_no_interval_and_no_spread() -> None:
    found = text([row for row in ROWS if row.subject == "a"])
    assert "| IDR | 32.00 | 0.6400 |" in found
    assert "Intervals" not in found
    assert "| IDR | +2.00 [–, –] | 1.0000 | 50.0 [–, –] |" in found
    assert f"\none slice; {RANGE_NOTE}; " in found
    assert "no p of 1 subject can be below 1, nor below 1 when corrected" in found


def test_the_baseline_is_the_best_where_all_others_are_worse() -> None:
    found = text(ROWS, baseline="full", gap=None)
    assert "| full | **baseline** | – | **baseline** | – |" in found
    assert found.count("**") == 2 * (4 + 4 + 2)
    assert "gap" not in found


def test_a_single_method_is_compared_with_nothing() -> None:
    for found in (text(ROWS, labels=["SSDU"], gap=None), text(ROWS, baseline="", gap=None)):
        assert "### Intervals" in found
        assert "Against" not in found


def test_notes_say_what_was_averaged_and_what_is_missing() -> None:
    rows = [*ROWS, *(score(row.label, row.subject, row.psnr + 1, seed=1) for row in ROWS)]
    rows.append(ScoredSlice("IDR", 4.0, 0, 0, "c", 0, held_out=0.1))
    note = summary(rows, Scoring("minmax", data="k-space simulated"), seeds=2).note
    assert note.startswith("mean ± standard deviation over 3 slices of 3 subjects, against the reference over the 2 ")
    assert "; the score of a slice is the mean over 2 trainings; " in note
    assert (
        "after min-max (images by the minimum and maximum of the zero-filled image, the reference by its own)" in note
    )
    assert "data range 1," in note
    assert note.endswith("; k-space simulated; held-out error: reference-free, lower is better")
    assert "| IDR | 33.50 ± 1.41 |" in text(rows)
    assert "over up to 2 slices of 2 subjects" in summary(ROWS[:-1]).note
    assert summary(rows[-1:]).note.startswith("one slice, without a reference; ")


def test_the_smallest_p_is_said() -> None:
    rows = [score(label, str(s), psnr[0] + s * psnr[1] / 40) for label, psnr in PSNR.items() for s in range(5)]
    note = summary(rows).tables()[2].note
    assert (
        "Holm-corrected for 3 methods; no p of 5 subjects can be below 0.0625, nor below 0.188 when corrected" in note
    )
    many = [score(label, str(s), psnr[0] + s * psnr[1] / 99) for label, psnr in PSNR.items() for s in range(20)]
    tables = summary(many).tables()
    assert [entry.text for entry in (row[2] for row in tables[2].rows)] == [*("<0.0001", "–", "<0.0001", "<0.0001")]
    assert "too narrow" not in tables[1].note


def test_a_method_without_scores_is_no_test() -> None:
    rows = [score(label, str(s), psnr[0] + s * psnr[1] / 40) for label, psnr in PSNR.items() for s in range(5)]
    found = summary(rows, labels=[*PSNR, "failed"]).tables()[2]
    assert found.rows[-1][2].text == "–"
    assert "Holm-corrected for 3 methods" in found.note


def test_perceptual_distance_is_shown_where_it_was_asked_for() -> None:
    assert "LPIPS" not in MARKDOWN
    found = text(ROWS, Scoring(lpips="alex"))
    assert "| PSNR (dB) | SSIM | NMSE | LPIPS (alex) | held-out error |" in found
    assert "| **0.0836 ± 0.0066** |" in found
    bare = [replace(row, lpips=math.nan, held_out=0.1) for row in ROWS]
    found = text(bare, Scoring(lpips="alex", weights=False))
    assert found.count("| no weights |") == 8
    assert "LPIPS 0.1" not in found
    assert "over 2 slices of 2 subjects" in found


def test_undefined_scores_are_dashes_and_never_the_best() -> None:
    rows = [ScoredSlice("best scale", 4, 0, 0, "a", 0, 31.0, 0.8, 0.02), score("IDR", "a", 30.0)]
    (table,) = summarise(rows, Scoring()).scores()
    assert [entry.text for entry in table.rows[0]] == ["best scale", "31.00", "0.8000", "0.0200", UNDEFINED]
    assert table.highlights() == {(0, 1), (0, 2), (0, 3), (1, 4)}
    assert table.caption == "Scores"


def test_a_mean_over_one_of_several_slices_is_a_bare_value() -> None:
    rows = [score("idr", "a", 30.0), ScoredSlice("idr", 4, 0, 0, "b", 0, held_out=0.4)]
    ((cells,),) = (table.rows for table in summarise(rows, Scoring()).scores())
    assert [entry.text for entry in cells] == ["idr", "30.00", "0.6000", "0.0333", "0.2333 ± 0.2357"]


def test_the_terminal_says_how_and_over_what_it_was_scored() -> None:
    console = Console(file=io.StringIO(), width=250)
    (table,) = summary(ROWS).scores()
    console.print(terminal_table(table))
    found = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert table.note in found
    assert "full 36.00 ± 2.83 0.7200 ± 0.0566 0.0279 ± 0.0022 0.0557 ± 0.0044" in found


def test_no_number_is_cut_where_the_output_is_narrow(capsys: pytest.CaptureFixture[str]) -> None:
    # A pipe is 80 columns wide to rich.
    rows = [replace(inside(row), label="zero-filled, best scale") for row in ROWS if row.label == "IDR"]
    tables = summarise(rows, Scoring(lpips="alex")).scores()
    show(tables)
    out = capsys.readouterr().out
    for cell in (entry.text for table in tables for entry in table.rows[0]):
        assert cell in out
    assert "held-out error" in out
    assert "PSNR in the body (dB)" in out


def test_cells_are_sorted_by_their_numbers() -> None:
    scores, intervals, tests = summary(ROWS).tables()
    assert [row[1].value for row in scores.rows] == [21.0, 30.5, 33.0, 36.0]
    assert [row[1].value for row in intervals.rows] == [21.0, 30.5, 33.0, 36.0]
    assert [row[1].value for row in tests.rows] == [-9.5, 0.0, 2.5, 5.5]
    assert [row[2].value for row in tests.rows] == [1.0, None, 1.0, 1.0]
    assert tests.rows[2][3].value == pytest.approx(100 * 2.5 / 5.5)
    assert [heading.better for heading in scores.headings] == [None, "higher", "higher", "lower", "lower"]
    assert [heading.better for heading in tests.headings] == [None, "higher", None, "higher", "higher", None, "higher"]


def test_markdown_shows_labels_as_they_are() -> None:
    labels = ["SSDU", "a|b*c_d<e>`f`"]
    assert "| a\\|b\\*c\\_d\\<e>\\`f\\` | – |" in text([], labels=labels, gap=None)


def test_latex_is_a_table_of_booktabs() -> None:
    lines = latex(summary(ROWS).tables()).splitlines()
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
    found = latex(summary([], labels=["SSDU", label], gap=None).tables())
    assert f"\n{expected} & -- & -- & -- & -- \\\\\n" in found


def test_csv_holds_every_number_in_full() -> None:
    labels = ["SSDU", 'IDR, "large"\nÄ', "full"]
    rows = [score(label, s, 30 + k + 1 / (k + ord(s))) for k, label in enumerate(labels) for s in "abcdefg"]
    summaries = [
        summary(own, Scoring(lpips="vgg"), labels=labels, acceleration=place) for place, own in ((4.0, rows), (8.0, []))
    ]
    found = list(csv.DictReader(io.StringIO(numbers_csv(summaries), newline="")))
    assert list(found[0]) == list(CSV_COLUMNS)
    keys = [(float(line["acceleration"]), csv_name(line["method"]), line["metric"]) for line in found]
    metrics = ["psnr", "ssim", "nmse", "lpips", "held_out"]
    assert keys == [(place, label, metric) for place in (4.0, 8.0) for label in labels for metric in metrics]
    by_key = {
        key: {name: float(line[name] or "nan") for name in CSV_COLUMNS[3:]}
        for key, line in zip(keys, found, strict=True)
    }
    label, line = labels[1], summaries[0].lines[labels[1]]
    for metric in ("psnr", "ssim"):
        mean, difference, share = line.estimates[metric], line.differences[metric], line.shares[metric]
        assert list(by_key[4.0, label, metric].values()) == [
            *(7, 7, mean.mean, mean.std, *mean.interval, difference.mean, *difference.interval),
            *(7, difference.p, difference.corrected, share.share, *share.interval),
        ]
        assert difference.p == 2 / 2**7
        assert difference.corrected == 4 / 2**7
    held_out = list(by_key[4.0, label, "held_out"].values())
    assert held_out[2] == line.estimates["held_out"].mean
    assert all(math.isnan(number) for number in held_out[6:])
    assert list(by_key[8.0, "full", "psnr"].values())[:2] == [0, 0]
    assert found[-1]["mean"] == ""


@pytest.mark.parametrize(
    ("slices", "how", "note"),
    [
        ([(False, False)], "combined", ""),
        ([(True, False), (True, False)], "rss", "k-space simulated from magnitude images, which flatters every method"),
        ([(False, True), (False, False)], "combined", "reference: coils combined by their maps"),
        (
            [(False, True), (True, False), (True, False)],
            "rss",
            "k-space of 2 slices simulated from magnitude images, which flatters every method; "
            "reference: coils as root of the sum of squares",
        ),
    ],
)
def test_what_there_is_to_say_of_the_data(
    slices: list[tuple[bool, bool]], how: Literal["combined", "rss"], note: str
) -> None:
    assert data_note(slices, how) == note
