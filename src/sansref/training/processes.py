"""The processes that train together: one alone, or several on one or more machines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from torch import Tensor, nn

from sansref.errors import SansrefError, SettingError
from sansref.training.options import TrainingOptions

Placed = TypeVar("Placed", bound=nn.Module)
Result = TypeVar("Result")


class Processes:
    """One of the processes that train together; the first of them leads.

    Parameters
    ----------
    fabric
        Knows the device, the precision and the other processes.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.rank, self.count = fabric.global_rank, fabric.world_size

    @property
    def device(self) -> torch.device:
        """Where this one computes."""
        return self._fabric.device

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in the precision that the options ask for while a block runs."""
        return self._fabric.autocast()

    def placed(self, module: Placed) -> Placed:
        """A module on this process's device, in its precision, in place."""
        self._fabric.strategy.precision.convert_module(module)
        return module.to(self.device)

    @property
    def leader(self) -> bool:
        """Whether this one writes, logs and talks."""
        return self.rank == 0

    def console(self, console: Console | None) -> Console:
        """Where this one draws: the leader on what it is given or the standard error stream, the others nowhere."""
        return (console or Console(stderr=True)) if self.leader else Console(quiet=True)

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.count > 1:
            self._fabric.barrier()

    def summed(self, values: Tensor) -> Tensor:
        """The sum over processes."""
        return self._reduced(values) if self.count > 1 else values

    def everywhere(self, true: Tensor) -> bool:
        """Whether something is true in all processes."""
        return int(self.summed(true.long())) == self.count

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their mean over processes, in one message.

        A parameter may have no gradient in one process, where a mixture meets a single image, and one in another.
        """
        if self.count == 1:
            return
        known = torch.tensor([float(one.grad is not None) for one in parameters], device=self.device)
        grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        message = self._reduced(torch.cat([known, *(grad.flatten() for grad in grads)]))
        means = torch.split(message[len(known) :] / self.count, [grad.numel() for grad in grads])
        for one, grad, mean, number in zip(parameters, grads, means, message[: len(known)].tolist(), strict=True):
            if number:
                one.grad = mean.view_as(grad)

    def _reduced(self, values: Tensor) -> Tensor:
        reduced: Tensor = self._fabric.all_reduce(values.clone(), reduce_op="sum")  # type: ignore[assignment]
        return reduced

    def by_leader(self, task: Callable[[], object]) -> None:
        """Let the leader do a task while the others wait; where it fails, they leave quietly."""
        done = False
        try:
            if self.leader:
                task()
                done = True
        finally:
            if self.count > 1:
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


@contextmanager
def together(options: TrainingOptions) -> Iterator[Processes]:
    """Start the other processes, or find those that torchrun or SLURM has started, and lead them to one end.

    Errors of the user, and Ctrl-C, are reported by the leader alone.

    Raises
    ------
    SettingError
        If the processes that were started are not those that the options ask for, or the machine has no such device.
    """
    asked, started = options.processes, _started()
    if asked == 1 and started == 1:
        yield alone(options)
        return
    if started not in (1, asked):
        raise SettingError(
            f"this is one of {started} processes, but --devices {options.devices} x --num_nodes {options.num_nodes}"
            f" asks for {asked}: give the number of each node's processes as --devices"
        )
    processes = Processes(_fabric(options, "ddp"))
    try:
        yield processes
    except (SansrefError, KeyboardInterrupt) as error:
        if processes.leader:
            raise
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 2)
    finally:
        torch.distributed.destroy_process_group()


def alone(options: TrainingOptions) -> Processes:
    """The process that trains by itself.

    Raises
    ------
    SettingError
        If the machine has no such device, or not in this precision.
    """
    return Processes(_fabric(options, "auto"))


def _started() -> int:
    """How many processes of this training there are already."""
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            return environment().world_size()
    return 1


def _fabric(options: TrainingOptions, strategy: str) -> Fabric:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        fabric = Fabric(
            accelerator=options.accelerator,
            strategy=strategy,
            devices=options.devices,
            num_nodes=options.num_nodes,
            precision=options.precision,
            # SLURM without requeuing by Fabric: the same command goes on by itself.
            plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
        )
        if strategy != "auto":
            fabric.launch()
    except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:
        raise SettingError(
            f"{options.devices} device(s) of accelerator {options.accelerator!r} on {options.num_nodes} node(s), with"
            f" precision {options.precision!r}, cannot be used here ({' '.join(str(error).split())}):"
            " lower --devices, or use --accelerator auto"
        ) from None
    return fabric
