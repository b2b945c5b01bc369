"""Runs killed by the system and continued by the same command end as if nothing had happened, to the last byte."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sansref.cli import main
from sansref.training.history import read_history

pytestmark = pytest.mark.slow

SETTINGS = [
    *("--stages", "3", "--epochs", "3", "--batch_size", "8", "--threads", "1", "--accelerator", "cpu"),
    *("--network.phases", "2", "--network.channels", "4"),
]

LOOP = "sansref.training.loop:"
SAVE = f"{LOOP}Loop.save"

# What is called when the kill comes, and for which time in the life of the killed process, or which time with a file.
# There are three epochs of two steps in each of three stages.
POINTS = {
    "before anything is written": ("sansref.training.run:write_text", 1),
    "between the settings and the versions": ("sansref.training.run:write_text", 2),
    "while data are prepared": ("sansref.data.scan_store:ArrayWriter.append", 9),
    "in the first epoch": (f"{LOOP}Loop.step", 2),
    "between the steps and the score": (f"{LOOP}Loop.score", 2),
    "while it is scored": (f"{LOOP}Loop._score", 5),
    "before the log row": ("sansref.training.history:History.add", 2),
    "while the log row is written": ("sansref.training.history:csv_text", 2),
    "between the log row and the best weights": (f"{LOOP}Loop.check", 2),
    "before the first best weights": (f"{LOOP}Loop.save_weights", 1),
    "while the best weights are written": (f"{LOOP}save", 2),
    "between the best weights and the resume point": (SAVE, 1),
    "before a later resume point": (SAVE, 3),
    "while a resume point is written": ("torch:save", 2),
    "after a stage's first epoch": (f"{LOOP}Loop.patience_is_over", 2),
    "after the last epoch, while all wait": ("sansref.training.processes:Processes.wait", 1),
    "after the last epoch, before the stage is done": ("sansref.training.stages:write_text", 1),
    "before the log is put in its place": ("pathlib:Path.replace", 2, "metrics.csv"),
    "before the best weights are put in their place": ("pathlib:Path.replace", 2, "best.safetensors"),
    "before a resume point is put in its place": ("pathlib:Path.replace", 5, "last.ckpt"),
    "before the model is put in its place": ("pathlib:Path.replace", 1, "model.safetensors"),
    "between the end of a stage and the end of its resume point": ("pathlib:Path.unlink", 2, "last.ckpt"),
    "between two stages": ("sansref.training.stages:_refined", 1),
    "while data are refined": ("sansref.methods.idr:IDR.refine", 2),
    "between the refined data and their place": ("sansref.training.stages:join", 1),
    "before those of the stage before are dropped": ("sansref.training.stages:ArrayStore", 2),
    "before the first step on refined data": (f"{LOOP}Loop.train", 4),
    "in a stage on refined data": (f"{LOOP}Loop._score", 20),
    "after the last stage": ("shutil:copyfile", 1),
    "between the weights and the card": ("sansref.training.train:json.dumps", 3),
}


def command(data: Path, out: Path, *more: str) -> list[str]:
    return ["train", "idr", "--data", str(data), "--out", str(out), *SETTINGS, *more]


# A process that waits in its fifth epoch for a signal from outside.
WAITING = """
import itertools, sys, time
from sansref.cli import main
from sansref.training.loop import Loop
original, calls = Loop.save, itertools.count(1)

def waiting(*arguments):
    if next(calls) == 5:
        time.sleep(240)
    original(*arguments)

Loop.save = waiting
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def heads(write_heads, tmp_path_factory) -> Path:
    return write_heads(tmp_path_factory.mktemp("four"), subjects=4)


@pytest.fixture(scope="module")
def whole(heads, tmp_path_factory, rows) -> Path:
    """A run that nothing interrupts."""
    run = tmp_path_factory.mktemp("whole") / "run"
    main(command(heads, run))
    assert [(row["stage"], row["epoch"]) for row in rows(run)] == [(s, e) for s in "012" for e in "012"]
    return run


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_once_ends_the_same(heads, tmp_path, whole, point, killed, assert_same_run):
    arguments = command(heads, tmp_path / "run")
    killed(arguments, *POINTS[point])
    assert not (tmp_path / "run" / "model.json").exists()
    main(arguments)
    assert_same_run(tmp_path / "run", whole)


def test_a_run_killed_again_and_again_ends_the_same(heads, tmp_path, whole, killed, assert_same_run):
    arguments = command(heads, tmp_path / "run")
    for point, call in [
        ("sansref.data.scan_store:ArrayWriter.append", 5),
        (SAVE, 1),
        (SAVE, 2),
        (f"{LOOP}Loop.step", 3),
        ("sansref.methods.idr:IDR.refine", 1),
        ("sansref.methods.idr:IDR.refine", 2),
        (f"{LOOP}Loop.step", 3),
        ("sansref.training.stages:write_text", 1),
        ("sansref.training.history:History.add", 2),
        ("shutil:copyfile", 1),
    ]:
        killed(arguments, point, call)
    main(arguments)
    assert_same_run(tmp_path / "run", whole)


def test_an_early_stop_is_the_same_after_a_kill(heads, tmp_path, killed, rows, assert_same_run):
    # A learning rate that moves nothing: no epoch is better than the first, and patience ends every stage.
    settings = [
        "--schedule",
        "plateau",
        "--learning_rate",
        "1e-30",
        "--patience",
        "1",
        "--epochs",
        "6",
        "--network.symmetry",
        "0",
    ]
    main(command(heads, tmp_path / "whole", *settings))
    assert [(row["stage"], row["epoch"]) for row in rows(tmp_path / "whole")] == [(s, e) for s in "012" for e in "01"]
    arguments = command(heads, tmp_path / "run", *settings)
    killed(arguments, "sansref.training.stages:write_text", 1)
    killed(arguments, SAVE, 1)
    killed(arguments, "sansref.training.stages:write_text", 1)
    main(arguments)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def wait_for_epochs(run: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(read_history(run / "metrics.csv")) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_new_process_goes_on_after_a_kill_from_outside(heads, tmp_path, assert_same_run):
    arguments = command(heads, tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-c", WAITING, *arguments], stderr=subprocess.DEVNULL)
    wait_for_epochs(tmp_path / "run", 4)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    main(arguments)
    main(command(heads, tmp_path / "whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, ["sansref: stopped; the same command goes on where it was"]),
        (signal.SIGTERM, 143, []),
    ],
)
def test_signals_end_a_run_as_they_end_any_program_and_it_goes_on(
    heads, tmp_path, whole, number, code, said, forked, assert_same_run
):
    arguments = command(heads, tmp_path / "run")
    epochs = itertools.count(1)
    child = forked(arguments, SAVE, lambda *_: next(epochs) == 3 and time.sleep(240), tmp_path / "stderr")
    wait_for_epochs(tmp_path / "run", 2)
    os.kill(child, number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
    lines = (tmp_path / "stderr").read_text().splitlines()
    assert [line for line in lines if not line.startswith("IDR stage ")] == said
    assert not (tmp_path / "run" / "model.json").exists()
    main(arguments)
    assert_same_run(tmp_path / "run", whole)
