from __future__ import annotations

import io
import math

from rich.console import Console

from sansref.experiments.scores import Score, Summary
from sansref.experiments.tables import BEST, score_cells, score_markdown, score_table, show

ONE = {
    "zero-filled": Summary.of([Score(25.123, 0.71234, 0.06789, 1.0)]),
    "IDR": Summary.of([Score(30.0, 0.9, 0.01, 0.2)]),
}
MANY = {"idr": Summary.of([Score(30.0, 0.9, 0.01, 0.2), Score(32.0, 0.8, 0.03, 0.4)])}


def drawn(summaries, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(score_table(summaries))
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


def test_no_number_is_cut_where_the_output_is_narrow(capsys):
    # A pipe is 80 columns wide to rich.
    show(score_table({"zero-filled": MANY["idr"], "supervised": MANY["idr"]}))
    out = capsys.readouterr().out
    for cell in ("zero-filled", "supervised", "31.00 ± 1.41", "0.8500 ± 0.0707", "0.0200 ± 0.0141", "0.3000 ± 0.1414"):
        assert cell in out


def test_missing_references_show_as_nan():
    nan = math.nan
    assert score_cells({"idr": Summary.of([Score(nan, nan, nan, 0.25)])})[1] == [["idr", "nan", "nan", "nan", "0.2500"]]
