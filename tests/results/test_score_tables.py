from __future__ import annotations

import io

from rich.console import Console

from sansref.results.report import Table
from sansref.results.score_tables import (
    BEST,
    PLAIN,
    UNDEFINED,
    Scoring,
    score_cells,
    score_markdown,
    score_note,
    score_table,
    show,
)
from sansref.results.scores import Score, Summary

ONE = {
    "zero-filled": Summary.of([Score(25.123, 0.71234, 0.06789, 1.0)]),
    "IDR": Summary.of([Score(30.0, 0.9, 0.01, 0.2)]),
}
MANY = {"idr": Summary.of([Score(30.0, 0.9, 0.01, 0.2), Score(32.0, 0.8, 0.03, 0.4)])}


def drawn(summaries, scoring: Scoring = PLAIN, width: int = 250) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(score_table(summaries, scoring))
    return console.file.getvalue()


def test_cells_of_one_slice_are_bare_values():
    headings, rows = score_cells(ONE)
    assert headings == ["method", "PSNR (dB)", "SSIM", "NMSE", "held-out error"]
    assert rows == [
        ["zero-filled", "25.12", "0.7123", "0.0679", "1.0000"],
        ["IDR", "30.00", "0.9000", "0.0100", "0.2000"],
    ]


def test_cells_of_many_slices_have_their_spread():
    assert score_cells(MANY)[1] == [["idr", "31.00 ± 1.41", "0.8500 ± 0.0707", "0.0200 ± 0.0141", "0.3000 ± 0.1414"]]


def test_every_score_says_which_way_is_better():
    assert list(BEST) == score_cells(ONE)[0][1:]
    assert BEST == {"PSNR (dB)": "highest", "SSIM": "highest", "NMSE": "lowest", "held-out error": "lowest"}


def test_markdown_is_a_table():
    assert score_markdown(ONE).splitlines() == [
        "| method | PSNR (dB) | SSIM | NMSE | held-out error |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| zero-filled | 25.12 | 0.7123 | 0.0679 | 1.0000 |",
        "| IDR | 30.00 | 0.9000 | 0.0100 | 0.2000 |",
    ]


def test_terminal_table_says_how_and_over_what_it_was_scored():
    one, many = " ".join(drawn(ONE).split()), " ".join(drawn(MANY).split())
    assert "one slice; per slice on magnitudes" in one
    assert "mean ± standard deviation over 2 slices" in many
    assert "data range = maximum of the slice's reference" in one
    assert "held-out error: reference-free, lower is better" in one
    assert "LPIPS" not in one
    assert "without a reference" not in one


def test_terminal_table_says_when_grey_values_were_relative():
    text = " ".join(drawn(ONE, Scoring("minmax")).split())
    assert (
        "after min-max (images by the minimum and maximum of the zero-filled image, the reference by its own)" in text
    )
    assert "data range 1," in text
    assert "maximum of the slice's reference" not in text


def test_terminal_table_says_how_many_slices_have_a_reference():
    scores = [Score(30.0, 0.9, 0.01, 0.2), Score(32.0, 0.8, 0.03, 0.4), Score(held_out=0.6)]
    note = score_note({"idr": Summary.of(scores)})
    assert note.startswith("mean ± standard deviation over 3 slices, against the reference over the 2 that have one; ")
    assert score_note({"idr": Summary.of(scores[2:])}).startswith("one slice, without a reference; ")
    assert score_note({"idr": Summary.of(scores[:2])}).startswith("mean ± standard deviation over 2 slices; ")
    assert note in " ".join(drawn({"idr": Summary.of(scores)}, width=2000).split())


def test_perceptual_distance_is_shown_with_its_backbone_where_it_was_asked_for():
    summaries = {"idr": Summary.of([Score(30.0, 0.9, 0.01, 0.2, 0.12345)])}
    headings, rows = score_cells(summaries, Scoring(lpips="vgg"))
    assert headings == ["method", "PSNR (dB)", "SSIM", "NMSE", "LPIPS (vgg)", "held-out error"]
    assert rows == [["idr", "30.00", "0.9000", "0.0100", "0.1235", "0.2000"]]
    assert "LPIPS" not in " ".join(score_cells(summaries)[0])
    assert "LPIPS 0.1 with the same data range, lower is better" in score_note(summaries, Scoring(lpips="vgg"))
    assert "| LPIPS (vgg) |" in score_markdown(summaries, Scoring(lpips="vgg"))
    assert "LPIPS (vgg)" in drawn(summaries, Scoring(lpips="vgg"))


def test_missing_weights_are_told_instead_of_a_number():
    scoring = Scoring(lpips="alex", weights=False)
    headings, rows = score_cells(ONE, scoring)
    assert [row[headings.index("LPIPS (alex)")] for row in rows] == ["no weights", "no weights"]
    assert "LPIPS" not in score_note(ONE, scoring)


def test_no_number_is_cut_where_the_output_is_narrow(capsys):
    # A pipe is 80 columns wide to rich.
    show(score_table({"zero-filled": MANY["idr"], "supervised": MANY["idr"]}))
    out = capsys.readouterr().out
    for cell in ("zero-filled", "supervised", "31.00 ± 1.41", "0.8500 ± 0.0707", "0.0200 ± 0.0141", "0.3000 ± 0.1414"):
        assert cell in out
    wide = {"zero-filled, best scale": Summary.of([Score(30.0, 0.9, 0.01, 0.2, 0.5), Score(32.0, 0.8, 0.03, 0.4, 0.7)])}
    show(score_table(wide, Scoring(lpips="alex")))
    out = capsys.readouterr().out
    for cell in ("zero-filled, best scale", "31.00 ± 1.41", "0.6000 ± 0.1414", "0.3000 ± 0.1414", "held-out error"):
        assert cell in out


def test_undefined_scores_are_dashes_and_never_the_best():
    rows = score_cells({"idr": Summary.of([Score(held_out=0.25)])})[1]
    assert rows == [["idr", UNDEFINED, UNDEFINED, UNDEFINED, "0.2500"]]
    summaries = {"best scale": Summary.of([Score(31.0, 0.8, 0.02)]), **ONE}
    headings, rows = score_cells(summaries)
    assert rows[0][-1] == UNDEFINED == "\N{EN DASH}"
    report = Table("", headings, rows, best=BEST)
    assert (2, headings.index("held-out error")) in report.highlights
    assert report.numeric == {1, 2, 3, 4}


def test_a_mean_over_one_of_several_slices_is_a_bare_value():
    rows = score_cells({"idr": Summary.of([Score(30.0, 0.9, 0.01, 0.2), Score(held_out=0.4)])})[1]
    assert rows == [["idr", "30.00", "0.9000", "0.0100", "0.3000 ± 0.1414"]]


def test_what_there_is_to_say_of_the_data_stands_in_the_note() -> None:
    assert "; k-space simulated; held-out error" in score_note(ONE, Scoring(data="k-space simulated"))
    assert "k-space" not in score_note(ONE)
