"""Cells on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from rich.console import Console

from sansref.commands.compare.cells import Failure, Outcomes, attempt
from sansref.commands.compare.plan import Cell
from sansref.commands.compare.workplace import Workplace
from sansref.commands.ray import connected, unseen

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


def _attempt_on_node(place: Workplace, cell: Cell) -> Failure | None:
    if problem := unseen((place.out, place.data, place.full)):
        return Failure(problem)
    torch.set_num_threads(1)
    return attempt(place, cell, Console(quiet=True), PATIENCE)
