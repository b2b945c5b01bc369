"""The one LightningModule: plays the turns of any method and scores it without a reference."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sansref.errors import TrainingError
from sansref.methods import Example, Method
from sansref.metrics.holdout import held_out_error
from sansref.metrics.quality import nmse
from sansref.training.batches import ValidationItem
from sansref.training.options import TrainingOptions


class Loop(pl.LightningModule):
    """Optimise a method's turns one after the other; validate on held-out samples.

    The learning rate is lowered here, at the end of validation, and not by Lightning's own bookkeeping, so that
    a checkpoint taken at the end of the epoch already holds the scheduler's state.

    Parameters
    ----------
    method
        What is trained.
    options
        How.
    """

    def __init__(self, method: Method, options: TrainingOptions) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.method = method
        self.options = options
        self._scores: list[Tensor] = []

    def configure_optimizers(self) -> tuple[list[Optimizer], list[ReduceLROnPlateau]]:
        """One Adam and one plateau schedule per turn."""
        optimizers = [Adam(turn.parameters, lr=self.options.learning_rate) for turn in self.method.turns]
        schedulers = [
            ReduceLROnPlateau(
                optimizer, mode="min", factor=self.options.plateau_factor, patience=self.options.plateau_patience
            )
            for optimizer in optimizers
        ]
        return list(optimizers), schedulers

    def training_step(self, batch: Example, batch_index: int) -> None:
        """Play every turn once.

        Raises
        ------
        TrainingError
            If a loss is not finite; the checkpoint of the epoch before is still good.
        """
        optimizers = self.optimizers(use_pl_optimizer=True)
        for turn, optimizer in zip(self.method.turns, _listed(optimizers), strict=True):
            loss, parts = self.method.loss(turn.name, batch)
            if not torch.isfinite(loss):
                raise self._diverged(f"the loss of turn {turn.name!r}", float(loss.detach()))
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            size = batch.weight.shape[0]
            self.log("loss", loss.detach(), on_step=False, on_epoch=True, batch_size=size)
            self.log_dict(dict(parts), on_step=False, on_epoch=True, batch_size=size)

    def validation_step(self, batch: ValidationItem, batch_index: int) -> None:
        """Score one scan."""
        image = self.method.reconstruct(batch.given)
        if self.options.score == "reference":
            if batch.reference is None:
                raise ValueError("validation against references was asked for, but a scan has none")
            score = nmse(image.abs(), batch.reference.abs())
        else:
            score = held_out_error(image, batch.measured, batch.held_out, batch.given.maps, batch.density)
        self._scores.append(score.mean())

    def on_validation_epoch_end(self) -> None:
        """Average the scores and lower the learning rate on a plateau.

        Raises
        ------
        TrainingError
            If the score is not finite.
        """
        score = torch.stack(self._scores).mean()
        self._scores.clear()
        if not torch.isfinite(score):
            raise self._diverged("the validation score", float(score))
        self.log("score", score)
        for scheduler in _listed(self.lr_schedulers()):
            scheduler.step(float(score))

    def _diverged(self, what: str, value: float) -> TrainingError:
        return TrainingError(
            f"{what} is {value} in epoch {self.current_epoch}: train with a lower --learning_rate into another --out;"
            " the epochs before are kept"
        )

    @property
    def learning_rate(self) -> float:
        """Of the first turn, now."""
        optimizer = _listed(self.optimizers())[0]
        return float(optimizer.param_groups[0]["lr"])


def _listed(value: Any) -> list[Any]:
    """Lightning hands out one thing bare and several in a list."""
    return value if isinstance(value, list) else [value]
