from __future__ import annotations

from pathlib import Path

import pytest

from sansref.training.history import History, kept_row, read_history


def record(path: Path, stage: int, epochs: list[int], **means: float) -> None:
    history = History(path, stage, epochs[0])
    for epoch in epochs:
        history.add(epoch, {"score": 0.5 / (epoch + 1), "loss": 1e-7, **means}, 0.002, 1.25)


def places(path: Path) -> list[tuple[str, str]]:
    return [(row["stage"], row["epoch"]) for row in read_history(path)]


def test_history_has_a_row_per_epoch_of_every_stage(tmp_path):
    path = tmp_path / "metrics.csv"
    assert read_history(path) == []
    for stage in (0, 1):
        record(path, stage, [0, 1])
    assert places(path) == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    row = read_history(path)[1]
    assert list(row) == ["stage", "epoch", "loss", "score", "learning_rate", "seconds"]
    assert list(row.values()) == ["0", "1", "1e-07", "0.25", "0.002", "1.250"]


def test_the_row_that_is_kept_is_of_the_best_stage():
    scores = [(0, 0, 0.3), (0, 1, 0.1), (1, 0, 0.12), (1, 1, 0.2)]
    rows = [{"stage": str(stage), "epoch": str(epoch), "score": str(score)} for stage, epoch, score in scores]
    assert kept_row(rows, "last") == rows[1]
    assert kept_row(rows[:1] + rows[2:], "last") == rows[3]
    assert kept_row([rows[0], rows[2], rows[3]], "best") == rows[2]


def test_history_forgets_epochs_that_are_trained_again(tmp_path):
    path = tmp_path / "metrics.csv"
    record(path, 0, [0, 1])
    record(path, 1, [0, 1, 2])
    record(path, 1, [1])
    assert places(path) == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]


def test_history_is_not_touched_before_an_epoch_has_ended(tmp_path):
    path = tmp_path / "metrics.csv"
    record(path, 0, [0, 1])
    before = path.read_bytes()
    History(path, 0, 1)
    assert path.read_bytes() == before


def test_stages_that_log_other_parts_share_a_table(tmp_path):
    """A later stage may log more than the first, or less."""
    path = tmp_path / "metrics.csv"
    record(path, 0, [0], early=1.0)
    record(path, 1, [0], late=2.0)
    first, second = read_history(path)
    assert (first["early"], first["late"]) == ("1", "")
    assert (second["early"], second["late"]) == ("", "2")
    assert list(first)[:2] == ["stage", "epoch"]
    assert list(first)[-2:] == ["learning_rate", "seconds"]


def test_a_row_that_breaks_off_leaves_the_table_before(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    record(path, 0, [0])
    before = path.read_bytes()

    def breaking(file, content):
        with file.open("wb") as half:
            half.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", breaking)
    with pytest.raises(KeyboardInterrupt):
        record(path, 0, [1])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
