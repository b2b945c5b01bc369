"""Whose scans the files of a folder are, whatever their layout and format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sansref.data.readers import FileInfo, ReaderOptions, scan_folder
from sansref.data.readers.reader import BY_NAME, BY_PATIENT, BY_STUDY
from sansref.data.readers.subjects import with_subjects
from sansref.errors import FileError, SettingError

SURE = [
    # one folder for each person, the same names in all of them
    ("P000/T1.nii.gz P000/T2.nii.gz P001/T1.nii.gz P001/T2.nii.gz P002/T1.nii.gz", "P000 P000 P001 P001 P002"),
    ("anna/scan.npy ben/scan.npy ben/other.npy", "anna ben ben"),
    ("anna/scan1.npy anna/scan2.npy ben/scan1.npy", "anna anna ben"),
    ("Fig_6A/0.055T_GRE_k.mat Fig_6A/0.055T_FSE_k.mat Fig_6B/0.055T_GRE_k.mat", "Fig_6A Fig_6A Fig_6B"),
    ("P1/P1_a.nii P1/P1_b.nii P2/P2_c.nii", "P1 P1 P2"),
    ("B20_Training_001/B20_Training_001_t1ce.nii.gz B20_Training_001/B20_Training_001_flair.nii.gz "
     "B20_Training_002/B20_Training_002_flair.nii.gz", "B20_Training_001 B20_Training_001 B20_Training_002"),
    # visits and sorts of files in between
    ("P1/day1/T1.nii P1/day2/T1.nii P2/day1/T1.nii", "P1 P1 P2"),
    ("day1/P1/T1.nii day2/P1/T1.nii day1/P2/T1.nii", "P1 P1 P2"),
    ("train/P1/T1.nii train/P2/T1.nii val/P3/T1.nii", "P1 P2 P3"),
    ("all/P1/20210304/T1.nii all/P1/20220304/T1.nii all/P2/20210304/T1.nii", "P1 P1 P2"),
    # a folder for each contrast
    ("T1/anna.nii T2/anna.nii T1/ben.nii", "anna anna ben"),
    ("P1/2021-03-04/T1.nii P1/2022-03-04/T1.nii P2/2021-03-04/T1.nii", "P1 P1 P2"),
    ("P1/T1_mprage_0003/a.nii P1/t2_tse_0004/a.nii P2/T1_mprage_0003/a.nii", "P1 P1 P2"),
    ("P1_day1/T1.nii P1_day2/T1.nii", "P1 P1"),
    ("100307/T1w.nii 100307/T2w.nii 100408/T1w.nii", "100307 100307 100408"),
    ("imagesTr/anna_T1.nii imagesTr/ben_T1.nii imagesTs/carl_T1.nii", "anna_T1 ben_T1 carl_T1"),
    # a folder for each quality
    ("noisy/anna.nii clean/anna.nii noisy/ben.nii", "anna anna ben"),
    ("0.3T/001.nii 3T/001.nii 3T/002.nii", "001 001 002"),
    ("lowfield/P1/T1.nii highfield/P1/T1.nii highfield/P2/T1.nii", "P1 P1 P2"),
    ("test/P1.nii retest/P1.nii test/P2.nii", "P1 P1 P2"),
    # contrasts written onto names
    ("AnnaT1.nii AnnaT2.nii BenT1.nii", "Anna Anna BenT1"),
    ("P1T1.nii P1T2.nii P2T1w.nii", "P1 P1 P2T1w"),
    # flat
    ("T1.nii.gz T2.nii.gz FLAIR.nii.gz", "data data data"),
    ("P0/T1.nii.gz P0/T2.nii.gz", "P0 P0"),
    ("slice_001.npy slice_002.npy slice_003.npy", "data data data"),
    ("T1_P1.nii T2_P1.nii T1_P2.nii", "P1 P1 T1_P2"),
    ("20190001.nii 20190002.nii", "20190001 20190002"),
    ("scan1.npy scan2.npy scan10.npy", "scan1 scan2 scan10"),
    ("knee.npy brain.npy", "knee brain"),
    ("control_01.npy control_02.npy ms_03.npy", "control_01 control_02 ms_03"),
    ("anna_T1.nii.gz anna_T2.nii.gz ben_T1.nii.gz", "anna anna ben_T1"),
    ("anna_day1_T1.nii anna_day2_T1.nii ben_T1.nii ben_FLAIR.nii", "anna anna ben ben"),
    ("scan1.npy scan1.mat scan2.npy", "scan1 scan1 scan2"),
    ("scan1.nii.gz scan1.dat", "scan1 scan1"),
    # names that state a person
    ("IXI002-Guys-0828-T1.nii.gz IXI002-Guys-0828-T2.nii.gz IXI012-HH-1211-T1.nii.gz", "IXI002 IXI002 IXI012"),
    ("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii sub-01/ses-2/anat/T1w.nii sub-02/T1w.nii", "sub-01 sub-01 sub-02"),
    ("patient01_study1_T1W.nii patient01_study2_FLAIR.nii patient02_study1_T1W.nii", "patient01 patient01 patient02"),
    ("patient01/a.npy patient01/b.npy patient02/c.npy", "patient01 patient01 patient02"),
    ("sub-01_T1w.nii scan1.npy scan2.npy", "sub-01 scan1 scan2"),
    ("sub-01_T1w.nii sub-01a_T1w.nii", "sub-01 sub-01a"),
    ("patient7a_T1.nii patient8b_T1.nii", "patient7a_T1 patient8b_T1"),
]  # fmt: skip

UNSURE = [
    "P1_a.npy P1_b.npy P2_a.npy",
    "P1_a.npy P1_b.npy",
    "P1_1.npy P1_2.npy P2_1.npy",
    "anna_x.npy anna_y.npy ben_z.npy",
    "scan1a.npy scan1b.npy scan2a.npy",
    "T1_001.npy brain_001.npy brain_002.npy",
    "T1.nii.gz T2.nii.gz anna.nii.gz",
    "S1_run1.npy S1_run2.npy S2_run1.npy",
    "P1_day1/T1.nii P1_x2/T1.nii P2_day1/T1.nii",
    "here/anna.npy here/ben.npy there/carl.npy",
    "here/001.npy there/001.npy there/002.npy",
    "london/P1/T1.nii paris/P1/T1.nii paris/P2/T1.nii",
    "train/scan.nii test/scan.nii",
    "scan1/T1.nii scan2/T1.nii",
    # one more number written onto names
    "E1234S3.nii E1234S4.nii E1235S3.nii",
    "P01V1/T1.nii P01V2/T1.nii P02V1/T1.nii",
    # written onto numbers that state a person
    "patient07_T1.nii patient07v2_T1.nii patient08_T1.nii",
    "patient07_T1.nii patient07followup_T1.nii",
    "volunteer3_a.npy volunteer3b.npy",
    "case1/T1.nii case1b/T1.nii case2/T1.nii",
    "IXI012-HH-1211-T1.nii.gz IXI012b-HH-1211-T2.nii.gz IXI013-HH-1212-T1.nii.gz",
    # spelt in two ways
    "Anna_T1.nii anna_T2.nii Ben_T1.nii",
    "P1_T1.nii P01_T2.nii P2_T1.nii",
    "sub-1_T1w.nii sub-01_T2w.nii sub-02_T1w.nii",
    "subject_01/T1.nii subject01/T2.nii",
    "J\N{LATIN SMALL LETTER O WITH DIAERESIS}rg.nii Jo\N{COMBINING DIAERESIS}rg.npy",
]


def described(name: str, subject: str | None = None, by: str = BY_PATIENT) -> FileInfo:
    path = Path("/data") / name
    known = by if subject else BY_NAME
    return FileInfo(path, "any", "magnitude", 1, 8, 8, subject or path.name, recognised_by=known)


@pytest.fixture(autouse=True)
def no_two_are_alike(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Names alone are looked at, unless a test has files."""
    if "tmp_path" not in request.fixturenames:
        monkeypatch.setattr("sansref.data.readers.subjects._one_for_same_data", lambda files: files)


