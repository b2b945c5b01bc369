from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from sansref.errors import TrainingError
from sansref.training.history import (
    CheckHealth,
    History,
    KeepBest,
    KeepLast,
    ResumePoint,
    Snapshots,
    read_history,
    snapshot_file,
)
from sansref.training.loop import Loop

# KeepBest, History and Snapshots read no more than this of a Lightning trainer; tests of fit play them for real.


def trainer(epoch: int, score: float = 1.0, **metrics: float) -> SimpleNamespace:
    return SimpleNamespace(current_epoch=epoch, callback_metrics={"score": score, **metrics}, should_stop=False)


@pytest.fixture
def loop(tiny):
    return Loop(tiny("ssdu").build(), tiny("ssdu").training)


def play(best: KeepBest, loop: Loop, scores: list[float]) -> list[bool]:
    """Give every epoch weights that tell it, then say after which epochs training was to stop."""
    stops = []
    for epoch, score in enumerate(scores):
        with torch.no_grad():
            next(iter(loop.method.parameters())).fill_(epoch)
        now = trainer(epoch, score)
        best.on_train_epoch_end(now, loop)
        stops.append(now.should_stop)
    return stops


@pytest.mark.parametrize(
    ("scores", "epoch", "stops"),
    [
        ([3, 2, 1, 0.5], 3, []),
        ([3, 1, 2, 1.5, 4], 1, [4]),
        ([3, 3, 3, 3], 0, [3]),
        ([5, 4, 6, 6, 3, 6, 6], 4, []),
        ([1, 2, 2, 0.5, 2, 2, 2], 3, [6]),
    ],
)
def test_best_is_kept_and_patience_counts_epochs_since(tmp_path, loop, scores, epoch, stops):
    best = KeepBest(tmp_path / "best.safetensors", patience=3)
    stopped = play(best, loop, scores)
    assert [index for index, stop in enumerate(stopped) if stop] == stops
    assert (best.score, best.epoch) == (min(scores), epoch)
    first = next(iter(loop.method.state_dict()))
    assert load_file(tmp_path / "best.safetensors")[first].flatten()[0].item() == epoch
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


def test_best_survives_a_checkpoint(tmp_path, loop):
    best = KeepBest(tmp_path / "best.safetensors", patience=3)
    play(best, loop, [2, 0.1 + 0.2, 4])
    other = KeepBest(tmp_path / "best.safetensors", patience=3)
    other.load_state_dict(best.state_dict())
    assert (other.score, other.epoch) == (0.1 + 0.2, 1)


@pytest.mark.parametrize(("next_epoch", "stops"), [(3, False), (4, False), (5, True), (9, True)])
def test_a_run_killed_after_its_early_stop_does_not_train_on(tmp_path, loop, next_epoch, stops):
    best = KeepBest(tmp_path / "best.safetensors", patience=3)
    best.load_state_dict({"score": 0.2, "epoch": 1})
    now = trainer(next_epoch)
    best.on_train_start(now, loop)
    assert now.should_stop is stops


def test_a_new_run_does_not_stop_at_once(tmp_path, loop):
    now = trainer(0)
    KeepBest(tmp_path / "best.safetensors", patience=1).on_train_start(now, loop)
    assert not now.should_stop


def test_the_last_epoch_is_kept_whatever_its_score(tmp_path, loop):
    last = KeepLast(tmp_path / "best.safetensors")
    assert play(last, loop, [1, 3, 2, 4, 5]) == [False] * 5
    assert (last.score, last.epoch) == (5, 4)
    first = next(iter(loop.method.state_dict()))
    assert load_file(tmp_path / "best.safetensors")[first].flatten()[0].item() == 4


def test_keeping_the_last_epoch_never_ends_training_early(tmp_path, loop):
    last, again = (KeepLast(tmp_path / "best.safetensors") for _ in range(2))
    play(last, loop, [1, 3])
    again.load_state_dict(last.state_dict())
    now = trainer(9)
    again.on_train_start(now, loop)
    assert not now.should_stop
    assert (again.score, again.epoch) == (3, 1)


