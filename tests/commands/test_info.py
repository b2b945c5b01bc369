from __future__ import annotations

import shutil
import time

import h5py
import numpy as np
import pytest

from sansref.commands.info import UNDERSAMPLED, describe
from sansref.data.readers import ReaderOptions
from sansref.errors import FileError
from sansref.training.run import RunDirectory


def told(path) -> dict[str, str]:
    return dict(describe(path))


def test_a_magnitude_volume(heads):
    facts = told(heads / "sub-01_T1w.nii.gz")
    assert facts["file"] == str(heads / "sub-01_T1w.nii.gz")
    assert facts["format"] == "NIfTI, magnitude"
    assert (facts["subject"], facts["contrast"]) == ("sub-01", "T1w")
    assert facts["matrix"] == "32 x 32, 4 slices, 1 coil(s)"
    assert facts["pixel spacing"] == "2 x 2 mm"
    assert facts["can train"] == "all methods"
    assert "acquired" not in facts
    notes = [value for name, value in describe(heads / "sub-01_T1w.nii.gz") if name == "note"]
    assert any("optimistic" in note for note in notes)


def test_measured_data(write_knee, tmp_path):
    full, under = told(write_knee(tmp_path / "full.h5")), told(write_knee(tmp_path / "under.h5", every=2))
    assert full["format"] == "fastMRI HDF5, k-space"
    assert full["matrix"] == "32 x 36, 2 slices, 1 coil(s)"
    assert full["acquired"] == "100.0% of the encoded grid (1.00x)"
    assert full["can train"] == "all methods"
    assert under["acquired"] == f"{21 / 36:.1%} of the encoded grid ({36 / 21:.2f}x)"
    assert under["can train"] == UNDERSAMPLED
    assert not full.keys() & {"left out", "full center", "coil maps"}
    assert (under["left out"], under["full center"]) == ("whole columns", "6 columns")
    assert "coil maps" not in under
    levels = [float(facts["noise level"].split()[0].rstrip(",")) for facts in (full, under)]
    assert levels[1] == pytest.approx(levels[0], rel=0.3)


def test_measured_data_of_several_coils(write_knee, tmp_path):
    full = told(write_knee(tmp_path / "full.h5", coils=3))
    under = told(write_knee(tmp_path / "under.h5", coils=3, every=2))
    assert full["matrix"] == "32 x 36, 2 slices, 3 coil(s)"
    assert full["coil maps"] == "from the central 24 x 24 samples"
    assert full["can train"] == "all methods"
    assert under["coil maps"] == "none, the full center of 6 x 6 is too small, 8 x 8 are needed (or --maps)"
    assert under["can train"] == "nothing with several coils"


def test_a_coil_that_received_nothing_does_not_lower_the_noise(write_knee, tmp_path):
    def level(path):
        return float(told(path)["noise level"].split()[0].rstrip(","))

    path = write_knee(tmp_path / "full.h5", coils=4)
    before = level(path)
    with h5py.File(path, "r+") as file:
        file["kspace"][:, :2] = 0
    assert level(path) == pytest.approx(before, rel=0.2)


def test_whole_rows_that_are_left_out_are_to_be_turned(tmp_path):
    kspace = np.random.default_rng(0).normal(size=(48, 40, 2)).view(np.complex128)[..., 0]
    kspace[::3] = 0
    kspace[20:28] = 1
    np.save(tmp_path / "rows.npy", kspace)
    found = list(describe(tmp_path / "rows.npy", ReaderOptions(axes="row,column")))
    assert {("left out", "whole rows"), ("full center", "11 x 40 samples")} <= set(found)
    assert any(name == "note" and "--axes column,row" in value for name, value in found)
    turned = dict(describe(tmp_path / "rows.npy", ReaderOptions(axes="column,row")))
    assert (turned["left out"], turned["full center"]) == ("whole columns", "11 columns")


