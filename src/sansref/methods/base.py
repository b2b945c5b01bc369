"""What every method is: networks, the examples it learns from, its losses, and a way to reconstruct."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from sansref.randomness import seeded
from sansref.scan import Scan


class Needs(StrEnum):
    """What a method must be given to learn."""

    UNDERSAMPLED = "undersampled"
    UNPAIRED = "unpaired"
    PAIRED = "paired"


class Measured(NamedTuple):
    """What a network is given: acquired samples, without or with a leading batch axis.

    Attributes
    ----------
    kspace
        complex64 (batch, coils, height, width), zero where ``mask`` is False.
    mask
        bool (batch, height, width).
    maps
        complex64 (batch, coils, height, width) or None.
    """

    kspace: Tensor
    mask: Tensor
    maps: Tensor | None = None

    def to(self, device: torch.device) -> Measured:
        """The same on another device."""
        maps = None if self.maps is None else self.maps.to(device)
        return Measured(self.kspace.to(device), self.mask.to(device), maps)


class Example(NamedTuple):
    """One training example of a method that maps samples to samples.

    Attributes
    ----------
    given
        The network's input.
    target
        K-space to be met, complex64 (batch, coils, height, width).
    weight
        Weight of each location's squared error, float32 (batch, height, width); 0 where there is no target.
    """

    given: Measured
    target: Tensor
    weight: Tensor


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
    """

    name: str
    parameters: Sequence[nn.Parameter]


class Method(nn.Module, ABC):
    """How networks learn to reconstruct.

    A method owns its networks and knows nothing of the training engine. ``needs`` decides what the data
    layer hands over: a method that declares ``UNDERSAMPLED`` never meets a reference. ``stages`` is how often
    it is fitted; before each fit but the first the training data are refined, and the fit begins with the best
    weights so far if ``warm_start`` is true, with new ones if not.
    """

    needs: ClassVar[Needs]
    stages: int = 1
    warm_start: bool = True

    @property
    @abstractmethod
    def turns(self) -> list[Turn]:
        """The updates of one step, in order."""

    @abstractmethod
    def examples(self, scan: Scan, draw: Draw, refined: Tensor | None = None) -> list[Example]:
        """Make training examples of a scan.

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
    def loss(self, turn: str, batch: Example) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a turn and its parts, for the log."""

    @abstractmethod
    def reconstruct(self, given: Measured) -> Tensor:
        """Reconstruct complex images (batch, height, width)."""

    def refine(self, given: Measured, image: Tensor) -> Tensor:
        """Refined k-space (batch, coils, height, width) of scans that were reconstructed as ``image``.

        Only methods with more than one stage have it.
        """
        raise NotImplementedError(f"{type(self).__name__} has one stage and refines nothing")


def collate(groups: Sequence[Sequence[Example]]) -> Example:
    """Stack the examples of several scans, all of one shape, into a batch."""
    examples = [example for group in groups for example in group]
    return Example(
        stack([example.given for example in examples]),
        torch.stack([example.target for example in examples]),
        torch.stack([example.weight for example in examples]),
    )


def stack(given: Sequence[Measured]) -> Measured:
    """Stack the samples of several scans, all of one shape, along a new batch axis."""
    maps = [one.maps for one in given if one.maps is not None]
    if len(maps) not in (0, len(given)):
        raise ValueError(f"{len(maps)} of {len(given)} scans have coil sensitivity maps: all or none must have them")
    return Measured(
        torch.stack([one.kspace for one in given]),
        torch.stack([one.mask for one in given]),
        torch.stack(maps) if maps else None,
    )


def measured(scan: Scan) -> Measured:
    """What a network is given of a scan, without a batch axis.

    Raises
    ------
    FileError
        For several coils without sensitivity maps.
    """
    scan.require_maps()
    return Measured(scan.kspace, scan.mask, scan.maps)
