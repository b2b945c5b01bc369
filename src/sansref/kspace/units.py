"""The record of a partition of the acquired samples, and its units: single points or whole columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.grid import Shape

Unit = Literal["point", "column"]


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """A split of the acquired samples Omega.

    Attributes
    ----------
    input
        bool (height, width), what the network is given: Theta of SSDU, the intersection of Lambda and Omega of IDR.
    target
        bool (height, width), what the loss sees. May overlap ``input``.
    selected
        float32 (height, width), the probability q that a location, if acquired, is in ``input``.
    """

    input: Tensor
    target: Tensor
    selected: Tensor

    def disjoint(self) -> Partition:
        """The same input, and as target only what is not in it."""
        return replace(self, target=self.target & ~self.input)


def in_units(acquired: Tensor, unit: Unit, split: Callable[[Tensor], Partition]) -> Partition:
    """Split the points, or the columns as the points of a plane with a single row.

    Parameters
    ----------
    acquired
        bool (height, width).
    unit
        For columns, all of a column must be acquired or none, within the rows that are acquired at all.
    split
        Splits a bool plane (height or 1, width).

    Raises
    ------
    SettingError
        If a column is only partly acquired.
    """
    plane_shape(acquired)
    if unit not in ("point", "column"):
        raise ValueError(f"unit must be 'point' or 'column', got {unit!r}")
    if unit == "point":
        return split(acquired)
    rows, columns = acquired.any(1, keepdim=True), acquired.any(0, keepdim=True)
    if not torch.equal(acquired, rows & columns):
        raise SettingError("some columns are only partly acquired: split this mask by points, not by columns")
    line = split(columns)
    return Partition(
        input=line.input & acquired,
        target=line.target & acquired,
        selected=line.selected.expand(acquired.shape).clone(),
    )


def check_fraction(fraction: float) -> None:
    """Refuse, with a SettingError, to split off nothing or everything."""
    if not 0 < fraction < 1:
        raise SettingError(f"a part of {fraction:g} of the acquired samples is impossible: give one between 0 and 1")


def plane_shape(acquired: Tensor) -> Shape:
    """Height and width of ``acquired``; ValueError if it is not bool (height, width)."""
    if acquired.ndim != 2 or acquired.dtype != torch.bool:
        raise ValueError(f"acquired must be bool (height, width), got {acquired.dtype} {tuple(acquired.shape)}")
    return acquired.shape[0], acquired.shape[1]