@pytest.fixture
def adversarial(tiny):
    config = tiny("switchable")
    return Loop(config.build(), config.training)


HEALTHY = {"d_spread": 0.2, "output_spread": 0.3}


@pytest.mark.parametrize(
    ("sick", "message"),
    [
        ({"d_spread": 0.0}, "the discriminator has collapsed: it judges everything alike (spread 0)"),
        ({"output_spread": 0.0005}, "the generator's images are constant (spread 0.0005)"),
    ],
)
def test_what_the_method_calls_a_failure_ends_training(adversarial, sick, message):
    metrics = {name: torch.tensor(value) for name, value in (HEALTHY | sick).items()}
    with pytest.raises(TrainingError) as error:
        CheckHealth().on_train_epoch_end(trainer(3, **metrics), adversarial)
    assert str(error.value).startswith(message)
    assert "train with a lower --learning_rate into another --out; the epochs before are kept" in str(error.value)


def test_health_lets_training_go_on_and_asks_nothing_of_other_methods(adversarial, loop):
    CheckHealth().on_train_epoch_end(trainer(3, **HEALTHY), adversarial)
    CheckHealth().on_train_epoch_end(trainer(3), loop)


def test_a_checkpoint_that_breaks_off_leaves_the_one_before(tmp_path, loop):
    class Breaking:
        def save_checkpoint(self, path):
            path.write_bytes(b"half")
            raise RuntimeError

    (tmp_path / "last.ckpt").write_bytes(b"whole")
    with pytest.raises(RuntimeError):
        ResumePoint(tmp_path / "last.ckpt").on_train_epoch_end(Breaking(), loop)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("last.ckpt", b"whole")]


def record(history: History, loop: Loop, epochs: list[int], start: int = 0) -> None:
    history.on_train_start(trainer(start), loop)
    for epoch in epochs:
        history.on_train_epoch_start(trainer(epoch), loop)
        history.on_train_epoch_end(trainer(epoch, 0.5 / (epoch + 1), loss=1e-7), loop)


@pytest.fixture
def with_rate(loop, monkeypatch):
    monkeypatch.setattr(Loop, "learning_rate", 0.002)
    return loop


def test_history_has_a_row_per_epoch_of_every_stage(tmp_path, with_rate):
    path = tmp_path / "metrics.csv"
    assert read_history(path) == []
    for stage in (0, 1):
        record(History(path, stage), with_rate, [0, 1])
    rows = read_history(path)
    assert [(row["stage"], row["epoch"]) for row in rows] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert list(rows[0]) == ["stage", "epoch", "loss", "score", "learning_rate", "seconds"]
    assert rows[1]["loss"] == "1e-07"
    assert rows[1]["score"] == "0.25"
    assert rows[1]["learning_rate"] == "0.002"
    assert float(rows[1]["seconds"]) >= 0


def test_history_forgets_epochs_that_are_trained_again(tmp_path, with_rate):
    path = tmp_path / "metrics.csv"
    record(History(path, 0), with_rate, [0, 1])
    record(History(path, 1), with_rate, [0, 1, 2])
    record(History(path, 1), with_rate, [1], start=1)
    assert [(row["stage"], row["epoch"]) for row in read_history(path)] == [
        ("0", "0"),
        ("0", "1"),
        ("1", "0"),
        ("1", "1"),
    ]


def test_snapshots_keep_every_epoch(tmp_path, loop):
    for epoch in (0, 1, 12):
        Snapshots(tmp_path).on_train_epoch_end(trainer(epoch), loop)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch-000.safetensors",
        "epoch-001.safetensors",
        "epoch-012.safetensors",
    ]
    kept = load_file(snapshot_file(tmp_path, 12))
    assert all(torch.equal(kept[name], value) for name, value in loop.method.state_dict().items())
