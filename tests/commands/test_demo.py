from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from helpers.forks import held_by_another
from sansref.commands import demo as module
from sansref.commands.demo import acquire, config_of, run_demo, scan_in_words
from sansref.commands.options import DemoOptions
from sansref.data.scan_store import PreparedScans
from sansref.errors import FileError, SettingError
from sansref.files import claim, locked
from sansref.kspace.grid import full_center
from sansref.metrics.quality import psnr
from sansref.results.scores import read_scores
from sansref.training.history import read_history
from sansref.training.run import RunDirectory

pytestmark = pytest.mark.slow

OPTIONS = DemoOptions(matrix=32, stages=2, epochs=2, repeats=2, phases=2, channels=4, threads=1)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return run_demo(OPTIONS, out, QUIET), out


def test_report_table_and_figures_are_written(played):
    summary, out = played
    assert list(summary.lines) == ["zero-filled", "L1-wavelet", "total variation", "SSDU", "IDR"]
    assert sorted(path.name for path in out.iterdir()) == [
        ".sansref",
        "agreement.png",
        "demo.lock",
        "idr",
        "mask.png",
        "reconstructions.png",
        "report.html",
        "scores.csv",
        "ssdu",
        "stages.png",
        "table.md",
    ]
    html = (out / "report.html").read_text()
    scores = {row.label: row for row in read_scores(out / "scores.csv")}
    table = re.sub(r"\*\*", "", (out / "table.md").read_text())
    for name, line in summary.lines.items():
        whole, body = line.estimates["psnr"].mean, line.estimates["psnr_body"].mean
        assert (scores[name].psnr, scores[name].psnr_body) == (whole, body)
        for value in (whole, body):
            assert f"{value:.2f}" in html
            assert f"| {name} | {value:.2f} |" in table
    assert html.count("data:image/png") == 3
    for fact in ("s1045.ima.gz", "SNR 50", "Spearman", "The truth was read after training had ended", "repeats: 2"):
        assert fact in html
    for part in ("What was acquired", "What the scores mean", "PSNR: ", "sansref zeroshot FILE --out images"):
        assert part in html


def test_a_demo_that_another_command_plays_is_left_alone(tmp_path):
    out = tmp_path / "demo"
    claim(out, "demo")
    with (
        held_by_another(lambda: locked(out / "demo"), tmp_path / "held") as child,
        pytest.raises(FileError, match=f"is in use by process {child}"),
    ):
        run_demo(OPTIONS, out, QUIET)
    assert sorted(path.name for path in out.iterdir()) == [".sansref", "demo.lock"]


def test_the_mask_is_described_and_drawn_as_it_is(played):
    _, out = played
    _, acquired = acquire(OPTIONS)
    with Image.open(out / "mask.png") as picture:
        assert np.array_equal(np.asarray(picture) > 0, acquired.mask.numpy())
    rows, columns = full_center(acquired.mask)
    _, mask, snr = scan_in_words(OPTIONS, acquired)
    assert f"{float(acquired.mask.float().mean()):.1%} of k-space is acquired" in mask
    assert f"the central {rows} x {columns} samples all" in mask
    assert snr.startswith("SNR 50: the mean signal of the head is 50 times the standard deviation")


def test_the_truth_is_never_in_a_run_directory(played):
    _, out = played
    truth, acquired = acquire(OPTIONS)
    assert acquired.reference is None
    missing = truth.reference.numpy().tobytes()
    for name in ("ssdu", "idr"):
        (scan,) = PreparedScans(out / name / "data" / "training")
        assert scan.reference is None
        assert torch.equal(scan.kspace, truth.kspace)
        assert not scan.kspace[0][~truth.mask].any()
        assert not [path for path in (out / name).rglob("*") if "reference" in path.name]
        assert not [path for path in (out / name).rglob("*") if path.is_file() and missing in path.read_bytes()]


def test_nothing_looks_at_the_truth_before_training_has_ended(tmp_path, monkeypatch):
    truth, _ = acquire(OPTIONS)
    poisoned = replace(truth, reference=torch.full_like(truth.reference, torch.nan))
    monkeypatch.setattr(module, "acquire", lambda options: (poisoned, truth.without_reference()))
    monkeypatch.setattr(module, "_uncover", lambda options, truth, runs, out: runs)
    runs = run_demo(replace(OPTIONS, epochs=1), tmp_path, QUIET)
    assert all(run.finished for run in runs.values())


def test_both_methods_take_the_same_number_of_steps(played):
    _, out = played
    rows = {name: read_history(out / name / "metrics.csv") for name in ("ssdu", "idr")}
    assert len(rows["ssdu"]) == len(rows["idr"]) == 4
    assert {row["stage"] for row in rows["ssdu"]} == {"0"}
    assert config_of(OPTIONS, "ssdu").training.repeats == config_of(OPTIONS, "idr").training.repeats


def test_every_epoch_is_uncovered(played):
    _, out = played
    truth, _ = acquire(OPTIONS)
    run = RunDirectory(out / "idr")
    found = module.list_snapshots(run, truth)
    assert [(snapshot.stage, snapshot.epoch) for snapshot in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    best = min(found, key=lambda snapshot: snapshot.score)
    with torch.no_grad():
        image = run.load().reconstruct(truth.batch())[0].abs()
    reference = truth.reference.abs()
    assert best.psnr == pytest.approx(float(psnr(image, reference, float(reference.max()))), rel=1e-5)


def test_a_demo_that_has_ended_is_only_drawn_again(played, monkeypatch):
    summary, out = played
    monkeypatch.setattr(module, "learn", lambda *arguments: pytest.fail("the demo was trained again"))
    assert run_demo(OPTIONS, out, QUIET).note == summary.note


def test_other_settings_need_another_folder(played):
    with pytest.raises(SettingError, match=r"other settings \(.*seed 0 -> 1\): choose another --out"):
        run_demo(replace(OPTIONS, seed=1), played[1], QUIET)


@pytest.mark.parametrize("matrix", [31, 257])
def test_matrix_must_be_one_of_the_slice(matrix, tmp_path):
    with pytest.raises(SettingError, match=f"the demo's matrix must lie between 32 and 256, got {matrix}"):
        run_demo(replace(OPTIONS, matrix=matrix), tmp_path, QUIET)


def test_scan_has_the_acceleration_and_noise_asked_for():
    truth, _ = acquire(replace(OPTIONS, matrix=64, acceleration=3.0))
    assert truth.acceleration == pytest.approx(3.0, rel=0.01)
    assert not torch.equal(truth.kspace, acquire(replace(OPTIONS, matrix=64, acceleration=3.0, seed=1))[0].kspace)


def test_a_demo_that_was_killed_may_begin_anew_with_other_settings(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("sansref.training.train.run_stages", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run_demo(OPTIONS, tmp_path, QUIET)
    assert (tmp_path / "ssdu" / "data" / "training" / "scans.json").exists()
    run_demo(replace(OPTIONS, matrix=48, stages=1, epochs=1), tmp_path, QUIET)
    assert np.asarray(Image.open(tmp_path / "mask.png")).shape == (48, 48)
