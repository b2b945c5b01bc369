"""One fit: the training of one stage, resumable at every epoch."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader, Dataset, Subset

from sansref.data.store import ArrayStore
from sansref.errors import FileError, SettingError
from sansref.memory import keep_freed_memory
from sansref.methods import Method, collate
from sansref.scan import Scan
from sansref.training.batches import ExampleSet, ShapeBatches, ValidationItem, ValidationSet
from sansref.training.callbacks import CheckHealth, History, KeepBest, KeepLast, ResumePoint, ShowProgress, Snapshots
from sansref.training.loop import Loop
from sansref.training.options import TrainingOptions
from sansref.training.processes import ALONE, Processes, environment_plugins
from sansref.training.progress import Progress


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


@dataclass(frozen=True)
class StageResult:
    """How a stage ended: the validation score of the weights kept, and the epoch (from 0) that they are from."""

    score: float
    epoch: int


class _EpochClock(pl.Callback):
    """Tell data set and sampler which epoch it is; counted over all stages so that no stream repeats."""

    def __init__(self, examples: ExampleSet, batches: ShapeBatches, first_epoch: int) -> None:
        self._fed = (examples, batches)
        self._first = first_epoch
        self._set(0)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Worker processes are started, with copies of the data set, before Lightning announces the first epoch.
        self._set(checkpoint["epoch"] + 1)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._set(trainer.current_epoch)

    def _set(self, epoch: int) -> None:
        for fed in self._fed:
            fed.epoch = self._first + epoch


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
    processes: Processes = ALONE,
) -> StageResult:
    """Train a method for one stage; after a kill, go on from the last finished epoch.

    Parameters
    ----------
    method
        Trained in place; at the end it holds the last weights, those to be used are in ``files.best``.
    scans, shapes
        Training scans, and the coils, height and width of each.
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

    Raises
    ------
    TrainingError
        If the loss is not finite, or the method says that training has failed.
    """
    examples = ExampleSet(method, scans, options.seed, options.repeats, targets, options.mirror)
    batches = ShapeBatches(
        list(shapes) * options.repeats, options.batch_size, options.seed, processes.rank, processes.count
    )
    # A learning rate that is still to fall promises better scores than the last few epochs had.
    patience = options.patience if options.schedule == "plateau" else options.epochs
    kept = KeepLast(files.best) if options.keep == "last" else KeepBest(files.best, patience)
    trainer = _trainer(
        options,
        method.idle_parameters,
        [
            _EpochClock(examples, batches, stage * options.epochs),
            ShowProgress(progress, stage),
            History(files.history, stage),
            CheckHealth(),
            kept,
            *([Snapshots(files.folder)] if options.snapshots else []),
            ResumePoint(files.resume_point),
        ],
    )
    files.folder.mkdir(parents=True, exist_ok=True)
    if options.workers:
        _ = examples[0], validation[0]  # an impossible setting is one line here, and a traceback from a worker
    resume = _readable(files.resume_point) if files.resume_point.exists() else None
    with warnings.catch_warnings(), _signals(trainer):
        # Reading memory-mapped scans takes microseconds: worker processes would only compete for the cores.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")  # Lightning's own call of a PyTorch function
        trainer.fit(
            Loop(method, options, batches, stage),
            DataLoader(examples, batch_sampler=batches, collate_fn=collate, num_workers=options.workers),
            DataLoader(_shared_out(validation, processes), batch_size=None, num_workers=options.workers),
            ckpt_path=resume,
            weights_only=True,
        )
    processes.wait()  # for the leader's last file
    return StageResult(kept.score, kept.epoch)


def _readable(checkpoint: Path) -> Path:
    """Refuse a damaged file here, where Lightning would end in a traceback; like it, execute nothing that is in it."""
    cure = "Restore the file, or remove it to begin the stage anew"
    if not checkpoint.is_file():
        raise FileError(checkpoint, "is no regular file", cure)
    try:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        if not found.keys() >= {"epoch", "state_dict", "optimizer_states", "loops", "callbacks"}:
            raise ValueError("its parts are missing")
    except Exception as error:  # a damaged archive makes PyTorch raise errors of almost any type
        raise FileError(checkpoint, f"is no state of a training ({type(error).__name__})", cure) from None
    return checkpoint


def _shared_out(validation: ValidationSet, processes: Processes) -> Dataset[ValidationItem]:
    """A process's part; all of it where there is not a scan for each, since every process has to score something."""
    everything = range(len(validation))
    if len(everything) < processes.count:
        return validation
    return Subset(validation, everything[processes.rank :: processes.count])


def _trainer(options: TrainingOptions, idle: bool, callbacks: list[pl.Callback]) -> pl.Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    keep_freed_memory()
    try:
        return pl.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy="auto" if options.processes == 1 else DDPStrategy(find_unused_parameters=idle),
            plugins=environment_plugins(),
            precision=options.precision,
            max_epochs=options.epochs,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:
        raise SettingError(
            f"accelerator {options.accelerator!r} with precision {options.precision!r} cannot be used here"
            f" ({' '.join(str(error).split())}): use --accelerator auto"
        ) from None


@contextmanager
def _signals(trainer: pl.Trainer) -> Iterator[None]:
    """Leave on Ctrl-C and on SIGTERM as any program does.

    Lightning answers the one with exit code 1 and deaf ears for a second Ctrl-C, the other with exit code 0, which
    would tell a job scheduler that training has ended well.
    """
    try:
        yield
    except SystemExit as error:
        if trainer.received_sigterm:
            sys.exit(128 + signal.SIGTERM)
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise  # a method's own, with what it has to say
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
