from __future__ import annotations

from pathlib import Path

import pytest

from sansref.errors import FileError
from sansref.files import atomic_path, remove_leftovers, write_text


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
    kept = [tmp_path / "a", tmp_path / "stages" / "best", tmp_path / "not.part-of-it"]
    for path in kept:
        write_text(path, "kept")
    killed = [atomic_path(folder / "last.ckpt") for folder in (tmp_path, tmp_path / "stages")]
    for writer in killed:
        writer.__enter__().write_text("half")  # and never left
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 5
    remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
