"""The record of a sampling mask, and what a request for one leaves to draw."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.grid import Shape


@dataclass(frozen=True, slots=True, eq=False)
class SamplingMask:
    """Which k-space locations are acquired, and by what law.

    Attributes
    ----------
    array
        bool (height, width), DC at ``n // 2``, True where acquired. Omega in the papers.
    density
        float32 (height, width), the probability with which the law acquires each location, 1 in the full center.
    columns
        True where the mask is 1-D: whole columns (phase-encoding lines, last axis) are acquired or not.
    law
        Name of the law, ``"file"`` for a mask that was read.
    asked
        The acceleration that was asked for; the reached one for a mask that was read.
    """

    array: Tensor
    density: Tensor
    columns: bool
    law: str
    asked: float

    def __post_init__(self) -> None:
        if self.array.ndim != 2 or self.array.dtype != torch.bool:
            raise ValueError(f"array must be bool (height, width), got {self.array.dtype} {tuple(self.array.shape)}")
        if self.density.shape != self.array.shape or self.density.dtype != torch.float32:
            raise ValueError(
                f"density must be float32 {tuple(self.array.shape)}, "
                f"got {self.density.dtype} {tuple(self.density.shape)}"
            )
        if self.columns and not torch.equal(self.array, self.array[:1].expand_as(self.array)):
            raise ValueError("array must have equal rows where columns=True")

    @property
    def acquired(self) -> int:
        """Number of acquired locations."""
        return int(self.array.sum())

    @property
    def reached(self) -> float:
        """The acceleration that the mask really has: all locations over the acquired ones."""
        return self.array.numel() / max(self.acquired, 1)


def check_request(shape: Shape, acceleration: float) -> None:
    """Refuse, with a SettingError, an acceleration that is not a finite number of at least 1."""
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be two positive integers (height, width), got {shape}")
    if not 1 <= acceleration < math.inf:
        raise SettingError(f"an acceleration of {acceleration:g} is impossible: give a number of at least 1, such as 4")


def sample_budget(total: int, full: int, acceleration: float, what: str = "samples") -> int:
    """Number of samples, or of ``what`` else is counted, that the acceleration allows of ``total``.

    Raises ``SettingError`` if the ``full`` ones of the center, or a single sample, are more than that.
    """
    wanted = round(total / acceleration)
    if wanted < max(full, 1):
        need = f"the {full} of the full center" if full else "one"
        largest = math.floor(100 * total / max(full, 1)) / 100
        raise SettingError(
            f"an acceleration of {acceleration:g} leaves {wanted} of {total} {what}, fewer than {need}: "
            f"use an acceleration of at most {largest:g}{' or a smaller center' if full else ''}"
        )
    return wanted
