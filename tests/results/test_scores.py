from __future__ import annotations

import math
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.errors import FileError
from sansref.results.scores import COLUMNS, PUBLISHED, ScoredSlice, file_in, read_scores, write_scores

ROW = ScoredSlice(
    *("IDR", 4.0, 1, 2, "sub-01", 7, 1 / 3, 0.1 + 0.2, 1e-300, 2.5e17, math.nan, "a/b.h5", 20.5, 0.5, 0.25, 1.5)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def equal(found: list[ScoredSlice], expected: list[ScoredSlice]) -> bool:
    """Whether all values are equal to the last digit, NaN to NaN."""
    return [repr(astuple(row)) for row in found] == [repr(astuple(row)) for row in expected]


@pytest.mark.parametrize("text", ["", "a, b", 'say "x"', "zwölf μ 膝", "two\nlines", "cr\r", " spaces ", "=1+1", "nan"])
def test_words_come_back_as_they_were(tmp_path: Path, text: str) -> None:
    rows = [replace(ROW, label=text), replace(ROW, subject=text), replace(ROW, file=text), ROW]
    write_scores(tmp_path / "scores.csv", rows)
    assert equal(read_scores(tmp_path / "scores.csv"), rows)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(), min_size=6, max_size=6), TEXT)
def test_numbers_come_back_to_the_last_digit(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], text: str
) -> None:
    acceleration, psnr, ssim, nmse, held_out, lpips = values
    row = ScoredSlice(text, acceleration, 0, 0, text, 0, psnr, ssim, nmse, held_out, lpips, text, *values[1:4])
    path = tmp_path_factory.mktemp("scores") / "scores.csv"
    write_scores(path, [row, ROW])
    assert equal(read_scores(path), [row, ROW])


def test_the_file_is_a_table_that_others_can_read(tmp_path: Path) -> None:
    write_scores(tmp_path / "new" / "scores.csv", [replace(ROW, label="IDR, large")])
    lines = (tmp_path / "new" / "scores.csv").read_text().splitlines()
    published = "label,acceleration,fold,seed,subject,slice,psnr,ssim,nmse,held_out,lpips"
    assert lines[0] == f"{published},file,psnr_body,ssim_body,nmse_body,seconds"
    numbers = "0.3333333333333333,0.30000000000000004,1e-300,2.5e+17,nan,a/b.h5,20.5,0.5,0.25,1.5"
    assert lines[1] == f'"IDR, large",4.0,1,2,sub-01,7,{numbers}'
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["scores.csv"]


def test_scores_of_earlier_versions_are_read_without_file_and_body(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(f"{','.join(PUBLISHED)}\nIDR,4.0,1,2,sub-01,7,30.0,0.9,0.01,0.2,nan\n")
    (row,) = read_scores(tmp_path / "scores.csv")
    assert equal([row], [ScoredSlice("IDR", 4.0, 1, 2, "sub-01", 7, 30.0, 0.9, 0.01, 0.2)])
    assert (row.file, math.isnan(row.psnr_body)) == ("", True)


def test_scores_without_seconds_are_read(tmp_path: Path) -> None:
    cells = "IDR,4.0,1,2,sub-01,7,30.0,0.9,0.01,0.2,nan,f.h5,29.0,0.8,0.02"
    (tmp_path / "scores.csv").write_text(f"{','.join(COLUMNS[:-1])}\n{cells}\n")
    (row,) = read_scores(tmp_path / "scores.csv")
    assert (row.file, row.nmse_body, math.isnan(row.seconds)) == ("f.h5", 0.02, True)


def test_a_file_is_named_by_its_path_in_the_data(tmp_path: Path) -> None:
    assert file_in(tmp_path, tmp_path / "P1" / "T1.nii") == "P1/T1.nii"
    assert file_in(tmp_path / "T1.nii", tmp_path / "T1.nii") == file_in(tmp_path / "other", "T1.nii") == "T1.nii"


def test_no_scores_are_a_table_without_lines(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", [])
    assert read_scores(tmp_path / "scores.csv") == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("IDR,4.0,1,2,s,7,30.0,0.9,0.01,0.2,0.3", "is damaged in line 3 .11 columns instead of 16"),
        ("IDR,4.0,1,2,s,7,30.0,0.9,0.01,0.2,0.3,f,1,1,1,1,1", "is damaged in line 3 .17 columns instead of 16"),
        ("IDR,4.0,1,2,s,7,thirty,0.9,0.01,0.2,0.3,f,1,1,1,1", "is damaged in line 3 .*'thirty'"),
        ("IDR,4.0,1,2.5,s,7,30.0,0.9,0.01,0.2,0.3,f,1,1,1,1", r"is damaged in line 3 .*'2\.5'"),
        ("", "is damaged in line 3 .0 columns instead of 16"),
        ('"IDR', "is not a CSV file of scores"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "scores.csv"
    write_scores(path, [ROW])
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(FileError, match=rf"scores\.csv: {problem}.*Remove it and score again"):
        read_scores(path)


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_line_that_was_cut_off_is_noticed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "scores.csv"
    write_scores(path, [ROW, replace(ROW, lpips=0.123456)])
    columns = path.read_text().splitlines()[2].split(",")[:-cut]
    path.write_text("\n".join([*path.read_text().splitlines()[:2], ",".join(columns)]))
    with pytest.raises(FileError, match=f"line 3 .{len(COLUMNS) - cut} columns instead of 16"):
        read_scores(path)


@pytest.mark.parametrize("content", [b"", b"subject,file\n", b"\xff\xfe\x00"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scores.csv").write_bytes(content)
    with pytest.raises(FileError, match=r"scores\.csv: (begins with|is not a CSV file of scores)"):
        read_scores(tmp_path / "scores.csv")


def test_a_missing_file_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"scores\.csv: cannot be read \(No such file"):
        read_scores(tmp_path / "scores.csv")


def test_an_unwritable_folder_is_a_file_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"):
        write_scores(tmp_path / "file" / "scores.csv", [ROW])
