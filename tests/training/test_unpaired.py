"""Who goes where in unpaired learning: halves and folds by subject, folders of full and of undersampled scans."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from rich.console import Console

from sansref.cli import main
from sansref.data.readers import ReaderOptions, scan_folder
from sansref.data.scan_store import PreparedScans
from sansref.errors import FileError, SettingError
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop
from sansref.training import train as module
from sansref.training.run import RunDirectory
from sansref.training.subjects import SubjectReader, learned_subjects
from sansref.training.train import train

pytestmark = pytest.mark.slow

QUIET = Console(quiet=True)
EVERYBODY = [f"sub-0{number}" for number in range(1, 7)]


@pytest.fixture(scope="module")
def heads(write_heads, tmp_path_factory) -> Path:
    """Six people, a slice of each."""
    return write_heads(tmp_path_factory.mktemp("six"), slices=1)


@pytest.fixture
def take_in(tiny, heads, tmp_path):
    """Split and prepare without training; the run, and the parts by name as they lie on disk."""

    def run(data=None, full=None, name="run", method="switchable", **changes):
        config, directory, data = tiny(method, **changes), RunDirectory(tmp_path / name), data or heads
        directory.start(config, str(data.resolve()), None if full is None else str(full.resolve()))
        SubjectReader(config, directory, None, QUIET).prepared(data, full)
        return directory, {path.name: PreparedScans(path) for path in (directory.path / "data").iterdir()}

    return run


@pytest.fixture
def start(tiny, heads, tmp_path, monkeypatch):
    """The training command up to the training."""
    monkeypatch.setattr(module, "learn", lambda *arguments: None)

    def run(data=None, full=None, method="switchable", name="run", **changes):
        return train(tiny(method, **changes), data or heads, tmp_path / name, console=QUIET, full=full).run

    return run


@pytest.fixture
def fails(capsys):
    """Run a command line that must end with exit code 2 and one line, and return that line."""

    def run(*words):
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        assert left.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("sansref: ")

    return run


def subjects(scans: PreparedScans) -> set[str]:
    return {meta.subject for meta in scans.metas}


# --- halves and folds of one folder ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["switchable", "iscl", "cyclegan"])
def test_every_subject_is_in_one_part_and_nobody_in_both_halves(take_in, method):
    run, parts = take_in(method=method, validation=0.15, test=0.2)
    split = run.subjects()
    sizes = {part: len(names) for part, names in split.items()}
    assert sizes == {"training": 2, "validation": 1, "test": 1, "full": 2}
    assert sorted(name for names in split.values() for name in names) == EVERYBODY
    assert {name: subjects(scans) for name, scans in parts.items()} == {
        part: set(split[part]) for part in ("training", "validation", "full")
    }


def test_every_subject_is_tested_on_in_one_fold_and_unseen_there(take_in):
    tested = []
    for fold in range(3):
        run, parts = take_in(name=str(fold), folds=3, fold=fold)
        split = run.subjects()
        assert sorted(name for names in split.values() for name in names) == EVERYBODY
        assert {"training", "validation", "full"} == parts.keys()
        assert not set(split["test"]) & {name for scans in parts.values() for name in subjects(scans)}
        tested += split["test"]
    assert sorted(tested) == EVERYBODY


def test_methods_of_all_kinds_are_tested_on_the_same_subjects(take_in):
    splits = [take_in(name=method, method=method, folds=2)[0].subjects() for method in ("switchable", "iscl", "ssdu")]
    assert splits[0] == splits[1]
    assert all(splits[0][part] == splits[2][part] for part in ("test", "validation"))
    assert sorted(splits[0]["training"] + splits[0]["full"]) == splits[2]["training"]


# --- what lies on disk -----------------------------------------------------------------------------------------


def references(run: RunDirectory) -> list[str]:
    """Parts of a run in whose folder anything is named reference."""
    return sorted({path.relative_to(run.path / "data").parts[0] for path in run.path.rglob("*reference*")})


def test_no_reference_of_an_undersampled_scan_is_ever_written(take_in):
    run, parts = take_in()
    assert references(run) == []
    for scan in (*parts["training"], *parts["validation"]):
        assert scan.reference is None
        assert scan.mask.float().mean() == pytest.approx(0.25, abs=0.01)
        assert not scan.kspace[:, ~scan.mask].any()
    assert all(scan.mask.all() and scan.kspace.abs().min() > 0 for scan in parts["full"])


def test_a_score_against_references_keeps_those_of_validation_alone(take_in):
    assert references(take_in(score="reference")[0]) == ["validation"]


# --- a folder of full scans ------------------------------------------------------------------------------------


@pytest.fixture
def others(write_heads, tmp_path):
    """Full scans of two other people, who have the names of people in the first folder, as in any BIDS data."""
    return write_heads(tmp_path / "others", subjects=2, slices=2)


def test_full_scans_come_from_one_folder_and_undersampled_ones_from_the_other(start, heads, others, tmp_path):
    words = ["--network.width", "2", "--crop", "[80,80]"]
    folders = ["--full", str(others), "--undersampled", str(heads), "--out", str(tmp_path / "run")]
    main(["train", "switchable", *folders, *words])
    run = RunDirectory(tmp_path / "run")
    split = run.subjects()
    assert split["full"] == ["sub-01", "sub-02"]
    assert sorted(split["training"] + split["validation"] + split["test"]) == EVERYBODY
    parts = {path.name: PreparedScans(path) for path in (run.path / "data").iterdir()}
    homes = {name: {str(Path(meta.source).parent) for meta in scans.metas} for name, scans in parts.items()}
    assert homes == {"full": {str(others)}, "training": {str(heads)}, "validation": {str(heads)}}
    assert {name: len(scans) for name, scans in parts.items()} == {"full": 4, "training": 5, "validation": 1}
    assert all(scan.mask.all() for scan in parts["full"])
    assert not any(scan.mask.all() for scan in parts["training"])
    assert references(run) == []
    assert (run.folder("folder"), run.folder("full")) == (str(heads), str(others))


def test_scans_undersampled_by_the_scanner_keep_their_samples(take_in, write_knee, tmp_path):
    full, under = write_knee(tmp_path / "a.h5", seed=1), write_knee(tmp_path / "b.h5", seed=2, every=3)
    run, parts = take_in(under, full, crop=None)
    with h5py.File(under) as file:
        columns, kspace = torch.from_numpy(file["mask"][:]).bool(), torch.from_numpy(file["kspace"][:])
    for scan, truth in zip(parts["training"], kspace, strict=True):
        assert torch.equal(scan.mask, columns.expand(scan.mask.shape))
        # The readout is twice oversampled: half of the field of view is air.
        without_air = fft2c(center_crop(ifft2c(truth), scan.mask.shape))
        torch.testing.assert_close(scan.kspace[0] * scan.meta.scale, without_air, rtol=1e-4, atol=1e-9)
    assert all(scan.mask.all() for scan in parts["full"])
    assert run.subjects() == {"training": ["knee2"], "validation": [], "test": [], "full": ["knee1"]}


def test_an_undersampled_file_among_the_full_ones_is_named(start, write_knee, heads, tmp_path):
    under = write_knee(tmp_path / "under.h5", every=3)
    with pytest.raises(FileError, match=r"under\.h5: is undersampled, but full scans are wanted here") as error:
        start(heads, under)
    assert str(error.value).endswith("Give it as undersampled data.")


@pytest.mark.parametrize("how", [shutil.copyfile, os.symlink])
def test_a_file_in_both_folders_is_refused(fails, heads, others, tmp_path, how):
    how(heads / "sub-05_T1w.nii.gz", others / "sub-05_T1w.nii.gz")
    line = fails("train", "iscl", "--full", others, "--undersampled", heads, "--out", tmp_path / "run")
    assert line == f"{others / 'sub-05_T1w.nii.gz'}: is in both folders. " + (
        "Give full scans of other people, or one folder as --data."
    )
    line = fails("train", "iscl", "--full", heads, "--data", heads, "--out", tmp_path / "run")
    assert "sub-01_T1w.nii.gz: is in both folders." in line


def test_two_people_whose_files_have_one_name_and_size_are_not_taken_for_one(start, tmp_path):
    for folder, seed in (("mine", 0), ("others", 1)):
        (tmp_path / folder).mkdir()
        volume = np.random.default_rng(seed).integers(1, 900, (32, 32, 3)).astype(np.int16)
        for name in ("sub-01.nii", "sub-02.nii"):
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / folder / name)
    run = start(tmp_path / "mine", tmp_path / "others")
    assert run.subjects()["full"] == ["sub-01", "sub-02"]


def test_full_scans_of_another_size_are_refused_with_the_cure(tiny, heads, write_knee, tmp_path):
    under = write_knee(tmp_path / "under.h5", every=3)
    with pytest.raises(SettingError, match=r"of 32x36 have no full scans of their size beside them, only 32x32: bring"):
        train(tiny("switchable", crop=None), under, tmp_path / "run", console=QUIET, full=heads)


@pytest.mark.parametrize("method", ["idr", "ssdu", "supervised", "supervised_generator"])
def test_other_methods_take_no_full_scans(start, fails, heads, others, tmp_path, method):
    with pytest.raises(
        SettingError, match=f"method '{method}' takes no --full: it learns from (undersampled|paired) scans"
    ):
        start(heads, others, method)
    assert not (tmp_path / "run").exists()
    line = fails("train", method, "--data", heads, "--full", others, "--out", tmp_path / "run")
    assert line.startswith("there is no option --full here")


def test_the_folder_of_full_scans_belongs_to_the_run(start, heads, others, write_heads, tmp_path):
    (start(heads, others).path / "metrics.csv").write_text("")
    more = write_heads(tmp_path / "more", subjects=1, slices=2)
    for full in (more, None):
        with pytest.raises(SettingError, match=r"holds a run with other settings \(data\.full '.*others' -> "):
            start(heads, full)
    with pytest.raises(SettingError, match=r"--out .* lies inside --full .*, where its files would pass for scans"):
        start(heads, others, name="others/run")


# --- who was learned from --------------------------------------------------------------------------------------


def learned(run: RunDirectory, folder) -> set[str]:
    return learned_subjects(run, scan_folder(folder, ReaderOptions())[0])


def test_both_halves_were_learned_from(start, heads):
    run = start(heads, test=0.3)
    assert learned(run, heads) == set(EVERYBODY) - set(run.subjects()["test"])


def test_names_of_the_full_folder_count_in_that_folder_alone(start, heads, others):
    run = start(heads, others, folds=2)
    assert learned(run, heads) == set(EVERYBODY) - set(run.subjects()["test"])
    assert learned(run, others) == {"sub-01", "sub-02"}


def test_a_run_begun_anew_without_the_folder_of_full_scans_forgets_it(start, heads, others):
    start(heads, others, test=0.3)
    run = start(heads, None, test=0.3)
    assert set(run.subjects()["full"]) <= learned(run, heads)
    assert not learned(run, others)


# --- too few people --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("people", "words", "message"),
    [
        (1, [], "1 subject(s) cannot be halved into full and undersampled scans: at least 2 are needed"),
        (2, [], "1 subject(s) cannot be halved into full and undersampled scans: at least 2 are needed"),
        (1, ["--folds", "2"], "1 subject(s) cannot be split into 2 folds: add subjects or take fewer folds (--folds)"),
        (2, ["--folds", "1"], "a cross-validation takes at least 2 folds, got 1"),
        (2, ["--folds", "2", "--fold", "2"], "2 folds are numbered from 0 to 1, there is no fold 2"),
        (
            2,
            ["--folds", "2"],
            "2 subject(s) cannot be split into training and validation 0.15, test one of 2 folds: add",
        ),
        (
            2,
            ["--folds", "2", "--test", "0.2"],
            "the test split is fold 0 of 2 or a fraction, not both: set the test fraction to 0, got 0.2 (--test 0",
        ),
    ],
)
def test_too_few_people_and_impossible_folds_are_one_line(fails, write_heads, tmp_path, people, words, message):
    data = write_heads(tmp_path / "data", subjects=people, slices=1)
    line = fails("train", "switchable", "--data", data, "--out", tmp_path / "run", "--crop", "[80,80]", *words)
    assert line.startswith(message)


def test_one_person_is_enough_beside_a_folder_of_full_scans(start, write_heads, others, tmp_path):
    run = start(write_heads(tmp_path / "one", subjects=1, slices=1), others)
    assert json.loads(run.splits_file.read_text())["training"] == ["sub-01"]
    assert run.subjects()["full"] == ["sub-01", "sub-02"]
