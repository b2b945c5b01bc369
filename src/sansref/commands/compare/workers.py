"""Who works off the cells: this process, several side by side, or a Ray cluster."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread

import torch
from rich.console import Console

from sansref.commands.compare.cells import Failure, Outcomes, attempt, is_trained
from sansref.commands.compare.plan import Cell
from sansref.commands.compare.workplace import Workplace
from sansref.commands.ray import connected, unseen
from sansref.errors import SettingError, TrainingError
from sansref.machine import usable_cores


def train_all(place: Workplace, jobs: int, address: str | None, console: Console) -> None:
    """Train all cells that are not trained yet.

    A cell that fails does not stop the others. A cell is locked while a process works on it, so that commands on one
    folder, or a node of a cluster that was given up too early, never train it twice.

    Parameters
    ----------
    place
        The comparison.
    jobs
        Cells side by side, each with its share of the processor's cores where its settings name no number of threads.
    address
        Of a Ray cluster whose nodes all see the comparison's folder: HOST:PORT, or "auto" for the one that this
        machine belongs to, or "local" to start one here; None works without Ray.
    console
        Where progress is drawn.

    Raises
    ------
    SettingError
        If ``jobs`` is less than 1 or given with ``address``, or there is no such cluster.
    TrainingError
        If cells have failed, naming them.
    """
    if jobs < 1 or (jobs > 1 and address is not None):
        raise SettingError(f"jobs must be at least 1, and exactly 1 on a Ray cluster, got {jobs}")
    cells = place.plan.cells
    waiting = [cell for cell in cells if not is_trained(place, cell)]
    if not waiting:
        return
    console.out(f"{len(waiting)} of {len(cells)} cells to train, each with its own log.txt", highlight=False)
    if address is not None:
        outcomes = on_cluster(place, waiting, address, console)
    elif jobs > 1:
        outcomes = _side_by_side(place, waiting, jobs)
    else:
        outcomes = ((cell, attempt(place, cell, console)) for cell in waiting)
    # Closed at once, whatever ends the loop: what works elsewhere must not outlive it.
    with closing(outcomes):
        failed = list(_reported(outcomes, len(waiting), console))
    if failed:
        raise TrainingError(
            f"{len(failed)} of {len(waiting)} cells failed, the others are kept ({'; '.join(failed)}): the same command"
            " goes on with them; where a setting is at fault, change it and remove the cell's folder"
        )


def _reported(outcomes: Outcomes, total: int, console: Console) -> Iterator[str]:
    """Print each outcome; gives the failed ones."""
    for number, (cell, failure) in enumerate(outcomes, start=1):
        if failure is not None and failure.trace:
            console.out(failure.trace, highlight=False)
        state = "trained" if failure is None else f"failed: {failure.problem}"
        console.out(f"{number}/{total} {cell.name} {state}", highlight=False)
        if failure is not None:
            yield f"{cell.name}: {failure.problem}"


def _side_by_side(place: Workplace, cells: Sequence[Cell], jobs: int) -> Outcomes:
    """One process per cell: one that dies, for want of memory for instance, takes no other with it."""
    if sys.platform == "win32":
        raise SettingError(f"--jobs {jobs} needs Linux or macOS: leave it out to train the cells one after the other")
    jobs = min(jobs, len(cells))
    threads = max(1, usable_cores() // jobs)
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])  # PyTorch is imported once, not once per cell
    queue = iter(cells)
    running: dict[Connection, tuple[BaseProcess, Cell]] = {}
    try:
        while True:
            for cell in islice(queue, jobs - len(running)):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(place, cell, threads, sender), name=cell.name)
                running[receiver] = process, cell
                process.start()
                sender.close()
            if not running:
                return
            ready = wait(list(running))
            for receiver in [receiver for receiver in running if receiver in ready]:
                ended, cell = running[receiver]
                failure = _heard(ended, receiver)
                del running[receiver]
                yield cell, failure
    finally:
        for left, _ in running.values():
            _kill(left)


def _work(place: Workplace, cell: Cell, threads: int, sender: Connection) -> None:
    """What a process of its own does for a cell."""
    # Out of reach of the terminal's Ctrl-C, which the parent answers for all, and with its helpers easy to kill.
    os.setsid()
    Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    sender.send(attempt(place, cell, Console(quiet=True)))


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _heard(process: BaseProcess, receiver: Connection) -> Failure | None:
    """What a process says about its cell at its end, or how it came to die."""
    try:
        failure: Failure | None = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = ", perhaps because memory ran out: then use fewer --jobs" if code == -signal.SIGKILL else ""
        failure = Failure(f"its process {cause}{hint}")
    _kill(process)
    receiver.close()
    return failure


def _kill(process: BaseProcess) -> None:
    """End a process and those that it has started; what it has written stays whole."""
    if process.is_alive() and process.pid:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


RETRIES = 3
"""How often a cluster tries a cell again whose node or process has died."""

PATIENCE = 120.0
"""Seconds to wait for a cell that a lost node still works on: file servers keep the locks of a dead machine for 90."""


def on_cluster(place: Workplace, cells: Sequence[Cell], address: str, console: Console) -> Outcomes:
    """Hand cells to a cluster, which tries those of a node that dies again on another.

    Parameters
    ----------
    place, cells
        What; all nodes must see its folders.
    address
        HOST:PORT, "auto" or "local".
    console
        Where the cluster is described.

    Raises
    ------
    SettingError
        If Ray is not installed, or the cluster does not answer.
    """
    full = place.full and place.full.resolve()  # nodes have other working directories
    place = replace(place, data=place.data.resolve(), full=full, out=place.out.resolve())
    place.out.mkdir(parents=True, exist_ok=True)
    with connected(address) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = ([int(node.get(kind, 0)) for node in nodes] for kind in ("CPU", "GPU"))
        console.out(f"Ray cluster of {len(nodes)} nodes, {sum(cpus)} CPUs, {sum(gpus)} GPUs", highlight=False)
        task, waiting = ray.remote(max_retries=RETRIES)(_attempt_on_node), {}
        for cell in cells:
            wish = cell.config.machine
            asked = 1 if wish.threads == "auto" else wish.threads
            threads = max(1, min(asked, max(cpus)))  # more than any node has would be waited for without end
            gpu = int(sum(gpus) > 0 and wish.accelerator != "cpu")
            waiting[task.options(num_cpus=threads, num_gpus=gpu).remote(place, cell)] = cell
        try:
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                cell = waiting.pop(done)
                try:
                    yield cell, ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    yield cell, Failure("a node could not start it: every node needs the same software", str(error))
                except ray.exceptions.RayError as error:
                    yield cell, Failure(f"its node or process died {RETRIES + 1} times ({type(error).__name__})")
        finally:
            for left in waiting:
                ray.cancel(left, force=True)


def _attempt_on_node(place: Workplace, cell: Cell) -> Failure | None:
    if problem := unseen((place.out, place.data, place.full)):
        return Failure(problem)
    torch.set_num_threads(1)
    return attempt(place, cell, Console(quiet=True), PATIENCE)