def subjects(files: list[FileInfo], rule: str | None = None) -> list[str]:
    return [info.subject for info in with_subjects(files, Path("/data"), rule)]


@pytest.mark.parametrize(("names", "expected"), SURE)
def test_people_are_told_by_the_layout_of_a_folder(names: str, expected: str) -> None:
    assert subjects([described(name) for name in names.split()]) == expected.split()


@pytest.mark.parametrize("names", UNSURE)
def test_where_nothing_is_sure_the_cure_is_named(names: str) -> None:
    files = [described(name) for name in names.split()]
    with pytest.raises(FileError, match="--subject_from folder") as error:
        with_subjects(files, Path("/data"))
    assert "\n" not in str(error.value)
    assert len(set(subjects(files, "file"))) == len(files)


def test_an_identifier_in_the_file_comes_first_and_names_others_of_the_person() -> None:
    files = [
        described("P1/raw.h5", "X17"),
        described("P1/T1.nii"),
        described("P2/raw.h5", "X18"),
        described("P2/T1.nii"),
    ]
    assert subjects(files) == ["X17", "X17", "X18", "X18"]
    files = [described("sub-01_raw.h5", "X17"), described("sub-01_T1w.nii"), described("sub-02_T1w.nii")]
    assert subjects(files) == ["X17", "X17", "sub-02"]
    assert subjects([described("a.h5", "X17"), described("a.npy"), described("b.npy")]) == ["X17", "X17", "b"]
    told = with_subjects(files, Path("/data"))
    assert [info.recognised_by for info in told] == [BY_PATIENT, "BIDS name, patient id of others", "BIDS name"]


