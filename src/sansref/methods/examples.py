"""What methods learn from: examples of one kind, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor
from typing_extensions import TypeVar

from sansref.kspace.measurement import Measurement, View


class Batch(Protocol):
    """A training example, without or with a leading batch axis."""

    @property
    def size(self) -> int:
        """Number of scans in the batch."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        ...

    @classmethod
    def stacked(cls, examples: Sequence[Self]) -> Self:
        """Stack examples of one shape along a new batch axis."""
        ...


AnyBatch = TypeVar("AnyBatch", bound=Batch, default=Any)


def collate(groups: Sequence[Sequence[AnyBatch]]) -> AnyBatch:
    """Stack the examples of several scans, all of one kind and shape, into a batch."""
    examples = [example for group in groups for example in group]
    return type(examples[0]).stacked(examples)


class KspaceExample(NamedTuple):
    """One training example of a method that maps samples to samples.

    Attributes
    ----------
    given
        The network's input.
    target
        K-space to be met, complex64 ``(batch, coils, *samples)``.
    weight
        Weight of each sample's squared error, float32 ``(batch, *samples)``; 0 where there is no target.
    """

    given: Measurement
    target: Tensor
    weight: Tensor

    @property
    def size(self) -> int:
        """Number of scans in the batch."""
        return self.weight.shape[0]

    def to(self, device: torch.device) -> KspaceExample:
        """The same on another device."""
        return KspaceExample(self.given.to(device), self.target.to(device), self.weight.to(device))

    def seen(self, view: View) -> KspaceExample:
        """The example that the same data, mirrored or conjugate, would have given."""
        return KspaceExample(self.given.seen(view), view.kspace(self.target), view.mask(self.weight))

    @classmethod
    def stacked(cls, examples: Sequence[KspaceExample]) -> KspaceExample:
        """Stack examples of one shape along a new batch axis."""
        given, targets, weights = zip(*examples, strict=True)
        return cls(Measurement.stacked(given), torch.stack(targets), torch.stack(weights))


class ImagePair(NamedTuple):
    """One training example of a method that translates images between two domains.

    Attributes
    ----------
    undersampled
        Zero-filled image in [-1, 1], float32 (batch, channels, height, width).
    full
        Full image: of somebody else, or, for supervised learning, of the same scan.
    mask
        Samples that were acquired of ``undersampled``, bool (batch, height, width).
    noise
        Standard normal numbers, for the code of a switchable generator, float32 (batch, 64).
    coils, full_coils
        What the coils see of either image, complex64 (batch, coils, height, width): their maps, for magnitudes times
        the phase that the image gets; None for one coil.
    """

    undersampled: Tensor
    full: Tensor
    mask: Tensor
    noise: Tensor
    coils: Tensor | None = None
    full_coils: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of images of each domain in the batch."""
        return self.undersampled.shape[0]

    def to(self, device: torch.device) -> ImagePair:
        """The same on another device."""
        return ImagePair(*(None if value is None else value.to(device) for value in self))  # type: ignore[arg-type]

    @classmethod
    def stacked(cls, examples: Sequence[ImagePair]) -> ImagePair:
        """Stack examples of one shape along a new batch axis."""
        undersampled, full, mask, noise, coils, full_coils = zip(*examples, strict=True)
        return cls(
            torch.stack(undersampled),
            torch.stack(full),
            torch.stack(mask),
            torch.stack(noise),
            _stacked_coils(coils),
            _stacked_coils(full_coils),
        )


def _stacked_coils(coils: Sequence[Tensor | None]) -> Tensor | None:
    """Along a new batch axis; the number of coils may differ, since coils that see nothing make no difference."""
    known = [one for one in coils if one is not None]
    if not known:
        return None
    most, plane = max(len(one) for one in known), known[0].shape[-2:]
    stacked = known[0].new_zeros(len(coils), most, *plane)
    for place, one in zip(stacked, coils, strict=True):
        if one is None:
            place[0] = 1
        else:
            place[: len(one)] = one
    return stacked
