"""The processes that train together: one alone, or several on one or more machines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console

from sansref.errors import SansrefError, SettingError
from sansref.training.options import TrainingOptions

Result = TypeVar("Result")


class Processes:
    """One of the processes that train together; the first of them leads.

    Parameters
    ----------
    fabric
        Launched; None for a process that trains alone.
    """

    def __init__(self, fabric: Fabric | None = None) -> None:
        self._fabric = fabric
        self.rank = 0 if fabric is None else fabric.global_rank
        self.count = 1 if fabric is None else fabric.world_size

    @property
    def leader(self) -> bool:
        """Whether this one writes, logs and talks."""
        return self.rank == 0

    def console(self, console: Console | None) -> Console:
        """Where this one draws: the leader on what it is given or the standard error stream, the others nowhere."""
        return (console or Console(stderr=True)) if self.leader else Console(quiet=True)

    def wait(self) -> None:
        """Go on when all have come here."""
        if self._fabric is not None:
            self._fabric.barrier()

    def by_leader(self, task: Callable[[], object]) -> None:
        """Let the leader do a task while the others wait; where it fails, they leave quietly."""
        done = False
        try:
            if self.leader:
                task()
                done = True
        finally:
            if self._fabric is not None:
                done = self._fabric.broadcast(done)
        if not done:
            sys.exit(2)

    def leader_first(self, task: Callable[[], Result]) -> Result:
        """The result of a task that writes what is missing and reads what is there; the others do it after the leader.

        The leader goes on meanwhile: what the others do must not touch what it may be writing by then.
        """
        results: list[Result] = []
        self.by_leader(lambda: results.append(task()))
        return results[0] if self.leader else task()

    def shard(self, count: int) -> range:
        """Its stretch of ``count`` items: stretches follow each other by rank."""
        return range(count * self.rank // self.count, count * (self.rank + 1) // self.count)


ALONE = Processes()


@contextmanager
def together(options: TrainingOptions) -> Iterator[Processes]:
    """Start the other processes, or find those that torchrun or SLURM has started, and lead them to one end.

    Errors of the user, and Ctrl-C, are reported by the leader alone.

    Raises
    ------
    SettingError
        If the processes that were started are not those that the options ask for.
    """
    asked, started = options.processes, _started()
    if asked == 1 and started == 1:
        yield ALONE
        return
    if started not in (1, asked):
        raise SettingError(
            f"this is one of {started} processes, but --devices {options.devices} x --num_nodes {options.num_nodes}"
            f" asks for {asked}: give the number of each node's processes as --devices"
        )
    processes = Processes(_launched(options))
    try:
        yield processes
    except (SansrefError, KeyboardInterrupt) as error:
        if processes.leader:
            raise
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 2)
    finally:
        torch.distributed.destroy_process_group()


def environment_plugins() -> list[Any] | None:
    """SLURM without Lightning's own requeuing.

    That would write a checkpoint of its own and prefer it to ours, in whatever stage the next job begins.
    """
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None


def _started() -> int:
    """How many processes of this training there are already."""
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            return environment().world_size()
    return 1


def _launched(options: TrainingOptions) -> Fabric:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        fabric = Fabric(
            accelerator=options.accelerator,
            strategy="ddp",
            devices=options.devices,
            num_nodes=options.num_nodes,
            plugins=environment_plugins(),
        )
        fabric.launch()
    except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:
        raise SettingError(
            f"{options.devices} device(s) on {options.num_nodes} node(s) cannot be used here"
            f" ({' '.join(str(error).split())}): lower --devices, or use --accelerator cpu"
        ) from None
    return fabric