def test_one_identifier_of_several_people_is_refused() -> None:
    for one, other in (("sub-01/a", "sub-02/a"), ("P000/IM1", "P001/IM1")):
        files = [described(one, "STUDY"), described(other, "STUDY")]
        with pytest.raises(FileError, match=r"patient id 'STUDY'.*--subject_from folder"):
            with_subjects(files, Path("/data"))
        assert len(set(subjects(files, "folder"))) == 2
    assert set(subjects([described("t1/IM1", "STUDY"), described("t2_tse/IM1", "STUDY")])) == {"STUDY"}


def test_several_identifiers_under_one_stated_name_are_refused() -> None:
    """As of an anonymiser that gives one to each visit."""
    files = [described("sub-01_ses-1.h5", "a1"), described("sub-01_ses-2.h5", "b2"), described("sub-02.h5", "c3")]
    with pytest.raises(FileError, match=r"holds files of sub-01 with several patient ids \(a1, b2\)"):
        with_subjects(files, Path("/data"))
    assert subjects(files, r"sub-\d+") == ["sub-01", "sub-01", "sub-02"]


def test_dicom_without_identifiers_goes_by_folders_and_never_by_several_studies() -> None:
    files = [described("P0/series1/IM1", "1.2", BY_STUDY), described("P0/series2/IM1", "1.2", BY_STUDY)]
    others = [described("P1/series1/IM1", "1.3", BY_STUDY), described("P1/series2/IM9", "1.4", BY_STUDY)]
    assert subjects(files) == ["1.2", "1.2"]
    assert subjects(files + others) == ["P0", "P0", "P1", "P1"]
    with pytest.raises(FileError, match="2 DICOM studies without a patient id"):
        subjects([described("IM1", "1.2", BY_STUDY), described("IM2", "1.3", BY_STUDY)])


def test_the_users_rule_goes_before_all_others() -> None:
    files = [described("A/s1_T1.nii", "ANY"), described("A/s2_T1.nii", "ANY"), described("B/s1_T1.nii")]
    assert subjects(files, "folder") == ["A", "A", "B"]
    assert subjects(files, "file") == ["A/s1_T1", "s2_T1", "B/s1_T1"]
    assert subjects(files, r"s\d") == ["s1", "s2", "s1"]
    assert subjects(files, r"^(.)/") == ["A", "A", "B"]
    with pytest.raises(FileError, match=r"s2_T1\.nii: has no part that --subject_from s1 matches"):
        subjects(files, "s1")
    with pytest.raises(FileError, match=r"c\.nii: lies beside the folders of people"):
        subjects([*files, described("c.nii")], "folder")


@pytest.mark.parametrize("rule", ["(", "(a)(b)", ""])
def test_a_rule_that_is_none(rule: str) -> None:
    with pytest.raises(SettingError, match="subject_from"):
        ReaderOptions(subject_from=rule)


def test_a_file_stored_twice_is_of_one_person(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 16, 16)).astype("f4")
    others = np.zeros_like(values)
    others[1, 8, 8] = 0.5  # the same size, and the same beginning and end
    for name, array in (
        ("sub-01", values),
        ("sub-02", values + 1),
        ("other", values),
        ("z1", others),
        ("z2", others * 1.2),
    ):
        np.save(tmp_path / f"{name}.npy", array)
    found, _ = scan_folder(tmp_path)
    assert {info.path.stem: info.subject for info in found} == {
        "other": "sub-01", "sub-01": "sub-01", "sub-02": "sub-02", "z1": "z1", "z2": "z2",
    }  # fmt: skip
    assert found[0].recognised_by == "same data as sub-01.npy"


def test_names_that_state_people_stay_and_are_told(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 16, 16)).astype("f4")
    for name in ("sub-01", "sub-02"):
        np.save(tmp_path / f"{name}.npy", values)
    found, _ = scan_folder(tmp_path)
    assert [info.subject for info in found] == ["sub-01", "sub-02"]
    assert found[1].recognised_by == "BIDS name, though with the data of sub-01"
