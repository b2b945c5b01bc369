"""The processes that train together: one alone, or several on one or more machines."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn

from sansref.errors import SettingError, TrainingError
from sansref.machine import device_of, has_fast_bfloat16
from sansref.training.config import MachineOptions, Precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric  # takes twice as long to be imported as PyTorch

Placed = TypeVar("Placed", bound=nn.Module)
Result = TypeVar("Result")


class Processes:
    """One of the processes that train together; the first of them leads.

    Parameters
    ----------
    fabric
        Knows the device, the precision and the other processes.
    workers
        Further processes that make its batches.
    """

    def __init__(self, fabric: Fabric, workers: int = 0) -> None:
        self._fabric, self.workers = fabric, workers
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
            with _linked():
                self._fabric.barrier()

    def summed(self, values: Tensor) -> Tensor:
        """The sum over processes."""
        return self._reduced(values) if self.count > 1 else values

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
        with _linked():
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
                with _linked():
                    done = self._fabric.broadcast(done)
        if not done:
            raise Quiet(2)

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


class Means:
    """Means over an epoch of what each step logs, weighted by its items."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}
        self._items = 0

    def add(self, parts: dict[str, Tensor], items: int) -> None:
        """Take in what one step has logged, scalars, of so many items.

        In half precision a sum would stand still before an epoch is over.
        """
        for name, value in parts.items():
            self._totals[name] = self._totals.get(name, 0) + value.float() * items
        self._items += items

    def over(self, processes: Processes) -> dict[str, float]:
        """The means over all processes, by name."""
        names = sorted(self._totals)
        values = torch.stack([self._totals[name] for name in names])
        *totals, items = processes.summed(torch.cat([values, values.new_tensor([self._items])])).unbind()
        return {name: float(total / items) for name, total in zip(names, totals, strict=True)}


@contextmanager
def together(machine: MachineOptions, precision: Precision = "32-true") -> Iterator[Processes]:
    """Start the other processes, or find those that torchrun or SLURM has started, and lead them to one end.

    Whichever process fails first says why, and all leave with its exit code: 2 after an error of the user's, 130 after
    Ctrl-C, 143 after SIGTERM, as the shell and job schedulers count.

    Raises
    ------
    SettingError
        If the processes that were started are not those that the options ask for, or the machine has no such device.
    TrainingError
        If one of the others has ended without a word, for instance because the system has killed it.
    """
    asked, started = machine.processes, _started()
    with _leaving_on_sigterm():
        if asked == 1 and started == 1:
            yield alone(machine, precision)
            return
        if started not in (1, asked):
            raise SettingError(
                f"{started} processes were started, but --devices {machine.devices} x --num_nodes"
                f" {machine.num_nodes} asks for {asked}: set --devices to the number of processes per node"
            )
        fabric = _fabric(machine, precision, "ddp")
        with _leaving_together(fabric):
            with _possible_here(machine, precision):
                fabric.launch()
            yield Processes(fabric, machine.workers)


@contextmanager
def _linked() -> Iterator[None]:
    """Exchange something with the others while a block runs; gloo and NCCL tell of one that has left as they can."""
    try:
        yield
    except RuntimeError as error:
        problem = str(error).splitlines()[0]
        raise TrainingError(
            f"another process of this training has ended ({problem}): see what it or the system says of it;"
            " the same command goes on where they were"
        ) from None


def alone(machine: MachineOptions | None = None, precision: Precision = "32-true") -> Processes:
    """The process that trains by itself.

    Raises
    ------
    SettingError
        If the machine has no such device, or not in this precision.
    """
    machine = machine or MachineOptions()
    return Processes(_fabric(machine, precision, "auto"), machine.workers)


