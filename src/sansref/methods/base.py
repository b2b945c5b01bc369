"""What every method is: networks, the examples it makes of scans, its losses, and a way to reconstruct."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sansref.methods.batch import Measured
from sansref.networks.build import NetworkOptions
from sansref.randomness import seeded
from sansref.scan import Scan


class Needs(StrEnum):
    """What a method must be given to learn."""

    UNDERSAMPLED = "undersampled"
    UNPAIRED = "unpaired"
    PAIRED = "paired"


@dataclass(frozen=True)
class Draw:
    """The random streams of one training item: the same whatever process or order asks for them."""

    seed: int
    epoch: int
    item: int

    def fresh(self) -> torch.Generator:
        """A stream that differs from epoch to epoch."""
        return seeded(self.seed, "example", self.item, self.epoch)

    def once(self) -> torch.Generator:
        """A stream that stays the same for the whole training."""
        return seeded(self.seed, "example", self.item)


@dataclass(frozen=True)
class Turn:
    """One of the alternating updates of a training step.

    Attributes
    ----------
    name
        As it appears in logs.
    parameters
        What this update moves.
    averaged
        Its weights may be averaged over the end of training (SWA) and used so.
    lookahead
        Its weights may be drawn back towards slow ones (Lookahead).
    """

    name: str
    parameters: Sequence[nn.Parameter]
    averaged: bool = True
    lookahead: bool = False


class Method(nn.Module, ABC):
    """How networks learn to reconstruct.

    A method owns its networks and knows nothing of the training engine. It is built from its network and its
    options, dataclasses of ``network_type`` and ``options_type``, and, if it learns from undersampled scans alone, from
    the :class:`~sansref.kspace.family.MaskFamily` of their masks. ``needs`` decides what the data
    layer hands over: a method that declares ``UNDERSAMPLED`` never meets a reference. ``stages`` is how often
    it is fitted; before each fit but the first the training data are refined, and the fit begins with the best
    weights so far if ``warm_start`` is true, with new ones if not. ``relative`` is true where every image is put on a
    scale of its own, so that scores must not compare absolute values. ``idle_parameters`` is true where some parameters
    have no gradient in some updates, which processes that train together must know. ``training_defaults`` are the
    settings of training that differ for this method.
    """

    needs: ClassVar[Needs]
    options_type: ClassVar[type[Any]]
    network_type: ClassVar[type[Any]] = NetworkOptions
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    relative: bool = False
    idle_parameters: ClassVar[bool] = False
    stages: int = 1
    warm_start: bool = True

    @property
    @abstractmethod
    def turns(self) -> list[Turn]:
        """The updates of one step, in order."""

    @abstractmethod
    def examples(self, scan: Scan, draw: Draw, refined: Tensor | None = None) -> list[Any]:
        """Make training examples of a scan, see :mod:`sansref.methods.batch`.

        A method that needs ``UNPAIRED`` scans takes a fourth argument ``full``, a full scan of somebody else.

        Parameters
        ----------
        scan
            As the data layer hands it over.
        draw
            Random streams.
        refined
            The scan's refined k-space (coils, height, width) from an earlier stage, or None.
        """

    @abstractmethod
    def loss(self, turn: str, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a turn and its parts, for the log."""

    @abstractmethod
    def reconstruct(self, given: Measured) -> Tensor:
        """Reconstruct complex images (batch, height, width)."""

    def updated(self, turn: str) -> None:
        """Called after each update; bring weights back to where they may lie."""

    def failure(self, parts: Mapping[str, float]) -> str | None:
        """Say what has gone wrong, from an epoch's means of what :meth:`loss` logs; None if nothing has."""
        return None

    def refine(self, given: Measured) -> Tensor:
        """Refined k-space (batch, coils, height, width) of scans, from what was acquired of them.

        Only methods with more than one stage have it.
        """
        raise NotImplementedError(f"{type(self).__name__} has one stage and refines nothing")
