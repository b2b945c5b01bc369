"""What networks are given, and what methods learn from: single scans, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sansref.kspace.views import View
from sansref.scan import Scan


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


def seen(given: Measured, view: View) -> Measured:
    """What a network would be given of the same scan, mirrored or conjugate."""
    maps = None if given.maps is None else view.image(given.maps)
    return Measured(view.kspace(given.kspace), view.mask(given.mask), maps)


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

    @property
    def size(self) -> int:
        """Scans in the batch."""
        return self.weight.shape[0]

    def seen(self, view: View) -> Example:
        """The example that the same data, mirrored or conjugate, would have given."""
        return Example(seen(self.given, view), view.kspace(self.target), view.mask(self.weight))

    @classmethod
    def stacked(cls, examples: Sequence[Example]) -> Example:
        """Stack examples of one shape along a new batch axis."""
        return cls(
            stack([example.given for example in examples]),
            torch.stack([example.target for example in examples]),
            torch.stack([example.weight for example in examples]),
        )


class Translation(NamedTuple):
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
        """Images of each domain in the batch."""
        return self.undersampled.shape[0]

    @classmethod
    def stacked(cls, examples: Sequence[Translation]) -> Translation:
        """Stack examples of one shape along a new batch axis."""
        return cls(
            torch.stack([example.undersampled for example in examples]),
            torch.stack([example.full for example in examples]),
            torch.stack([example.mask for example in examples]),
            torch.stack([example.noise for example in examples]),
            _stacked_coils([example.coils for example in examples]),
            _stacked_coils([example.full_coils for example in examples]),
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


Batch = Example | Translation


def collate(groups: Sequence[Sequence[Batch]]) -> Batch:
    """Stack the examples of several scans, all of one kind and shape, into a batch."""
    examples: list[Any] = [example for group in groups for example in group]
    batch: Batch = type(examples[0]).stacked(examples)
    return batch


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
