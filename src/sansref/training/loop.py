"""One fit: the training of one stage, in a loop that reads from top to bottom and resumes at every epoch."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, Subset

from sansref.data.scan_store import ArrayStore
from sansref.errors import FileError, TrainingError
from sansref.files import write_bytes
from sansref.kspace.coils import magnitude_of_sets
from sansref.machine import keep_freed_memory
from sansref.methods import Method, Update, collate
from sansref.methods.examples import AnyBatch
from sansref.metrics.quality import nmse
from sansref.scan import Scan
from sansref.training.batches import ExampleSet, ShapeBatches, ValidationItem, ValidationSet
from sansref.training.config import TrainingOptions
from sansref.training.history import History
from sansref.training.optim import WeightMean, optimizer_of, planned_rate, plateau_of
from sansref.training.processes import Means, Processes
from sansref.training.progress import Progress
from sansref.training.trackers import UNTRACKED, Trackers


@dataclass(frozen=True)
class StageFiles:
    """Where a stage keeps its files."""

    folder: Path
    history: Path

    @property
    def best(self) -> Path:
        """Weights of the stage's best epoch, or of its last if that is to be kept."""
        return self.folder / "best.safetensors"

    @property
    def resume_point(self) -> Path:
        """Complete training state after the last finished epoch."""
        return self.folder / "last.ckpt"

    def snapshot(self, epoch: int) -> Path:
        """Weights of an epoch, with ``--snapshots``."""
        return self.folder / f"epoch-{epoch:03d}.safetensors"


@dataclass(frozen=True)
class StageResult:
    """How a stage ended: the validation score of the weights kept, and the epoch (from 0) that they are from."""

    score: float
    epoch: int


def fit(
    method: Method,
    scans: Sequence[Scan],
    shapes: Sequence[tuple[int, ...]],
    targets: ArrayStore | None,
    validation: ValidationSet,
    options: TrainingOptions,
    files: StageFiles,
    stage: int,
    progress: Progress,
    processes: Processes,
    trackers: Trackers = UNTRACKED,
) -> StageResult:
    """Train a method for one stage; after a kill, go on from the last finished epoch.

    Parameters
    ----------
    method
        Trained in place; at the end it holds the last weights, those to be used are in ``files.best``.
    scans, shapes
        Training scans, and the shape of each: scans of one shape make a batch.
    targets
        Refined k-space per scan, None in a first stage.
    validation
        Scored after every epoch.
    options
        How to train.
    files
        Where to write.
    stage
        From 0.
    progress
        Bar to move.
    processes
        That train together.
    trackers
        That follow the run.

    Raises
    ------
    TrainingError
        If the loss is not finite, or the method says that training has failed.
    """
    keep_freed_memory()
    examples = ExampleSet(method, scans, options.seed, options.repeats, targets, options.mirror)
    batches = ShapeBatches(
        list(shapes) * options.repeats, options.batch_size, options.seed, processes.rank, processes.count
    )
    if processes.workers:
        _ = examples[0], validation[0]  # an impossible setting is one line here, and a traceback from a worker
    training = DataLoader(examples, batch_sampler=batches, collate_fn=collate, num_workers=processes.workers)
    scoring = DataLoader(_shared_out(validation, processes), batch_size=None, num_workers=processes.workers)

    files.folder.mkdir(parents=True, exist_ok=True)
    loop = Loop(method, options, stage, len(batches), processes)
    first = loop.resume(files.resume_point)
    history = History(files.history, stage, first)
    trackers.follow(history.rows)
    progress.start_stage(stage, first)
    for epoch in range(first, options.epochs):
        if loop.patience_is_over(epoch) or (epoch and time_is_over(options, history.rows, processes)):
            break
        # Counted over all stages, so that no random stream repeats.
        examples.epoch = batches.epoch = stage * options.epochs + epoch
        began = time.perf_counter()
        means = loop.train(training, batches.shares(), epoch, progress)
        means["score"] = loop.score(scoring, epoch)
        progress.epoch(epoch + 1, means["loss"], means["score"])
        if processes.leader:
            history.add(epoch, means, loop.learning_rate, time.perf_counter() - began)
        loop.check(means, epoch)
        if loop.keeps(means["score"], epoch):
            loop.save_weights(files.best)
        if options.snapshots:
            loop.save_weights(files.snapshot(epoch))
        if processes.leader:
            loop.save(files.resume_point, epoch)  # a kill before it repeats the epoch
            trackers.follow(history.rows)  # now that the epoch stands
    processes.wait()  # for the leader's last file
    return loop.kept


