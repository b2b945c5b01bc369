"""One stage with the real Lightning loop: early stop, plateau, and all of it across an interruption."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from sansref.data.store import ArrayStore, ArrayWriter
from sansref.errors import SettingError, TrainingError
from sansref.methods.ssdu import SSDU
from sansref.training import callbacks
from sansref.training.batches import ValidationSet
from sansref.training.history import read_history, snapshot_file
from sansref.training.loop import Loop, StageFiles, fit
from sansref.training.progress import Progress

SHAPES = [(32, 32), (32, 24), (32, 32), (32, 32)]


class Interrupted(BaseException):
    """Stands for a kill; tests of resuming send real ones."""


@pytest.fixture
def play(make_scans, tiny, tmp_path):
    """Run one fit in a folder of ``tmp_path``; the same folder again continues it."""
    scans = [scan.without_reference() for scan in make_scans(*SHAPES)]

    def run(name="run", method="ssdu", stage=0, targets=None, **changes):
        config = tiny(method, **changes)
        trained = config.build()
        validation = ValidationSet(scans[:2], config.sampling.family(emulated=True), 0.2, seed=0)
        files = StageFiles(tmp_path / name / f"{stage:02d}", tmp_path / name / "metrics.csv")
        progress = Progress("T", 2, config.training.epochs, 1, Console(quiet=True))
        result = fit(trained, scans, SHAPES, targets, validation, config.training, files, stage, progress)
        return result, trained, files

    return run


def rows(files: StageFiles) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_history(files.history)]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def script(monkeypatch):
    """Let the validation scores of the epochs be given ones."""

    def scores(*values):
        def step(loop, batch, index):
            loop._scores.append(torch.tensor(values[loop.current_epoch]))

        monkeypatch.setattr(Loop, "validation_step", step)

    return scores


def interrupted(monkeypatch, owner, name, call, play, **changes):
    """Play until the method is called for the ``call``-th time."""
    original, left = getattr(owner, name), [call]

    def counted(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, counted)
        with pytest.raises(Interrupted):
            play("cut", **changes)


def test_training_lowers_the_score_and_leaves_the_best_and_the_last_weights(play):
    result, trained, files = play(epochs=6, learning_rate=0.01)
    scores = [float(row["score"]) for row in rows(files)]
    assert len(scores) == 6
    assert scores[-1] < 0.9 * scores[0]
    assert result.score == pytest.approx(min(scores), rel=1e-5)
    assert result.epoch == scores.index(min(scores))
    if result.epoch == 5:
        assert_same(load_file(files.best), trained.state_dict())


def test_same_settings_give_the_same_weights_and_another_seed_others(play):
    first, again, other = (play(name, seed=seed)[1].state_dict() for name, seed in [("a", 0), ("b", 0), ("c", 1)])
    assert_same(first, again)
    assert not any(torch.equal(first[name], other[name]) for name in first if first[name].is_floating_point())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # two workers, also on a single core
def test_worker_processes_change_nothing(play, tmp_path):
    with ArrayWriter(tmp_path / "targets", "complex64") as writer:
        for height, width in SHAPES:
            writer.append(torch.randn(1, height, width, dtype=torch.complex64))
    targets = ArrayStore(tmp_path / "targets")
    (_, here, files), (_, there, others) = (
        play(name, method="idr", stage=1, targets=targets, workers=workers) for name, workers in [("a", 0), ("b", 2)]
    )
    assert rows(files) == rows(others)
    assert_same(here.state_dict(), there.state_dict())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # two workers, also on a single core
def test_worker_processes_change_nothing_after_an_interruption(play, monkeypatch):
    whole = play(epochs=3, workers=0)
    interrupted(monkeypatch, callbacks.KeepBest, "on_train_epoch_end", 3, play, epochs=3, workers=2)
    assert_same(whole[1].state_dict(), play("cut", epochs=3, workers=2)[1].state_dict())


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Loop, "training_step"),
        (Loop, "validation_step"),
        (callbacks.History, "on_train_epoch_end"),
        (callbacks.KeepBest, "on_train_epoch_end"),
        (callbacks.ResumePoint, "on_train_epoch_end"),
    ],
)
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_fit_cut_anywhere_ends_as_if_it_had_not_been(play, monkeypatch, owner, name, epoch):
    # Lightning's books on a checkpoint written at the end of an epoch are treacherous: no epoch may be lost or doubled.
    whole, trained, files = play(epochs=3)
    per_epoch = 2 if owner is Loop else 1
    interrupted(monkeypatch, owner, name, epoch * per_epoch + 1, play, epochs=3)
    again, resumed, others = play("cut", epochs=3)
    assert again == whole
    assert rows(others) == rows(files)
    assert [row["epoch"] for row in rows(others)] == list("012")
    assert_same(resumed.state_dict(), trained.state_dict())
    assert_same(load_file(others.best), load_file(files.best))


def test_a_stage_that_had_ended_is_not_trained_again(play):
    result, trained, files = play(epochs=3)
    before = files.history.read_bytes()
    again, resumed, _ = play(epochs=3)
    assert again == result
    assert files.history.read_bytes() == before
    assert_same(resumed.state_dict(), trained.state_dict())


PATIENT = {
    "schedule": "plateau",
    "epochs": 12,
    "patience": 3,
    "plateau_patience": 1,
    "plateau_factor": 0.5,
    "learning_rate": 0.01,
}
SCORES = [1.0, 0.8, 0.9, 0.9, 0.7, 0.75, 0.8, 0.7, 0.1, 0.1, 0.1, 0.1]
RATES = [0.01, 0.01, 0.01, 0.005, 0.005, 0.005, 0.0025, 0.0025]


def test_early_stop_and_plateau(play, script):
    script(*SCORES)
    result, _, files = play(**PATIENT)
    assert (result.score, result.epoch) == (pytest.approx(0.7), 4)
    assert [float(row["learning_rate"]) for row in rows(files)] == RATES


@pytest.mark.parametrize("schedule", ["linear", "cooldown"])
def test_a_schedule_that_falls_by_plan_has_no_early_stop(play, script, schedule):
    script(*SCORES)
    result, _, files = play(**PATIENT | {"schedule": schedule})
    assert (result.score, result.epoch) == (pytest.approx(0.1), 8)
    assert len(rows(files)) == 12


@pytest.mark.parametrize("call", [1, 4, 6, 7, 8])
def test_early_stop_and_plateau_are_the_same_after_an_interruption(play, script, monkeypatch, call):
    script(*SCORES)
    whole, trained, files = play(**PATIENT)
    interrupted(monkeypatch, callbacks.ResumePoint, "on_train_epoch_end", call, play, **PATIENT)
    again, resumed, others = play("cut", **PATIENT)
    assert again == whole
    assert rows(others) == rows(files)
    assert_same(resumed.state_dict(), trained.state_dict())


def test_a_stage_killed_after_its_early_stop_stays_stopped(play, script):
    script(*SCORES)
    whole, trained, files = play(**PATIENT)
    assert files.resume_point.exists()
    again, resumed, _ = play(**PATIENT)
    assert again == whole
    assert len(rows(files)) == len(RATES)
    assert_same(resumed.state_dict(), trained.state_dict())


def test_loss_that_is_not_finite_keeps_the_last_checkpoint(play, monkeypatch):
    play("whole", epochs=3)
    original = Loop.training_step

    def poisoned(loop, batch, index):
        if loop.current_epoch == 1:
            batch = batch._replace(target=batch.target * torch.nan)
        original(loop, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "training_step", poisoned)
        with pytest.raises(TrainingError, match=r"loss of turn 'network' is nan in epoch 1: .*lower --learning_rate"):
            play("cut", epochs=3)
    _, resumed, files = play("cut", epochs=3)
    assert len(rows(files)) == 3
    assert_same(resumed.state_dict(), play("whole", epochs=3)[1].state_dict())


def test_a_method_that_ends_the_program_keeps_its_last_words(play, monkeypatch):
    def leave(*_):
        sys.exit("a package is missing")

    monkeypatch.setattr(Loop, "training_step", leave)
    with pytest.raises(SystemExit, match="a package is missing"):
        play()


def test_snapshots_are_kept_on_demand(play):
    _, trained, files = play("with", epochs=2, snapshots=True)
    assert_same(load_file(snapshot_file(files.folder, 1)), trained.state_dict())
    assert sorted(path.name for path in files.folder.iterdir()) == [
        "best.safetensors",
        "epoch-000.safetensors",
        "epoch-001.safetensors",
        "last.ckpt",
    ]
    assert not list(play("without", epochs=1)[2].folder.glob("epoch-*"))


@pytest.mark.parametrize("accelerator", ["abacus", "tpu"])
def test_an_accelerator_that_is_not_there_is_named(play, accelerator):
    with pytest.raises(SettingError, match=rf"accelerator '{accelerator}' .* cannot be used here .*--accelerator auto"):
        play(accelerator=accelerator)


@pytest.mark.parametrize("name", ["ista_plus", "ista", "unet"])
@pytest.mark.parametrize(("precision", "weights"), [("bf16-mixed", torch.float32), ("64-true", torch.float64)])
def test_every_network_trains_in_every_precision_without_a_warning(play, name, precision, weights):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, trained, files = play(network={"name": name}, precision=precision, epochs=1)
    assert all(value.dtype == weights for value in trained.state_dict().values() if value.is_floating_point())
    assert len(rows(files)) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_an_impossible_setting_is_one_line_whoever_makes_the_batches(play, monkeypatch, workers):
    def refuse(*_):
        raise SettingError("cannot be split")

    monkeypatch.setattr(SSDU, "examples", refuse)
    with pytest.raises(SettingError, match=r"^cannot be split$"):
        play(workers=workers)
