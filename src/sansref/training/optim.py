"""How weights move: the optimiser of a turn, its learning rate, Lookahead, and the mean of the weights at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer, RAdam
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from sansref.methods import Turn
from sansref.training.config import TrainingOptions

LOOKAHEAD_SHARE = 0.5
"""How far slow weights follow the fast ones (alpha in Zhang et al., NeurIPS 2019)."""

COOLDOWN = 0.3
"""The share of all steps, at their end, over which the schedule of that name lets the learning rate fall."""

FINAL_RATE = 1e-7
"""The learning rate at the end of a decay, and RAdam's epsilon: those of ISCL's code."""


def optimizer_of(turn: Turn, options: TrainingOptions) -> Optimizer:
    """The optimiser that moves a turn's parameters, with Lookahead if both turn and options want it."""
    optimizer: Optimizer = (
        RAdam(turn.parameters, lr=options.learning_rate, eps=FINAL_RATE, foreach=True)
        if options.optimizer == "radam"
        else Adam(turn.parameters, lr=options.learning_rate)
    )
    if turn.lookahead and options.lookahead > 0:
        look_ahead(optimizer, options.lookahead)
    return optimizer


def planned_rate(options: TrainingOptions, part: float) -> float:
    """The learning rate after a part of a training, from 0 to 1, where the schedule is to fall by plan."""
    falling = 1.0 if options.schedule == "linear" else COOLDOWN
    least = min(1.0, FINAL_RATE / options.learning_rate)
    return options.learning_rate * max(least, min(1.0, (1 - part) / falling))


def plateau_of(optimizer: Optimizer, options: TrainingOptions) -> ReduceLROnPlateau:
    """The schedule of that name: an optimiser's rate falls when the score has been no better for some epochs."""
    return ReduceLROnPlateau(optimizer, mode="min", factor=options.plateau_factor, patience=options.plateau_patience)


def look_ahead(optimizer: Optimizer, every: int) -> None:
    """Make an optimiser keep slow weights beside its own (Zhang et al., NeurIPS 2019).

    Every ``every`` steps the slow weights move by :data:`LOOKAHEAD_SHARE` towards the optimiser's, which then go on
    from there. The slow weights live in the optimiser's state, so that they are saved and restored with it.

    Parameters
    ----------
    optimizer
        Counts its steps as ``state[parameter]["step"]``, as PyTorch's Adam and RAdam do.
    every
        k in the paper.
    """
    begun: dict[Tensor, Tensor] = {}

    def remember(optimizer: Optimizer, *_: Any) -> None:
        # Not in the state at once: an optimiser takes a parameter with any state for one that it knows.
        for parameter in _moving(optimizer):
            if "slow" not in optimizer.state[parameter]:
                begun[parameter] = parameter.detach().clone()

    def follow(optimizer: Optimizer, *_: Any) -> None:
        for parameter in _moving(optimizer):
            state = optimizer.state[parameter]
            if parameter in begun:
                state["slow"] = begun.pop(parameter)
            if int(state["step"]) % every == 0:
                state["slow"].lerp_(parameter.detach(), LOOKAHEAD_SHARE)
                parameter.data.copy_(state["slow"])

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(follow)


def _moving(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from (parameter for parameter in group["params"] if parameter.grad is not None)


class WeightMean(nn.Module):
    """The mean of some parameters over the steps since it was begun (Izmailov et al., UAI 2018).

    A module, so that a checkpoint of its owner holds it.

    Parameters
    ----------
    parameters
        To be averaged; they stay the owner's.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self._live = [nn.ParameterList(parameters)]  # in a list, which hides it from this module's own state
        self.mean = AveragedModel(self._live[0]).requires_grad_(False)

    @property
    def begun(self) -> bool:
        """Whether there is anything to use."""
        return int(self.mean.n_averaged) > 0

    def update(self) -> None:
        """Take in the parameters as they are now."""
        self.mean.update_parameters(self._live[0])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the mean in the parameters' place while the block runs; nothing changes before the mean is begun."""
        if not self.begun:
            yield
            return
        live = list(self._live[0].parameters())
        kept = [parameter.detach().clone() for parameter in live]
        _copy(list(self.mean.module.parameters()), live)
        try:
            yield
        finally:
            _copy(kept, live)


@torch.no_grad()
def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    for old, new in zip(source, target, strict=True):
        new.copy_(old)