def computed(updates: Iterator[Update], autocast: Callable[[], AbstractContextManager[Any]]) -> Iterator[Update]:
    """The updates of a step, each computed in the precision of ``autocast``.

    Not the whole step is: optimisers work in full precision between them, and moved weights have to be cast anew.
    """
    while True:
        with autocast():
            update = next(updates, None)
        if update is None:
            return
        yield update


def time_is_over(options: TrainingOptions, rows: Sequence[Mapping[str, str]], processes: Processes) -> bool:
    """Whether the epochs of a log, that of the leader, have taken as long as training may."""
    if options.minutes is None:
        return False
    spent = sum(float(row["seconds"]) for row in rows) if processes.leader else 0.0
    return float(processes.summed(torch.tensor(spent, device=processes.device))) >= 60 * options.minutes


def _shared_out(validation: ValidationSet, processes: Processes) -> Dataset[ValidationItem]:
    """A process's part; all of it where there is not a scan for each, since every process has to score something."""
    everything = range(len(validation))
    if len(everything) < processes.count:
        return validation
    return Subset(validation, everything[processes.rank :: processes.count])


class Loop(Generic[AnyBatch]):
    """A method in training: its optimisers, their schedules, and what is kept of it.

    Parameters
    ----------
    method
        What is trained.
    options
        How.
    stage
        Which stage of the method, from 0.
    steps
        Number of steps in an epoch.
    processes
        That train together.
    """

    def __init__(
        self, method: Method[Any, AnyBatch], options: TrainingOptions, stage: int, steps: int, processes: Processes
    ) -> None:
        self.method = processes.placed(method)
        self.options, self.processes, self.steps = options, processes, steps
        self.all_steps = options.epochs * steps
        # Stages share one schedule: while data are still being refined, the rate has no reason to fall. New weights
        # begin a training of their own.
        self.stage, self.stages = (stage, method.stages) if method.warm_start else (0, 1)
        self.optimizers: dict[str, Optimizer] = {turn.name: optimizer_of(turn, options) for turn in method.turns}
        self.plateaus: dict[str, ReduceLROnPlateau] = {}
        if options.schedule == "plateau":
            self.plateaus = {turn: plateau_of(optimizer, options) for turn, optimizer in self.optimizers.items()}
        self.follow_plan(0)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=options.precision == "16-mixed")
        self.mean: WeightMean | None = None
        if options.average_from is not None:
            self.average_from = options.average_from * options.epochs * steps
            self.mean = WeightMean([weight for turn in method.turns if turn.averaged for weight in turn.parameters])
        self.kept = StageResult(float("inf"), -1)

    def train(
        self, batches: DataLoader[Any], shares: Sequence[float], epoch: int, progress: Progress
    ) -> dict[str, float]:
        """Take every step of an epoch; returns the means of what the method logs."""
        self.method.train()
        logged = Means()
        for step, (batch, share) in enumerate(zip(batches, shares, strict=True), start=epoch * self.steps):
            parts = self.step(batch.to(self.processes.device), share, epoch)
            logged.add(parts, batch.size if share else 0)
            self.follow_plan(step + 1)
            if self.mean is not None and step >= self.average_from:
                self.mean.update()
            progress.step()
        return logged.over(self.processes)

    def step(self, batch: AnyBatch, share: float, epoch: int) -> dict[str, Tensor]:
        """Play every turn of a method once.

        Gradients are averaged over processes; the loss of each counts by its share of the batch, so that the average is
        the gradient of the whole batch also where it does not divide evenly.

        Parameters
        ----------
        batch
            This process's part, on its device.
        share
            Items of this process over the mean of all processes.
        epoch
            For the message.

        Raises
        ------
        TrainingError
            If a loss is not finite; the resume point of the epoch before is still good.
        """
        losses: dict[str, Tensor] = {}
        logged: dict[str, Tensor] = {}
        for turn, loss, parts in computed(self.method.step(batch), self.processes.autocast):
            # Of all processes, or those that are well would wait for ever.
            total = self.processes.summed(loss.detach())
            if not torch.isfinite(total):
                raise failed(f"the loss of turn {turn.name!r} is {float(total)}", epoch)
            optimizer = self.optimizers[turn.name]
            optimizer.zero_grad()
            self.scaler.scale(loss * share).backward(inputs=turn.unfrozen)  # type: ignore[no-untyped-call]
            self.processes.average_gradients(turn.parameters)
            self.scaler.step(optimizer)
            self.scaler.update()
            losses[f"loss_{turn.name}"] = loss.detach()
            logged |= {name: part.detach() for name, part in parts.items()}
        logged["loss"] = torch.stack(list(losses.values())).sum()
        return logged | losses if len(losses) > 1 else logged

    @torch.inference_mode()
    def score(self, items: DataLoader[ValidationItem], epoch: int) -> float:
        """The mean validation score of the weights that would be used.

        Raises
        ------
        TrainingError
            If it is not finite.
        """
        self.method.eval()
        scores = Means()
        with self._applied():
            for item in items:
                scores.add({"score": self._score(item.to(self.processes.device))}, 1)
        score = scores.over(self.processes)["score"]
        if not abs(score) < float("inf"):
            raise failed(f"the validation score is {score}", epoch)
        for plateau in self.plateaus.values():
            plateau.step(score)
        return score

    def _score(self, item: ValidationItem) -> Tensor:
        if self.options.score == "held_out":
            with self.processes.autocast():
                return self.method.validation_error(item.given, item.measured, item.held_out, item.density)
        with self.processes.autocast():
            image = self.method.reconstruct(item.given)
        if item.reference is None:
            raise ValueError("validation against references was asked for, but a scan has none")
        height = item.given.mask.shape[-2]
        return nmse(*(magnitude_of_sets(one.abs(), height) for one in (image, item.reference))).mean()

    def check(self, means: dict[str, float], epoch: int) -> None:
        """Stop where the method says that training has failed, before the epoch replaces the last good one.

        Raises
        ------
        TrainingError
            With what the method says.
        """
        problem = self.method.failure(means)
        if problem is not None:
            raise failed(problem, epoch)

    def keeps(self, score: float, epoch: int) -> bool:
        """Whether the epoch's weights are those to keep: the best so far, or simply the last."""
        better = self.options.keep == "last" or score < self.kept.score
        if better:
            self.kept = StageResult(score, epoch)
        return better

    def patience_is_over(self, epoch: int) -> bool:
        """Whether the score has been no better for too long before this epoch.

        A learning rate that is still to fall promises better scores than the last few epochs had.
        """
        waits = self.options.keep == "best" and self.options.schedule == "plateau"
        return waits and self.kept.epoch >= 0 and epoch - 1 - self.kept.epoch >= self.options.patience

    def follow_plan(self, step: int) -> None:
        """Set the learning rate of a step of the stage, where the schedule is to fall by plan."""
        if self.plateaus:
            return
        rate = planned_rate(self.options, (self.stage + step / self.all_steps) / self.stages)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate

    @property
    def learning_rate(self) -> float:
        """That of the first turn, now."""
        return float(next(iter(self.optimizers.values())).param_groups[0]["lr"])

    def _applied(self) -> AbstractContextManager[None]:
        """The weights that would be used, the mean where there is one, in their place while a block runs."""
        return nullcontext() if self.mean is None else self.mean.applied()

    def save_weights(self, path: Path) -> None:
        """Write the weights that would be used."""
        if self.processes.leader:
            # A run that is removed meanwhile is not trained for hours, into a folder that would lack the rest of it.
            with self._applied():
                write_bytes(path, save(self.method.state_dict()), parents=False)

    def save(self, path: Path, epoch: int) -> None:
        """Write all that it takes to go on behind an epoch; a kill in between leaves the previous point whole."""
        parts = {name: part.state_dict() for name, part in self._parts()}
        state = io.BytesIO()  # where a disk is full, PyTorch raises errors of its own
        torch.save({"epoch": epoch, "kept": vars(self.kept), **parts}, state)
        write_bytes(path, state.getvalue(), parents=False)

    def resume(self, path: Path) -> int:
        """Take up what :meth:`save` wrote, if it is there; returns the epoch to go on with.

        Raises
        ------
        FileError
            If the file is damaged.
        """
        if not path.exists():
            return 0
        try:
            state = torch.load(path, map_location=self.processes.device, weights_only=True)  # executes nothing
            for name, part in self._parts():
                part.load_state_dict(state[name])
            self.kept = StageResult(float(state["kept"]["score"]), int(state["kept"]["epoch"]))
            return int(state["epoch"]) + 1
        except Exception as error:  # a damaged archive makes PyTorch raise errors of almost any type
            cure = "Restore the file, or remove it to begin the stage anew"
            raise FileError(path, f"is not a state of this training ({type(error).__name__})", cure) from None

    def _parts(self) -> Iterator[tuple[str, Any]]:
        yield "method", self.method
        yield "scaler", self.scaler
        for turn, optimizer in self.optimizers.items():
            yield f"optimizer {turn}", optimizer
        for turn, plateau in self.plateaus.items():
            yield f"plateau {turn}", plateau
        if self.mean is not None:
            yield "mean", self.mean


def failed(problem: str, epoch: int) -> TrainingError:
    """The error that ends training because of a problem."""
    return TrainingError(
        f"{problem} in epoch {epoch}: train with a lower --learning_rate into another --out; the epochs before are kept"
    )
