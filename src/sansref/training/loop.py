"""The one LightningModule: plays the turns of any method and scores it without a reference."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from sansref.errors import TrainingError
from sansref.methods import Batch, Method
from sansref.metrics.holdout import held_out_error
from sansref.metrics.quality import nmse
from sansref.training.batches import ShapeBatches, ValidationItem
from sansref.training.optim import COOLDOWN, FINAL_RATE, WeightMean, optimizer_of
from sansref.training.options import TrainingOptions


class Loop(pl.LightningModule):
    """Optimise a method's turns one after the other; validate on held-out samples.

    The learning rate is lowered here, after a step or at the end of validation, and not by Lightning's own bookkeeping,
    so that a checkpoint taken at the end of the epoch already holds the scheduler's state.

    Parameters
    ----------
    method
        What is trained.
    options
        How.
    batches
        What the training batches are made of, if several processes share them.
    stage
        Which stage of the method, from 0.
    """

    def __init__(
        self, method: Method, options: TrainingOptions, batches: ShapeBatches | None = None, stage: int = 0
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.method = method
        self.options = options
        self._stage = stage
        self._batches = batches if batches is not None and batches.processes > 1 else None
        self._shares: list[float] = []
        self.mean: WeightMean | None = None
        if options.average_from is not None:
            self.mean = WeightMean([weight for turn in method.turns if turn.averaged for weight in turn.parameters])
        self._scores: list[Tensor] = []
        self._scoring = ExitStack()
        self._average_after = 0.0

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR | ReduceLROnPlateau]]:
        """One optimiser and one schedule per turn."""
        optimizers = [optimizer_of(turn, self.options) for turn in self.method.turns]
        return optimizers, [self._schedule(optimizer) for optimizer in optimizers]

    def _schedule(self, optimizer: Optimizer) -> LambdaLR | ReduceLROnPlateau:
        options = self.options
        if options.schedule == "plateau":
            return ReduceLROnPlateau(
                optimizer, mode="min", factor=options.plateau_factor, patience=options.plateau_patience
            )
        steps = int(self.trainer.estimated_stepping_batches)
        # New weights begin their own training in each stage.
        stage, stages = (self._stage, self.method.stages) if self.method.warm_start else (0, 1)
        falling = 1.0 if options.schedule == "linear" else COOLDOWN
        least = min(1.0, FINAL_RATE / options.learning_rate)

        def factor(step: int) -> float:
            # Of all stages together: while the data are still being refined, the rate has no reason to fall.
            left = 1 - (stage + step / steps) / stages
            return max(least, min(1.0, left / falling))

        return LambdaLR(optimizer, factor)

    def on_train_start(self) -> None:
        """Work out after which step weights are averaged."""
        self._average_after = (self.options.average_from or 0.0) * float(self.trainer.estimated_stepping_batches)

    def on_train_epoch_start(self) -> None:
        """Work out this process's share of each batch."""
        if self._batches is not None:
            self._shares = self._batches.shares()

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """Play every turn once.

        Gradients are averaged over processes; the loss of each counts by its share of the batch, so that the average is
        the gradient of the whole batch also where it does not divide evenly.

        Raises
        ------
        TrainingError
            If a loss is not finite; the checkpoint of the epoch before is still good.
        """
        optimizers = self.optimizers(use_pl_optimizer=True)
        share = 1.0 if self._batches is None else self._shares[batch_index]
        losses: dict[str, Tensor] = {}
        logged: dict[str, Tensor] = {}
        for turn, optimizer in zip(self.method.turns, _listed(optimizers), strict=True):
            loss, parts = self.method.loss(turn.name, batch)
            if not self._everywhere(torch.isfinite(loss)):
                raise self._diverged(f"the loss of turn {turn.name!r}", float(loss.detach()))
            optimizer.zero_grad()
            self.manual_backward(loss * share)
            optimizer.step()
            self.method.updated(turn.name)
            losses[f"loss_{turn.name}"] = loss.detach()
            logged |= parts
        logged["loss"] = torch.stack(list(losses.values())).sum()
        if len(losses) > 1:
            logged |= losses
        self.log_dict(
            logged,
            on_step=False,
            on_epoch=True,
            batch_size=batch.size if share else 0,
            sync_dist=self._batches is not None,
        )
        for scheduler in _listed(self.lr_schedulers()):
            if isinstance(scheduler, LambdaLR):
                scheduler.step()
        if self.mean is not None:
            step = self.current_epoch * int(self.trainer.num_training_batches) + batch_index
            if step >= self._average_after:
                self.mean.update()

    def applied(self) -> AbstractContextManager[None]:
        """The weights that are used in the end, the mean where there is one, in their place while the block runs."""
        return nullcontext() if self.mean is None else self.mean.applied()

    def on_validation_epoch_start(self) -> None:
        """Score the weights that would be used."""
        self._scoring.enter_context(self.applied())

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
        self._scoring.close()
        score = self._mean_everywhere(torch.stack(self._scores))
        self._scores.clear()
        if not torch.isfinite(score):
            raise self._diverged("the validation score", float(score))
        self.log("score", score, sync_dist=self._batches is not None)
        for scheduler in _listed(self.lr_schedulers()):
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(float(score))

    def _everywhere(self, true: Tensor) -> bool:
        """Whether something is true in all processes."""
        if self._batches is None:
            return bool(true)
        return int(self._summed(true.long())) == self._batches.processes

    def _mean_everywhere(self, values: Tensor) -> Tensor:
        """The mean over the values of all processes, which may have different numbers of them."""
        if self._batches is None:
            return values.mean()
        total, number = self._summed(torch.stack([values.sum(), values.new_tensor(len(values))]))
        return total / number

    def _summed(self, values: Tensor) -> Tensor:
        summed: Tensor = self.trainer.strategy.reduce(values, reduce_op="sum")
        return summed

    def _diverged(self, what: str, value: float) -> TrainingError:
        return self.failed(f"{what} is {value}")

    def failed(self, problem: str) -> TrainingError:
        """The error that ends training because of a problem."""
        return TrainingError(
            f"{problem} in epoch {self.current_epoch}: train with a lower --learning_rate into another --out;"
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
