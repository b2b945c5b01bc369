from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sansref.data.readers import ReaderOptions, find_files, open_scan_file, scan_folder
from sansref.errors import FileError


@pytest.fixture
def folder(make: Any, tmp_path: Path) -> Path:
    """Two people's scans, with what usually lies beside them."""
    root = tmp_path / "study"
    (root / "sub-02" / "anat").mkdir(parents=True)
    (root / ".git").mkdir()
    make.nifti(root / "sub-02" / "anat" / "sub-02_T1w.nii.gz", make.volume())
    make.fastmri(root / "knee.h5", make.kspace((1, 64, 37)))
    beside = "README README.md LICENSE CHANGES participants.tsv dataset_description.json view.PNG .hidden.nii"
    for name in [*beside.split(), ".git/config", "sub-02/anat/sub-02_dwi.bval"]:
        (root / name).write_text("text")
    return root


def test_files_are_found_sorted_and_without_what_lies_beside(folder: Path) -> None:
    assert find_files(folder) == [folder / "knee.h5", folder / "sub-02" / "anat" / "sub-02_T1w.nii.gz"]


def test_links_are_followed_once(make: Any, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    make.nifti(outside / "far.nii", make.volume())
    (folder / "near.nii").symlink_to(outside / "far.nii")
    (folder / "more").symlink_to(outside)
    (folder / "sub-02" / "circle").symlink_to(folder)
    found = [str(path.relative_to(folder)) for path in find_files(folder)]
    assert found == ["knee.h5", "more/far.nii", "near.nii", "sub-02/anat/sub-02_T1w.nii.gz"]
    assert len(scan_folder(folder)[0]) == 4


def test_every_file_is_described(folder: Path) -> None:
    infos, problems = scan_folder(folder)
    assert [(info.format, info.kind, info.subject) for info in infos] == [
        ("fastMRI HDF5", "k-space", "0a1b"),
        ("NIfTI", "magnitude", "sub-02"),
    ]
    assert problems == []


def test_options_reach_the_reader(folder: Path) -> None:
    infos, _ = scan_folder(folder, ReaderOptions(plane="sagittal"))
    assert (infos[1].slices, infos[1].height, infos[1].width) == (6, 5, 4)


def test_a_bad_file_raises_or_is_listed(folder: Path) -> None:
    (folder / "broken.h5").write_bytes((folder / "knee.h5").read_bytes()[:3000])
    (folder / "notes.docx").write_text("text")
    with pytest.raises(FileError, match=r"broken.h5: cannot be read as fastMRI HDF5"):
        scan_folder(folder)
    infos, problems = scan_folder(folder, skip_bad=True)
    assert len(infos) == 2
    assert [error.path.name for error in problems] == ["broken.h5", "notes.docx"]


def test_a_folder_of_bad_files_only(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("text")
    with pytest.raises(FileError, match=r"holds 1 files, none of them usable; the first, .*a.nii, is in no format"):
        scan_folder(tmp_path, skip_bad=True)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("text")
    with pytest.raises(FileError, match=r"holds no scan file. Give a folder of fastMRI HDF5, .* or BART \(.cfl\)"):
        find_files(tmp_path)
    with pytest.raises(FileError, match="is a file, not a folder"):
        find_files(tmp_path / "README.md")
    with pytest.raises(FileError, match=r"does not exist. Check the spelling"):
        find_files(tmp_path / "nowhere")


def test_a_folder_that_may_not_be_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(FileError, match=r"may not be listed \(Permission denied\)"):
        find_files(folder)


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty.nii"
    empty.touch()
    foreign = tmp_path / "foreign.nii"
    foreign.write_text("text")
    link = tmp_path / "link.nii"
    link.symlink_to(tmp_path / "gone.nii")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, message in [
        (tmp_path / "missing.nii", "does not exist. Check the spelling of the path."),
        (tmp_path, "is a folder, not a file"),
        (empty, r"is empty \(0 bytes\)"),
        (link, "is a link to a file that does not exist"),
        (pipe, "is not a regular file"),
        (foreign, r"is in no format that is read here. Give fastMRI HDF5, .* or BART \(.cfl\)"),
    ]:
        with pytest.raises(FileError, match=message):
            open_scan_file(path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(FileError, match=r"may not be read. Ask for the right to read it"):
        open_scan_file(foreign)
