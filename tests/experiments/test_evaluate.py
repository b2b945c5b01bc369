from __future__ import annotations

import csv
import json
import math
import shutil

import nibabel
import numpy as np
import pytest
import torch
from rich.console import Console

from sansref.errors import FileError, SettingError
from sansref.experiments import evaluate as module
from sansref.experiments.evaluate import evaluate
from sansref.experiments.scores import Score, score_scan, zero_filled
from sansref.training.run import RunDirectory
from sansref.training.train import train

QUIET = Console(quiet=True)


@pytest.fixture
def play(trained, heads, tmp_path):
    def run(data=None, subjects="auto", skip_bad=False, directory=trained):
        return evaluate(directory, data or heads, tmp_path / "out", subjects, skip_bad, QUIET), tmp_path / "out"

    return run


def table(out) -> list[dict[str, str]]:
    with (out / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_only_subjects_that_the_run_did_not_learn_from_are_scored(play, trained):
    found, _ = play()
    split = trained.subjects()
    assert sorted({row.info.subject for row in found.rows}) == split["test"]
    assert found.left_out == sorted(split["training"] + split["validation"])
    assert len(found.rows) == 4 * len(split["test"])


@pytest.mark.parametrize(("subjects", "scored", "left_out"), [("test", 2, 4), ("all", 6, 0)])
def test_subjects_can_be_chosen(play, subjects, scored, left_out):
    found, _ = play(subjects=subjects)
    assert len({row.info.subject for row in found.rows}) == scored
    assert len(found.left_out) == left_out


def test_scores_are_those_of_every_slice(play, trained, heads):
    found, out = play()
    config, method = trained.config(), trained.load()
    row = found.rows[1]
    scan = list(config.preparation.scans(row.info.path))[1]
    options = config.training
    for name, reconstruct in (("zero-filled", zero_filled), ("idr", method.reconstruct)):
        score, _ = score_scan(
            reconstruct, scan, config.sampling.family(emulated=True), options.held_out, options.seed, 1
        )
        assert row.scores[name] == score
    written = table(out)
    assert len(written) == 2 * len(found.rows)
    assert list(written[0]) == ["subject", "file", "slice", "method", "psnr", "ssim", "nmse", "held_out"]
    line = next(line for line in written if line["slice"] == "1" and line["method"] == "idr")
    assert line["file"] == row.info.path.name
    assert line["subject"] == row.info.subject
    assert float(line["psnr"]) == pytest.approx(row.scores["idr"].psnr, rel=1e-5)


def test_training_made_the_test_subjects_better_than_zero_filling(play):
    summary = play()[0].summaries()
    assert summary["idr"].mean.psnr > summary["zero-filled"].mean.psnr
    assert summary["idr"].mean.held_out < summary["zero-filled"].mean.held_out


def test_summary_and_figures_are_written(play, trained):
    found, out = play()
    assert sorted(path.name for path in out.iterdir()) == ["median.png", "scores.csv", "summary.json", "worst.png"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["subjects"] == trained.subjects()["test"]
    assert summary["methods"]["idr"]["slices"] == len(found.rows)
    assert summary["methods"]["idr"]["mean"]["psnr"] == pytest.approx(found.summaries()["idr"].mean.psnr)
    assert "7x7" in summary["scores"]


def test_worst_and_median_slice_are_drawn(play, monkeypatch):
    drawn = {}

    def error_figure(path, truth, panels, title):
        drawn[path.stem] = panels, title

    monkeypatch.setattr(module, "error_figure", error_figure)
    found, _ = play()
    values = sorted(row.scores["idr"].psnr for row in found.rows)
    for name, value in (("worst", values[0]), ("median", values[len(values) // 2])):
        panels, title = drawn[name]
        assert [panel.title for panel in panels] == ["zero-filled", "idr"]
        assert panels[1].caption.startswith(f"{value:.2f} dB")
        assert title.startswith(f"{name} slice: sub-")


def test_other_data_are_new_subjects_whatever_their_names(play, write_heads, tmp_path):
    found, _ = play(write_heads(tmp_path / "other", subjects=2, slices=3))
    assert len(found.rows) == 6
    assert found.left_out == []


def test_a_copy_of_the_data_is_recognised(play, heads, tmp_path, trained):
    found, _ = play(shutil.copytree(heads, tmp_path / "copy"))
    assert sorted({row.info.subject for row in found.rows}) == trained.subjects()["test"]


def test_measured_undersampled_data_are_scored_without_a_reference(play, write_knee, tmp_path):
    found, out = play(write_knee(tmp_path / "under.h5", every=2))
    assert len(found.rows) == 2
    assert all(math.isnan(row.scores["idr"].psnr) and row.scores["idr"].held_out > 0 for row in found.rows)
    summary = json.loads((out / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["methods"]["idr"]["mean"]["psnr"] is None
    assert summary["methods"]["idr"]["mean"]["held_out"] > 0
    assert sorted(path.name for path in out.iterdir()) == ["scores.csv", "summary.json"]


def test_fully_sampled_measured_data_are_scored_on_the_scanners_crop(play, write_knee, tmp_path):
    found, _ = play(write_knee(tmp_path / "full.h5"))
    assert all(row.scores["idr"].psnr > 10 for row in found.rows)


def test_slices_without_a_reference_do_not_hide_the_worst_one(trained):
    def row(psnr):
        return module.Row(None, 0, {"idr": Score(psnr, 0, 0, 0)})

    rows = [row(30.0), row(math.nan), row(20.0), row(25.0), row(math.nan)]
    assert [(title, chosen.scores["idr"].psnr) for title, chosen in module._telling_rows(rows, "idr")] == [
        ("worst", 20.0),
        ("median", 25.0),
    ]


def test_nobody_left_is_one_clear_line(play, tiny, heads, tmp_path):
    run = train(tiny("ssdu", epochs=1), heads, tmp_path / "run", console=QUIET).run
    with pytest.raises(SettingError, match=r"none of the 6 subject\(s\) is left .*--test 0\.2 .*--subjects all"):
        play(directory=run)


def test_bad_files_stop_or_are_told(play, write_heads, tmp_path):
    data = write_heads(tmp_path / "bad", subjects=3, slices=3)
    (data / "sub-08_T1w.nii.gz").write_bytes(b"no volume")
    broken = data / "sub-02_T1w.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(FileError, match=r"sub-0[28]_T1w"):
        play(data)
    found, _ = play(data, skip_bad=True)
    assert sorted(error.path.name for error in found.bad_files) == ["sub-02_T1w.nii.gz", "sub-08_T1w.nii.gz"]
    assert {row.info.subject for row in found.rows} == {"sub-01", "sub-03"}


def test_nothing_but_bad_files_is_one_clear_line(play, write_heads, tmp_path):
    data = write_heads(tmp_path / "bad", subjects=1, slices=3)
    broken = data / "sub-01_T1w.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(SettingError, match=r"gave no slice to evaluate on \(.*sub-01_T1w\.nii\.gz: .*\)"):
        play(data, skip_bad=True)


def test_a_run_on_no_folder_of_subjects_has_learned_from_nobody(play, trained, tmp_path):
    copy = RunDirectory(shutil.copytree(trained.path, tmp_path / "demo"))
    copy.splits_file.unlink()
    assert len(play(directory=copy)[0].rows) == 24


def test_blank_slices_are_passed_over(play, tmp_path):
    volume = np.zeros((32, 32, 4))
    volume[8:24, 8:24, 1:3] = 100
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), np.eye(4)), tmp_path / "sub-90_T1w.nii.gz")
    found, _ = play(tmp_path / "sub-90_T1w.nii.gz")
    assert [row.slice for row in found.rows] == [1, 2]


def test_evaluation_does_not_move_the_weights(play, trained):
    before = {name: value.clone() for name, value in trained.load().state_dict().items()}
    play()
    assert all(torch.equal(value, before[name]) for name, value in trained.load().state_dict().items())
