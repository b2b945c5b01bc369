"""The record of a sampling mask, and what a request for one leaves to draw."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.grid import Shape, full_center


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

    def describe(self) -> str:
        """One line: law, size, asked and reached acceleration, sampled fraction, fully sampled center."""
        height, width = self.array.shape
        rows, columns = full_center(self.array)
        asked = "" if self.law == "file" else f"asked {self.asked:g}x, "
        if self.columns:
            sampled, center = f"{self.acquired // height} of {width} columns", f"{columns} columns"
        else:
            sampled, center = f"{self.acquired} of {height * width} samples", f"{rows}x{columns}"
        return (
            f"{self.law} {height}x{width}: {asked}reached {self.reached:.3f}x, "
            f"{sampled} ({1 / self.reached:.1%}), full center {center}"
        )

    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the shape and the packed bits."""
        shape = "x".join(map(str, self.array.shape)).encode()
        return hashlib.sha256(shape + np.packbits(self.array.cpu().numpy()).tobytes()).hexdigest()[:12]


def check_request(shape: Shape, acceleration: float) -> None:
    """Refuse a request that no law can meet.

    Raises
    ------
    SettingError
        If the acceleration is not a finite number of at least 1.
    ValueError
        If ``shape`` is not two positive integers.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be two positive integers (height, width), got {shape}")
    if not 1 <= acceleration < math.inf:
        raise SettingError(f"an acceleration of {acceleration:g} is impossible: give a number of at least 1, such as 4")


def sample_budget(total: int, full: int, acceleration: float, what: str = "samples") -> int:
    """Number of samples (or columns) that the acceleration allows: ``round(total / acceleration)``.

    Parameters
    ----------
    total
        Samples (or columns) of the grid.
    full
        How many of them the fully sampled center takes.
    acceleration
        At least 1.
    what
        What is counted, for the message.

    Raises
    ------
    SettingError
        If the center alone, or a single sample, is more than the budget.
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