@pytest.mark.parametrize("side", [7, 12])
def test_single_samples_that_are_left_out(tmp_path, side):
    generator = np.random.default_rng(0)
    mask = generator.random((48, 40)) < 0.3
    mask[24 - side // 2 : 24 + (side + 1) // 2, 20 - side // 2 : 20 + (side + 1) // 2] = True
    kspace = generator.normal(size=(3, 4, 48, 40, 2)).view(np.complex128)[..., 0] * mask
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = kspace.astype(np.complex64)
    facts = told(tmp_path / "a.h5")
    assert facts["acquired"] == f"{mask.mean():.1%} of the encoded grid ({1 / mask.mean():.2f}x)"
    assert facts["left out"] == "single samples"
    rows, columns = (int(word) for word in facts["full center"].removesuffix(" samples").split(" x "))
    assert side <= min(rows, columns) <= side + 1
    assert facts["can train"] == (UNDERSAMPLED if side > 7 else "nothing with several coils")


def test_a_padded_scan_is_full(write_knee, tmp_path):
    """Zero-padded outer columns leave nothing out: every method can learn from it."""
    path = write_knee(tmp_path / "padded.h5")
    with h5py.File(path, "r+") as file:
        file["kspace"][..., :2] = 0
        file["kspace"][..., -2:] = 0
    assert told(path)["can train"] == "all methods"


def test_a_finished_run(trained):
    facts = told(trained.path)
    parameters = sum(parameter.numel() for parameter in trained.load().parameters())
    assert facts["run"] == str(trained.path)
    assert facts["method"] == "idr (needs undersampled scans)"
    assert facts["network"] == f"ista_plus, {parameters:,} parameters"
    assert facts["sampling"] == "variable_density, 4x"
    assert facts["k-space"] == "simulated from magnitudes"
    assert facts["state"] == "finished"
    assert facts["best score"].endswith(")")
    assert [facts[part].split(" ")[0] for part in ("training", "validation", "test")] == ["3", "1", "2"]
    assert all(subject in facts["test"] for subject in trained.subjects()["test"])


def test_a_mask_file_is_named_without_an_acceleration_that_it_does_not_have(tiny, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.start(tiny("ssdu", mask=str(tmp_path / "mask.npy"), acceleration=8.0), "/data")
    assert told(run.path)["sampling"] == "mask file mask.npy"


def test_a_run_that_has_just_begun(tiny, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.start(tiny("ssdu"), "/data")
    facts = told(run.path)
    assert facts["state"] == "not finished, 0 epochs done"
    assert not facts.keys() & {"best score", "training", "test"}
    (run.path / "metrics.csv").write_text("stage,epoch,score\n0,0,0.5\n0,1,0.25\n0,2,0.75\n")
    facts = told(run.path)
    assert facts["state"] == "not finished, 3 epochs done"
    assert facts["best score"] == "0.25 (stage 1, epoch 2)"


def test_a_run_that_keeps_its_last_weights_shows_their_score(tiny, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.start(tiny("iscl"), "/data")
    (run.path / "metrics.csv").write_text("stage,epoch,score\n0,0,0.5\n0,1,0.25\n0,2,0.75\n")
    facts = told(run.path)
    assert facts["last score"] == "0.75 (stage 1, epoch 3)"
    assert facts["network"].startswith("generator of width 2, ")
    assert facts["method"] == "iscl (needs unpaired scans)"


def test_neither_a_run_nor_a_scan(tmp_path):
    with pytest.raises(FileError, match="is not a run directory"):
        told(tmp_path)
    with pytest.raises(FileError, match="does not exist"):
        told(tmp_path / "nothing")


ROWS = "stage,epoch,loss,score\n0,0,1,1\n"
HOSTILE = {
    "metrics.csv": ("", "epoch\n0\n", ROWS + "0,1\n", ROWS + "0,1,x,2\n", ROWS + "0,1,1,1,1\n", ROWS + "0,é,1,1\n"),
    "splits.json": ("{", "[]", '{"training": 3, "validation": [], "test": []}'),
    "data/training/kspace/index.json": (
        *("{", "[]", '{"dtype": "|O", "shapes": [[1]]}', '{"dtype": "<c8", "shapes": [[-1, -4]]}'),
        *('{"dtype": "<c8", "shapes": 3}', '{"dtype": "<c8", "shapes": [[99999999999999999999]]}'),
    ),
    "data/training/scans.json": ("{", "{}", "[]", "[3]", "null", '[{"subject": 3}]'),
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in HOSTILE.items() for text in texts[:]])
def test_a_damaged_file_of_a_run_is_one_line(sansref, trained, tmp_path, name, text):
    run = shutil.copytree(trained.path, tmp_path / "run")
    (run / name).write_text(text)
    begun = time.process_time()
    code, _, said = sansref("info", run)
    assert time.process_time() - begun < 5
    if name == "metrics.csv" and not text:
        assert code == 0  # as before the first epoch
        return
    assert (code, len(said.splitlines())) == (2, 1)
    assert str(run / name.partition("/index")[0].partition("/scans.json")[0]) in said
