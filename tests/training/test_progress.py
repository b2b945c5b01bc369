from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from sansref.training.progress import Progress


def drawn(terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=120, color_system=None), out


def test_without_a_terminal_every_epoch_is_one_line(caplog):
    console, out = drawn(terminal=False)
    with caplog.at_level(logging.INFO, logger="sansref"), Progress("IDR", 2, 3, 4, console) as progress:
        for stage in range(2):
            progress.start_stage(stage, 0)
            for epoch in range(3):
                for _ in range(4):
                    progress.step()
                progress.epoch(epoch + 1, 0.25, 0.5 - 0.1 * epoch)
    lines = [line for line in out.getvalue().splitlines() if line.strip()]
    assert lines[0] == "IDR stage 1/2 epoch 1/3 score 0.5000"
    assert lines[-1] == "IDR stage 2/2 epoch 3/3 score 0.3000"
    assert len(lines) == 6
    assert caplog.messages[1] == "IDR stage 1/2 epoch 2/3 loss 0.25 score 0.4 best 0.4"


def test_a_method_of_one_stage_does_not_count_stages():
    console, out = drawn(terminal=False)
    with Progress("SSDU", 1, 3, 4, console) as progress:
        progress.start_stage(0, 0)
        progress.epoch(1, 0.25, 0.5)
    assert "SSDU epoch 1/3 score 0.5000" in out.getvalue()


def test_log_tells_the_best_score_so_far(caplog):
    with caplog.at_level(logging.INFO, logger="sansref"), Progress("T", 1, 2, 1, Console(quiet=True)) as progress:
        progress.start_stage(0, 0)
        progress.epoch(1, 1.0, 0.5)
        progress.epoch(2, 1.0, 0.7)
    assert caplog.messages[-1].endswith("score 0.7 best 0.5")


def test_a_training_that_goes_on_knows_the_best_score_of_before(caplog):
    progress = Progress("T", 1, 2, 1, Console(quiet=True), best=0.4)
    with caplog.at_level(logging.INFO, logger="sansref"), progress:
        progress.epoch(2, 1.0, 0.7)
    assert caplog.messages[-1].endswith("score 0.7 best 0.4")


def completed(progress: Progress) -> float:
    return progress._bar.tasks[0].completed


def test_bar_covers_all_stages_and_jumps_where_a_resumed_run_goes_on():
    progress = Progress("T", 3, 10, 4, Console(quiet=True))
    assert progress._bar.tasks[0].total == 120
    with progress:
        progress.start_stage(1, 2)
        assert completed(progress) == (10 + 2) * 4
        progress.step()
        assert completed(progress) == 49
        progress.start_stage(2, 0)
        assert completed(progress) == 80
    assert completed(progress) == 120


def test_bar_of_a_failed_run_does_not_jump_to_the_end():
    progress = Progress("T", 1, 10, 4, Console(quiet=True))
    with pytest.raises(RuntimeError), progress:
        progress.start_stage(0, 1)
        raise RuntimeError
    assert completed(progress) == 4


def test_terminal_shows_a_bar_with_the_score():
    console, out = drawn(terminal=True)
    with Progress("IDR", 2, 1, 2, console) as progress:
        progress.start_stage(1, 0)
        progress.step()
        progress.epoch(1, 0.25, 0.125)
    assert "IDR stage 2/2 epoch 1/1 score 0.1250" in out.getvalue()
    assert "left" in out.getvalue()
