from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.forks import held_by_another
from sansref.errors import FileError, SettingError
from sansref.files import (
    MARK,
    atomic_folder,
    atomic_path,
    claim,
    claimed,
    csv_name,
    csv_text,
    fitting,
    keep_outside,
    locked,
    remove_leftovers,
    remove_made,
    write_text,
    writing,
)


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "run.json"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["image.nii.gz", "weights.safetensors"])
def test_the_temporary_name_ends_like_the_final_one(tmp_path: Path, name: str) -> None:
    with atomic_path(tmp_path / name) as temporary:
        assert temporary.name.endswith(name)
        temporary.touch()


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # the outer block ends last
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("before", ["old", None])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_everything_as_it_was(
    tmp_path: Path, before: str | None, error: type[BaseException]
) -> None:
    path = tmp_path / "a"
    if before is not None:
        path.write_text(before)
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert [entry.name for entry in tmp_path.iterdir()] == (["a"] if before else [])
    assert before is None or path.read_text() == before


def test_a_system_that_refuses_is_one_line_for_the_user(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(FileError) as raised, atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert str(raised.value) == (
        f"{path}: cannot be written (No space left on device). Choose a folder with free space that you may write to."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_one_line_too(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(FileError, match=r"cannot be written \((File exists|Not a directory)\)"):
        write_text(tmp_path / "runs" / "a", "text")


def test_text_replaces_text(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old, and longer")
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


def test_leftovers_of_killed_writers_go_and_nothing_else(tmp_path: Path) -> None:
    names = ("a", "stages/best", "not.part-of-it", ".part-mine", ".part-of the thesis", f".part-{'x' * 32}-a")
    kept = [tmp_path / name for name in names]
    for path in kept:
        write_text(path, "kept")
    killed = [atomic_path(folder / "last.ckpt") for folder in (tmp_path, tmp_path / "stages")]
    for writer in killed:
        writer.__enter__().write_text("half")  # and never left
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 8
    remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_leftovers_of_others_at_work_in_the_folder_stay(tmp_path: Path) -> None:
    claim(tmp_path / "other", "run")
    with atomic_path(tmp_path / "other" / "last.ckpt") as temporary:
        temporary.write_text("half")
        (tmp_path / temporary.name).symlink_to(tmp_path / "other")
        remove_leftovers(tmp_path)
        assert temporary.exists()
    assert (tmp_path / "other" / "last.ckpt").exists()


def test_a_folder_is_ours_by_its_mark_alone(tmp_path: Path) -> None:
    claim(tmp_path / "new", "run")
    claim(tmp_path / "new", "run")
    assert claimed(tmp_path / "new") == "run"
    with pytest.raises(SettingError, match="holds the run of another command, not a comparison"):
        claim(tmp_path / "new", "comparison")
    with pytest.raises(SettingError, match="holds the run of another command, not an evaluation"):
        claim(tmp_path / "new", "evaluation")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / f".part-{'0' * 32}-{MARK}").touch()
    claim(tmp_path / "empty", "run")
    for name in ("config.yaml", "environment.json", ".hidden", ".part-mine"):
        (tmp_path / name / "in").mkdir(parents=True)
        with pytest.raises(SettingError, match="is not empty"):
            claim(tmp_path / name, "run")
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("nothing")
    for name in ("file", "broken"):
        with pytest.raises(SettingError, match="is not empty"):
            claim(tmp_path / name, "run")


@pytest.mark.parametrize("text", ["", "sansref\n", "of sansref run\n", "sansref run and more\n"])
def test_other_files_of_its_name_are_no_mark(tmp_path: Path, text: str) -> None:
    (tmp_path / MARK).write_text(text)
    assert claimed(tmp_path) == ""


def test_a_folder_goes_if_nothing_else_is_in_it(tmp_path: Path) -> None:
    made = r"part/(a|b)\.bin|list"
    for name in ("data/part/a.bin", "data/list", f"data/.part-{'0' * 32}-b.bin"):
        write_text(tmp_path / name, "ours")
    for name in ("data/part/mine", "data/mine/a.bin", "data/a.bin"):
        write_text(tmp_path / name, "mine")
        with pytest.raises(SettingError, match="not written by sansref"):
            remove_made(tmp_path / "data", made)
        (tmp_path / name).unlink()
    assert (tmp_path / "data" / "list").exists()
    remove_made(tmp_path / "data", made)
    remove_made(tmp_path / "data", made)
    assert list(tmp_path.iterdir()) == []


def test_places_lie_apart(tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    (scans / "deep").mkdir(parents=True)
    (scans / "loop").symlink_to("loop")
    (scans / "deep" / "up").symlink_to(scans)
    keep_outside(out, scans)
    keep_outside(out, None)
    for place in (tmp_path, scans, scans / "deep" / "run", scans / "deep" / "up" / "run"):
        with pytest.raises(SettingError, match=r"--out .* --data"):
            keep_outside(place, scans, "--data")
    out.mkdir()
    (out / "scan.nii").touch()
    (scans / "scan.nii").symlink_to(out / "scan.nii")
    with pytest.raises(SettingError, match=r"--out .* --data"):
        keep_outside(out, scans, "--data")


def test_what_libraries_tell_of_a_refusal_is_one_line(tmp_path: Path) -> None:
    """As pydicom's errors are not."""
    refused = OSError("while writing:\nwhy")
    with pytest.raises(FileError, match=r"a: cannot be written \(while writing: why\)\. "), writing(tmp_path / "a"):
        raise refused
    refused.__cause__ = OSError(28, "No space left on device")
    with (
        pytest.raises(FileError, match=r"a: cannot be written \(No space left on device\)\. "),
        writing(tmp_path / "a"),
    ):
        raise refused


def test_a_lock_in_use_by_another_process_is_named(tmp_path: Path) -> None:
    with (
        held_by_another(lambda: locked(tmp_path / "a"), tmp_path / "held") as child,
        pytest.raises(FileError, match=f"is in use by process {child}"),
    ):
        locked(tmp_path / "a", patience=0)
    locked(tmp_path / "a").close()


def test_a_lock_file_that_somebody_else_wrote_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "poetry.lock").write_text("package = 1\n")
    with pytest.raises(FileError, match=r"poetry\.lock: was not made by sansref"):
        locked(tmp_path / "poetry")
    assert (tmp_path / "poetry.lock").read_text() == "package = 1\n"
    (tmp_path / "linked.lock").symlink_to(tmp_path / "poetry.lock")
    with pytest.raises(FileError, match=r"linked\.lock: cannot be locked"):
        locked(tmp_path / "linked")
    monkeypatch.chdir(tmp_path)
    locked(Path()).close()  # the folder itself, by no name


def test_leftovers_of_one_folder_alone_can_be_removed(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "in"):
        folder.mkdir(exist_ok=True)
        (folder / f".part-{'0' * 32}-a").touch()
    remove_leftovers(tmp_path, deep=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert len(list((tmp_path / "in").iterdir())) == 1


def test_a_folder_of_the_users_own_is_no_leftover(tmp_path: Path) -> None:
    for name in (".part-1", ".part-of-it", ".part-" + "g" * 32 + "-a"):
        write_text(tmp_path / name / "scan", "kept")
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.rglob("scan"))) == 3


# Names


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 120 + ".nii.gz", "名" * 80 + ".h5", "a" * 248 + ".nii.gz"])
def test_any_name_that_a_file_can_have_can_be_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "text")
    with atomic_folder(tmp_path / "folder" / name) as folder:
        write_text(folder / name, "text")
    with atomic_path(tmp_path / name) as temporary:
        assert temporary.name.endswith(name[-40:])
        temporary.touch()
    assert (tmp_path / "folder" / name / name).read_text() == "text"