def real_precision(machine: MachineOptions, precision: Precision) -> Precision:
    """The precision that ``auto`` stands for on this machine; the others stand for themselves."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if _on_cpu(machine) and has_fast_bfloat16() else "32-true"


def precision_note(machine: MachineOptions, precision: Precision) -> str | None:
    """What a user is to know of the precision on this machine: what ``auto`` stands for, or that it is slow."""
    if precision == "auto":
        return f"precision: {real_precision(machine, 'auto')}, of --precision auto"
    if precision == "bf16-mixed" and _on_cpu(machine) and not has_fast_bfloat16():
        return (
            "precision: bf16-mixed can take ten times as long as 32-true on this processor, which has no instructions"
            " for it: use --precision auto"
        )
    return None


def _on_cpu(machine: MachineOptions) -> bool:
    return machine.accelerator in ("auto", "cpu") and device_of(machine.accelerator).type == "cpu"


def _started() -> int:
    """How many processes of this training there are already."""
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            return environment().world_size()
    return 1


def _fabric(machine: MachineOptions, precision: Precision, strategy: str) -> Fabric:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    precision = real_precision(machine, precision)
    with _possible_here(machine, precision), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*fp16 is not supported on CPU")  # an error, below
        fabric = Fabric(
            accelerator=machine.accelerator,
            strategy=strategy,
            devices=machine.devices,
            num_nodes=machine.num_nodes,
            precision=precision,  # type: ignore[arg-type]  # auto was replaced
            # SLURM without requeuing by Fabric: the same command goes on by itself.
            plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
        )
    if precision == "16-mixed" and fabric.device.type == "cpu":
        raise SettingError("precision '16-mixed' needs a GPU: use --precision bf16-mixed or 32-true on a CPU")
    return fabric


@contextmanager
def _possible_here(machine: MachineOptions, precision: Precision) -> Iterator[None]:
    """Tell in one line what Fabric says of devices that the machine does not have."""
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    try:
        yield
    except (MisconfigurationException, ModuleNotFoundError, RuntimeError, ValueError) as error:
        raise SettingError(
            f"{machine.devices} device(s) of accelerator {machine.accelerator!r} on {machine.num_nodes} node(s), with"
            f" precision {precision!r}, cannot be used here ({' '.join(str(error).split())}):"
            " lower --devices, or use --accelerator auto"
        ) from None


# --- leaving together: the first that fails says why, and all have its exit code ---------------------------------

PATIENCE = 5.0
"""Seconds that processes get to leave by themselves when one has failed, before the one that started them ends them."""


class Quiet(SystemExit):
    """Leave without a word: another process has said what is wrong, or is about to."""


@contextmanager
def _leaving_together(fabric: Fabric) -> Iterator[None]:
    """Leave a block of processes that train together, and the group, as the first of them that fails."""
    children: list[subprocess.Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
    try:
        yield
    except BaseException as error:
        theirs, children[:] = list(children), []  # Fabric watches the list, and would kill this process, too
        code = _ended_with(error, fabric.global_rank, fabric.world_size)
        _end(theirs, 0)
        if code is None:
            raise
        raise Quiet(code) from None
    torch.distributed.destroy_process_group()
    _end(children, 60)


def _ended_with(error: BaseException, rank: int, count: int) -> int | None:
    """The exit code to leave with where another process has told of an error; None where this one has to."""
    code = 130 if isinstance(error, KeyboardInterrupt) else 2
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
    if not torch.distributed.is_initialized():
        return None
    store = torch.distributed.distributed_c10d._get_default_store()
    told = f"{rank} {code}"
    try:
        # Whoever writes first tells; the others find what it has written.
        said = "by another" if isinstance(error, Quiet) else store.compare_set("end", "", told).decode()
        torch.distributed.destroy_process_group()  # those that wait for this process wake up, and ask as well
        left, patience = store.add("left", 1), time.monotonic() + PATIENCE
        while rank == 0 and left < count and time.monotonic() < patience:  # the store leaves with the leader
            time.sleep(0.02)
            left = store.add("left", 0)
    except RuntimeError:  # the leader has gone, without a word or after its patience
        return code
    if said == told:
        return None
    return code if isinstance(error, Quiet) else int(said.split()[1])


def _end(children: list[subprocess.Popen[bytes]], patience: float) -> None:
    """Wait for the processes that this one has started, and kill them when patience is over."""
    for child in children:
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def _leaving_on_sigterm() -> Iterator[None]:
    """Let SIGTERM, which ends a program on the spot, raise an exit: files are tidied up, and children ended."""
    theirs = signal.getsignal(signal.SIGTERM)
    if theirs is not signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, theirs)
