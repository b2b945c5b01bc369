"""Commands that are killed in the middle, and the comparison of what they leave with a run that was not."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.forks import fork
from sansref.cli import main
from sansref.training.history import read_history


def _insert(point: str, act: Callable[..., object]) -> None:
    """Let something happen before every call of a function in this process; it is told the arguments."""
    module, _, name = point.partition(":")
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, last)

    def preceded(*arguments: Any, **names: Any) -> Any:
        act(*arguments)
        return original(*arguments, **names)

    setattr(owner, last, preceded)


def _forked(arguments: list[str], point: str, act: Callable[..., object], stderr: Path = Path(os.devnull)) -> int:
    def play() -> None:
        _insert(point, act)
        main(arguments)

    return fork(play, stderr)


def _killed(arguments: list[str], point: str, call: int, file: str | None = None) -> None:
    calls = itertools.count(1)

    def kill(*given: Any) -> None:
        if file in (None, *(one.name for one in given if isinstance(one, Path))) and next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    _, status = os.waitpid(_forked(arguments, point, kill), 0)
    assert os.WIFSIGNALED(status), f"{point} was not called {call} times"
    assert os.WTERMSIG(status) == signal.SIGKILL


def _rows(run: Path) -> list[dict[str, str]]:
    return [
        {name: value for name, value in row.items() if name != "seconds"} for row in read_history(run / "metrics.csv")
    ]


def _assert_same_run(run: Path, whole: Path) -> None:
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert _rows(run) == _rows(whole)
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (run, whole)]
    assert names[0] == names[1]  # nothing half-written is left


@pytest.fixture(scope="session")
def forked() -> Callable[..., int]:
    """Play a command in a child process, acting before each call of a function; a fork spares the imports."""
    return _forked


@pytest.fixture(scope="session")
def killed() -> Callable[..., None]:
    """Play a command that must kill itself when a function is called for the so-manieth time, or so with one file."""
    return _killed


@pytest.fixture(scope="session")
def rows() -> Callable[[Path], list[dict[str, str]]]:
    """The log of a run, but for the seconds that its epochs took."""
    return _rows


@pytest.fixture(scope="session")
def assert_same_run() -> Callable[[Path, Path], None]:
    """A run has the model, to the last byte, the log and the files of another."""
    return _assert_same_run
