"""What every method is: networks, the examples it makes of scans, its updates, and a way to reconstruct."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Generic, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from sansref.kspace.measurement import Measurement
from sansref.methods.examples import AnyBatch
from sansref.metrics.held_out import held_out_error
from sansref.networks.reconstructor import NetworkOptions
from sansref.randomness import seeded
from sansref.scan import Scan

Options = TypeVar("Options", default=Any)


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


class Sample(NamedTuple):
    """What a method makes a training example of.

    Attributes
    ----------
    scan
        An undersampled scan; with its reference only for a method that needs ``PAIRED`` scans.
    refined
        Its refined k-space, complex64 (coils, height, width), from an earlier stage; None in the first.
    full
        A full scan of somebody else, of the same height and width, for a method that needs ``UNPAIRED`` scans.
    """

    scan: Scan
    refined: Tensor | None = None
    full: Scan | None = None


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

    @property
    def unfrozen(self) -> list[nn.Parameter]:
        """The parameters that the loss is differentiated for: all but those that do not require it."""
        return [parameter for parameter in self.parameters if parameter.requires_grad]


class Update(NamedTuple):
    """One update that a method asks for: the turn to move, the loss to lower, and its parts, for the log."""

    turn: Turn
    loss: Tensor
    parts: Mapping[str, Tensor]


class Method(nn.Module, ABC, Generic[Options, AnyBatch]):
    """How networks learn to reconstruct.

    A method owns its networks and knows nothing of the training loop. It is built from its network and its options,
    dataclasses of ``network_type`` and ``options_type``, and, if it learns from undersampled scans alone, from the
    :class:`~sansref.kspace.masks.family.MaskFamily` of their masks. ``needs`` decides what the data layer hands over: a
    method that declares ``UNDERSAMPLED`` never meets a reference. ``stages`` is how often it is fitted; before each
    fit but the first the training data are refined, and the fit begins with the best weights so far if ``warm_start``
    is true, with new ones if not. ``relative`` is true where every image is put on a scale of its own, so that scores
    must not compare absolute values. ``denoises`` is true where it takes noise out of acquired samples. ``independent``
    is false where the image of a scan depends on those that it shares a batch with. ``defaults`` are the settings whose
    default is another one for this method, by their whole names.
    """

    needs: ClassVar[Needs]
    options_type: ClassVar[type[Any]]
    network_type: ClassVar[type[Any]] = NetworkOptions
    defaults: ClassVar[Mapping[str, Any]] = {}
    relative: bool = False
    denoises: bool = False
    independent: bool = True
    stages: int = 1
    warm_start: bool = True
    options: Options

    @property
    @abstractmethod
    def turns(self) -> Sequence[Turn]:
        """The updates of one step, in order."""

    @abstractmethod
    def examples(self, sample: Sample, draw: Draw) -> list[AnyBatch]:
        """Make training examples of a scan, see :mod:`sansref.methods.examples`.

        Parameters
        ----------
        sample
            The scan, and what else the data layer hands over.
        draw
            Random streams.
        """

    @abstractmethod
    def step(self, batch: AnyBatch) -> Iterator[Update]:
        """Yield the updates of one training step.

        The loop moves the turn's parameters down the gradient of the loss before it asks for the next update, so that
        what stands behind a ``yield`` meets the moved weights.
        """

    @abstractmethod
    def reconstruct(self, given: Measurement) -> Tensor:
        """Reconstruct complex images (batch, height, width)."""

    def validation_error(self, given: Measurement, measured: Tensor, held_out: Tensor, density: Tensor) -> Tensor:
        """The reference-free score of a batch of one, by which epochs and stages are chosen.

        Parameters
        ----------
        given
            The network's input, without the samples that are held out.
        measured
            All acquired k-space, complex (1, coils, height, width).
        held_out
            bool (1, height, width).
        density
            Probability of acquisition, float (height, width).
        """
        return held_out_error(self.reconstruct(given), measured, held_out, given.maps, density).mean()

    def failure(self, parts: Mapping[str, float]) -> str | None:
        """Say what has gone wrong, from an epoch's means of what :meth:`step` logs; None if nothing has."""
        return None

    def refine(self, given: Measurement) -> Tensor:
        """Refined k-space (batch, coils, height, width) of scans, from what was acquired of them.

        Only methods with more than one stage have it.
        """
        raise NotImplementedError(f"{type(self).__name__} has one stage and refines nothing")
