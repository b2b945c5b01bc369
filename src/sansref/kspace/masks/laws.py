"""Sampling masks by name: the registry of the laws and the one entry point to them."""

from __future__ import annotations

from typing import Protocol

from torch import Generator

from sansref.errors import SettingError
from sansref.kspace.grid import Shape
from sansref.kspace.masks.columns import equispaced_columns, random_columns
from sansref.kspace.masks.mask import SamplingMask
from sansref.kspace.masks.points import uniform_random, variable_density
from sansref.kspace.masks.poisson import poisson_disc

__all__ = ["MASK_LAWS", "MaskLaw", "SamplingMask", "draw_mask"]


class MaskLaw(Protocol):
    """A sampling law: a plain function that draws a mask."""

    def __call__(
        self, shape: Shape, acceleration: float, generator: Generator, *, center: float = ..., exact: bool = ...
    ) -> SamplingMask:
        """Draw a mask; ``center`` is the fraction of the side that is fully sampled around DC."""
        ...


MASK_LAWS: dict[str, MaskLaw] = {
    "random_columns": random_columns,
    "equispaced_columns": equispaced_columns,
    "uniform_random": uniform_random,
    "variable_density": variable_density,
    "poisson_disc": poisson_disc,
}


def draw_mask(
    law: str,
    shape: Shape,
    acceleration: float,
    generator: Generator,
    center: float | None = None,
    exact: bool = True,
) -> SamplingMask:
    """Draw a sampling mask by the name of its law.

    Parameters
    ----------
    law
        A key of :data:`MASK_LAWS`.
    shape
        Height and width of the k-space grid.
    acceleration
        All samples of the grid over the acquired ones, at least 1; exactly 1 gives a full mask.
    generator
        Source of randomness: the same state gives the same mask.
    center
        Fraction of the side (of each side, in 2-D) that is fully sampled around DC. None is the law's own default:
        0.08 for the column laws and for ``uniform_random``, 24/256 for ``variable_density`` and
        ``poisson_disc``. fastMRI pairs an acceleration of 4 with 0.08 and of 8 with 0.04.
    exact
        Reach the acceleration exactly (up to rounding to whole samples) instead of on average.

    Raises
    ------
    SettingError
        If there is no such law or the request is impossible.
    """
    if law not in MASK_LAWS:
        raise SettingError(f"there is no sampling law {law!r}: choose one of {', '.join(MASK_LAWS)}")
    draw = MASK_LAWS[law]
    if center is None:
        return draw(shape, acceleration, generator, exact=exact)
    return draw(shape, acceleration, generator, center=center, exact=exact)