def test_a_name_that_no_file_can_have_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot be written \(File name too long\)\. Choose shorter names"):
        write_text(tmp_path / ("x" * 256), "text")


@given(st.text(min_size=1), st.text(min_size=1), st.integers(20, 255))
def test_names_are_cut_in_bytes_and_stay_apart(first: str, second: str, room: int) -> None:
    first, second = (9 * text for text in (first, second))
    made = fitting(first, room)
    assert len(made.encode()) <= room
    assert (made == first) == (len(first.encode()) <= room)
    assert (made == fitting(second, room)) == (first == second)


# Tables

FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", " =1", "\uff1d1", "'=1", "-", "--1", "-1_0", "-1e5;=1"]


@pytest.mark.parametrize("text", [*FORMULAS, "\t=1", "\r=1", "a\n=1"])
def test_no_cell_is_a_formula(text: str) -> None:
    ((cell,),) = csv.reader(io.StringIO(csv_text([[text]])))
    assert (cell[0] == "'") == (text in FORMULAS)
    assert cell.isprintable()
    assert csv_name(cell) == text


@pytest.mark.parametrize("number", ["-3.5", "+2", "-1e-05", "1E+30", "-inf", "inf", "nan", "0", -1.5, 3, 2.5e-17])
def test_numbers_stay_numbers(number: object) -> None:
    assert csv_text([["a", number]]) == f"a,{number}\n"


@given(st.lists(st.lists(st.text(st.characters()), min_size=2, max_size=2), max_size=3))
def test_every_text_comes_back_and_nothing_controls_a_terminal(rows: list[list[str]]) -> None:
    text = csv_text(rows)
    assert all(one.isprintable() or one == "\n" for one in text)
    assert text.count("\n") == len(rows)
    found = list(csv.reader(io.StringIO(text, newline="")))
    assert [[csv_name(cell) for cell in row] for row in found] == rows


def test_names_that_are_no_text_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a", csv_text([["caf\udce9"]]))
    assert csv_name((tmp_path / "a").read_text().strip()) == "caf\udce9"
