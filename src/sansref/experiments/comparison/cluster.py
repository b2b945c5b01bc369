"""Cells on a Ray cluster."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from logging import CRITICAL
from typing import Any

import torch
from rich.console import Console

from sansref.errors import SettingError
from sansref.experiments.comparison.attempt import Failure, Outcomes, attempt
from sansref.experiments.comparison.plan import Cell
from sansref.experiments.comparison.workplace import Workplace

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
    with _connected(address) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = ([int(node.get(kind, 0)) for node in nodes] for kind in ("CPU", "GPU"))
        console.out(f"Ray cluster of {len(nodes)} nodes, {sum(cpus)} CPUs, {sum(gpus)} GPUs", highlight=False)
        task, waiting = ray.remote(max_retries=RETRIES)(_attempt_on_node), {}
        for cell in cells:
            wish = cell.config.training
            threads = max(1, min(wish.threads, max(cpus)))  # more than any node has would be waited for without end
            gpu = int(sum(gpus) > 0 and wish.accelerator != "cpu")
            waiting[task.options(num_cpus=threads, num_gpus=gpu).remote(place, cell)] = cell
        try:
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                cell = waiting.pop(done)
                try:
                    yield cell, ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    yield cell, Failure("a node could not begin with it: it needs the same software", str(error))
                except ray.exceptions.RayError as error:
                    yield cell, Failure(f"its node or process died {RETRIES + 1} times ({type(error).__name__})")
        finally:
            for left in waiting:
                ray.cancel(left, force=True)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster while the block runs; a connection that there was before is used, and left open."""
    try:
        import ray
    except ImportError:
        raise SettingError("Ray is not installed: pip install 'sansref[cluster]'") from None
    if ray.is_initialized():
        yield ray
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        _connect(ray, os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # Ray's own handler ends in a crash
        yield ray
    except SystemExit:
        sys.exit(128 + signal.SIGTERM)  # Ray does not hand on the code
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def _connect(ray: Any, address: str) -> None:
    cure = "give HOST:PORT as 'ray start' shows it, auto, or local"
    found = re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address)
    if not found and address not in ("auto", "local"):
        raise SettingError(f"{address!r} is no address of a Ray cluster: {cure}")
    # Only a few words are exchanged: the scans lie in the folder.
    new = {"include_dashboard": False, "object_store_memory": 100 * 2**20} if address == "local" else {}
    try:
        if found:  # Ray itself would knock for minutes
            socket.create_connection((found[1], int(found[2])), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level=CRITICAL, **new)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise SettingError(f"no Ray cluster at {address!r} ({' '.join(str(error).split())}): {cure}") from None


def _attempt_on_node(place: Workplace, cell: Cell) -> Failure | None:
    for folder in (place.out, place.data, place.full):
        if folder is not None and not folder.exists():
            return Failure(f"{socket.gethostname()} does not see {folder}: all nodes of a cluster must")
    torch.set_num_threads(1)
    return attempt(place, cell, Console(quiet=True), PATIENCE)
