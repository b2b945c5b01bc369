"""What happens at the end of an epoch: keep the best model, write the log row, write the point to resume from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from safetensors.torch import save

from sansref.files import atomic_path, csv_text, write_bytes, write_text
from sansref.training.history import read_history
from sansref.training.loop import Loop
from sansref.training.progress import Progress


class KeepBest(pl.Callback):
    """Save the method whenever its validation score is the best of the stage; stop when it stays worse.

    Parameters
    ----------
    path
        safetensors file, replaced atomically.
    patience
        Epochs without a better score before training stops.
    """

    def __init__(self, path: Path, patience: int) -> None:
        self._path = path
        self._patience = patience
        self.score = float("inf")
        self.epoch = -1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the epoch's score with the best so far."""
        assert isinstance(pl_module, Loop)
        score = float(trainer.callback_metrics["score"])
        if score < self.score:
            self.score, self.epoch = score, trainer.current_epoch
            _save_method(pl_module, self._path)
        elif trainer.current_epoch - self.epoch >= self._patience:
            trainer.should_stop = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if the run was killed between its early stop and the end of the stage."""
        if 0 <= self.epoch <= trainer.current_epoch - 1 - self._patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"score": self.score, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.score, self.epoch = state_dict["score"], state_dict["epoch"]


class KeepLast(KeepBest):
    """Save the method after every epoch, whatever its score."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, patience=0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the epoch for the best."""
        self.score = float("inf")
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """There is no early stop."""


class CheckHealth(pl.Callback):
    """Stop when the method says that training has failed, before the failed epoch replaces the last good one."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask the method.

        Raises
        ------
        TrainingError
            With what the method says.
        """
        assert isinstance(pl_module, Loop)
        parts = {name: float(value) for name, value in trainer.callback_metrics.items()}
        problem = pl_module.method.failure(parts)
        if problem is not None:
            raise pl_module.failed(problem)


class Snapshots(pl.Callback):
    """Save the method after every epoch, as ``epoch-NNN.safetensors``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save."""
        assert isinstance(pl_module, Loop)
        _save_method(pl_module, snapshot_file(self._folder, trainer.current_epoch))


class ResumePoint(pl.Callback):
    """Save the complete training state at the end of every epoch; must be the last callback."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write beside, then rename: a kill in between leaves the previous point whole."""
        if pl_module.global_rank == 0:
            with atomic_path(self._path, parents=False) as temporary:
                trainer.save_checkpoint(temporary)
        else:
            trainer.save_checkpoint(self._path)  # writes nothing, but all processes must come together


class History(pl.Callback):
    """One CSV row per epoch, the same after a kill and a restart as without.

    Parameters
    ----------
    path
        The run's CSV file, shared by all stages.
    stage
        Written in each row.
    """

    def __init__(self, path: Path, stage: int) -> None:
        self._path = path
        self._stage = stage
        self._rows: list[dict[str, str]] = []
        self._started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget rows of epochs that will be trained again."""
        here = (self._stage, trainer.current_epoch)
        self._rows = [row for row in read_history(self._path) if (int(row["stage"]), int(row["epoch"])) < here]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write all rows again: the file is small, and never half written."""
        assert isinstance(pl_module, Loop)
        values = {name: f"{float(value):.6g}" for name, value in sorted(trainer.callback_metrics.items())}
        self._rows.append(
            {
                "stage": str(self._stage),
                "epoch": str(trainer.current_epoch),
                **values,
                "learning_rate": f"{pl_module.learning_rate:.6g}",
                "seconds": f"{time.perf_counter() - self._started:.3f}",
            }
        )
        if pl_module.global_rank != 0:
            return
        names = list(self._rows[-1])
        rows = [names, *([row.get(name, "") for name in names] for row in self._rows)]
        write_text(self._path, csv_text(rows), parents=False)


class ShowProgress(pl.Callback):
    """Move the progress bar."""

    def __init__(self, progress: Progress, stage: int) -> None:
        self._progress = progress
        self._stage = stage

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Place the bar where a resumed stage goes on."""
        self._progress.start_stage(self._stage, trainer.current_epoch)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """One step further."""
        self._progress.step()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch's numbers."""
        metrics = trainer.callback_metrics
        self._progress.epoch(trainer.current_epoch + 1, float(metrics["loss"]), float(metrics["score"]))


def snapshot_file(folder: Path, epoch: int) -> Path:
    """Where :class:`Snapshots` keeps an epoch of a stage."""
    return folder / f"epoch-{epoch:03d}.safetensors"


def _save_method(loop: Loop, path: Path) -> None:
    if loop.global_rank != 0:
        return
    # A run that is removed meanwhile is not trained for hours, into a folder that would lack the rest of it.
    with loop.applied():
        write_bytes(path, save(loop.method.state_dict()), parents=False)
