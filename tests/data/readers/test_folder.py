from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sansref.data import open_file
from sansref.data.readers import ReaderOptions, find_files, open_scan_file, scan_files, scan_folder
from sansref.data.readers.folder import one_scan
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
    of_a_disc = "AUTORUN.INF Thumbs.db letter.docx list.xlsx VIEWER.EXE viewer.dll viewer.lnk desktop.ini"
    for name in ["images.lock", *beside.split(), *of_a_disc.split(), ".git/config", "sub-02/anat/sub-02_dwi.bval"]:
        (root / name).write_text("text")
    for name in ("LOCKFILE", "done"):
        (root / name).touch()
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


def test_a_folder_goes_before_a_link_to_it(make: Any, tmp_path: Path) -> None:
    (tmp_path / "a" / "P1").mkdir(parents=True)
    (tmp_path / "a" / "P1" / "x.npy").write_bytes(b"0")
    (tmp_path / "a" / "A").symlink_to(tmp_path / "a" / "P1")
    assert find_files(tmp_path / "a") == [tmp_path / "a" / "P1" / "x.npy"]


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
    (folder / "scan").write_text("text")
    (folder / "IM0004").touch()
    with pytest.raises(FileError, match=r"IM0004: is empty") as caught:
        scan_folder(folder)
    assert caught.value.one_of_many
    infos, problems = scan_folder(folder, skip_bad=True)
    assert len(infos) == 2
    assert [error.path.name for error in problems] == ["IM0004", "broken.h5", "scan"]


def test_a_folder_of_one_scan_names_it(dicom: Any, make: Any, folder: Path, tmp_path: Path) -> None:
    paths = dicom.save(tmp_path / "series", dicom.series(dicom.volume((4, 5, 6))))
    (tmp_path / "series" / "LOCKFILE").touch()
    assert one_scan(tmp_path / "series") == min(paths)
    (tmp_path / "head").mkdir()
    for name in ("T1.nii.gz", "T1_mask.nii.gz", "T1_seg.nii.gz"):
        make.nifti(tmp_path / "head" / name, make.volume())
    assert one_scan(tmp_path / "head") == tmp_path / "head" / "T1.nii.gz"
    assert one_scan(paths[2]) == paths[2]
    assert len(open_file(tmp_path / "series")) == 4
    with pytest.raises(FileError, match=r"study: holds 2 scans, not one. Give one of them, such as .*knee\.h5\."):
        one_scan(folder)


def test_a_folder_of_bad_files_only(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("text")
    with pytest.raises(FileError, match=r"holds 1 files, none of them usable; the first, .*a.nii, is not in a format"):
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
        (foreign, r"is not in a format that sansref reads. Give fastMRI HDF5, .* or BART \(.cfl\)"),
    ]:
        with pytest.raises(FileError, match=message):
            open_scan_file(path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(FileError, match=r"may not be read. Ask for permission to read it"):
        open_scan_file(foreign)


LABELS = [
    "sub-01_seg",
    "sub-01_desc-brain_mask",
    "sub-01_dseg",
    "sub-01-label",
    "sub-01_label-GM_probseg",
    "s_aseg",
    "M_Mask",
]


@pytest.mark.parametrize("name", LABELS)
def test_label_maps_and_masks_are_left_out_by_name(make: Any, tmp_path: Path, name: str) -> None:
    make.nifti(tmp_path / "sub-01_T1w.nii.gz", make.volume())
    make.nifti(tmp_path / f"{name}.nii.gz", make.volume() * 1.5)
    found = scan_files(tmp_path)
    assert [info.path.name for info in found.files] == ["sub-01_T1w.nii.gz"]
    assert found.left_out == f"1 label map(s) or mask(s), not images to learn from: {name}.nii.gz"


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_label_maps_are_left_out_by_their_whole_numbers(make: Any, tmp_path: Path, dtype: str) -> None:
    random = np.random.default_rng(0)
    make.nifti(tmp_path / "anna.nii.gz", random.integers(0, 200, (32, 32, 3)).astype(dtype))
    make.nifti(tmp_path / "tissue.nii.gz", random.integers(0, 4, (32, 32, 3)).astype(dtype))
    np.save(tmp_path / "lesion.npy", random.integers(0, 2, (3, 32, 32)).astype(dtype))
    make.nifti(tmp_path / "fraction.nii.gz", random.integers(0, 4, (32, 32, 3)) / 4)
    found = scan_files(tmp_path)
    assert [info.path.name for info in found.files] == ["anna.nii.gz", "fraction.nii.gz"]
    assert [path.name for path in found.labels] == ["lesion.npy", "tissue.nii.gz"]


def test_a_folder_of_label_maps_is_left_out(make: Any, tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr", "masks"):
        (tmp_path / folder).mkdir()
        make.nifti(tmp_path / folder / "anna.nii.gz", make.volume())
    assert [info.path.parent.name for info in scan_files(tmp_path).files] == ["imagesTr"]
    assert len(scan_files(tmp_path / "masks").files) == 1  # somebody's name for a folder of images


def test_kspace_is_no_mask_whatever_its_name(make: Any, tmp_path: Path) -> None:
    make.fastmri(tmp_path / "random_mask.h5", make.kspace((1, 64, 37)))
    assert len(scan_files(tmp_path).files) == 1


def test_a_label_map_given_by_itself_is_said_to_be_one(make: Any, tmp_path: Path) -> None:
    path = make.nifti(tmp_path / "sub-01_seg.nii.gz", make.volume())
    for data in (path, tmp_path):
        with pytest.raises(FileError, match="label map"):
            scan_files(data)


def test_a_part_of_a_folder_has_the_names_of_the_whole(make: Any, tmp_path: Path) -> None:
    for number, name in enumerate(("P1/T1", "P1/T2", "P2/T1")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        make.nifti(tmp_path / f"{name}.nii", make.volume() + number)
    for part in ("P1", "P1/T1.nii"):
        found = scan_files(tmp_path / part, home=tmp_path)
        assert {info.subject for info in found.files} == {"P1"}
        assert {info.recognised_by for info in found.files} == {"folder"}
    assert [info.subject for info in scan_files(tmp_path, home=tmp_path).files] == ["P1", "P1", "P2"]
