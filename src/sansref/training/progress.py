"""Progress of a whole run on the terminal: one bar over all stages, with the time left."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from math import inf
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn, track
from rich.progress import Progress as RichProgress

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


def with_bar(items: Iterable[Item], title: str, count: int, console: Console | None) -> Generator[Item]:
    """Draw a bar while ``count`` items are gone through, if the console is a terminal."""
    hidden = console is None or not console.is_terminal
    yield from items if hidden else track(items, escape(title), count, console=console, transient=True)


class Progress:
    """Bar, stage, epoch, loss, score and remaining time of one training run.

    Parameters
    ----------
    title
        Stands before the bar, for example the method's name.
    stages, epochs, steps
        Stages, epochs per stage at most, steps per epoch.
    console
        Where to draw; the standard error stream by default. Without a terminal a line per epoch is printed
        instead of a bar.
    beside
        Stands behind each score, such as the score of another method.
    best
        The best score of earlier epochs, where a training goes on.
    """

    def __init__(
        self,
        title: str,
        stages: int,
        epochs: int,
        steps: int,
        console: Console | None = None,
        beside: str = "",
        best: float = inf,
    ) -> None:
        self._beside = f" ({beside})" if beside else ""
        self._stages, self._epochs, self._steps = stages, epochs, steps
        self._stage = 0
        self._best = best
        self._title = title
        self._console = console or Console(stderr=True)
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=stages * epochs * steps)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._bar.update(self._task, completed=self._stages * self._epochs * self._steps)
        self._bar.stop()

    def say(self, line: str) -> None:
        """Show, and log, something about the whole run."""
        self._console.print(line, highlight=False)
        logger.info(line)

    def start_stage(self, stage: int, epoch: int) -> None:
        """Place the bar at the start of an epoch: a resumed or shortened run jumps."""
        self._stage = stage
        self._bar.update(self._task, completed=(stage * self._epochs + epoch) * self._steps)

    def step(self) -> None:
        """One training step is done."""
        self._bar.advance(self._task)

    def epoch(self, epoch: int, loss: float, score: float) -> None:
        """Show the numbers of an epoch that has ended."""
        self._best = min(self._best, score)
        stage = f"stage {self._stage + 1}/{self._stages} " if self._stages > 1 else ""
        where = f"{self._title} {stage}epoch {epoch}/{self._epochs}"
        said = f"{where} score {score:.4f}{self._beside}"
        self._bar.update(self._task, description=said)
        if not self._console.is_terminal:
            self._console.print(said, highlight=False)
        logger.info("%s loss %.4g score %.5g best %.5g", where, loss, score, self._best)
