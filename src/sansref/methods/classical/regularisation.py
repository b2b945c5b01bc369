"""Compressed sensing without learning, its one number chosen without references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite
from typing import Literal, get_args

import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.grid import is_full
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.methods.classical.total_variation import total_variation
from sansref.methods.classical.wavelet import l1_wavelet, pywavelets
from sansref.metrics.held_out import held_out_error
from sansref.metrics.image_error import ImageError
from sansref.randomness import seeded
from sansref.scan import Scan

ClassicalName = Literal["l1_wavelet", "total_variation"]


def classical_names() -> list[ClassicalName]:
    """Names of the classical methods whose packages are installed."""
    try:
        pywavelets()
    except SettingError:
        return ["total_variation"]
    return list(get_args(ClassicalName))


GRID = tuple(10 ** (exponent / 2) for exponent in range(-10, -1))
"""Regularisations that are tried first: 1e-5 to 0.1, two a decade."""


@dataclass(frozen=True)
class Classical:
    """A compressed-sensing reconstruction.

    Parameters
    ----------
    name
        l1_wavelet (FISTA with cycle spinning) or total_variation (ADMM).
    regularisation
        Weight of the prior, as a fraction of each slice's max |E^H y|.
    iterations
        Of the solver.
    seed
        Of the shifts of cycle spinning.

    Raises
    ------
    SettingError
        For an unknown name, an impossible number, or without the package that ``name`` needs.
    """

    name: ClassicalName
    regularisation: float
    iterations: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in get_args(ClassicalName):
            raise SettingError(f"unknown classical method {self.name!r}: use {' or '.join(get_args(ClassicalName))}")
        if not 0 <= self.regularisation < inf:
            raise SettingError(f"regularisation is {self.regularisation}: give a number of at least 0")
        if self.iterations < 1:
            raise SettingError(f"iterations is {self.iterations}: give at least 1")
        if self.name == "l1_wavelet":
            pywavelets()

    @torch.no_grad()
    def reconstruct(self, given: Measurement) -> Tensor:
        """Reconstruct complex images (batch, height, width); each depends on its own samples alone.

        Raises
        ------
        ValueError
            For several coils without maps.
        """
        if self.name == "total_variation":
            return total_variation(given, self.regularisation, self.iterations)
        return l1_wavelet(given, self.regularisation, self.iterations, seeded(self.seed, "cycle spinning"))


@dataclass(frozen=True)
class Choice:
    """A regularisation chosen without references.

    Attributes
    ----------
    regularisation
        The best of those tried.
    error
        What it was chosen by, the mean over scans.
    tried
        All (regularisation, mean error), by regularisation.
    """

    regularisation: float
    error: float
    tried: tuple[tuple[float, float], ...]


def choose_regularisation(
    name: ClassicalName,
    scans: Sequence[Scan],
    held_out: Sequence[Tensor],
    family: MaskFamily,
    grid: Sequence[float] = GRID,
    iterations: int = 100,
    denoise: bool = False,
) -> Choice:
    """Choose the regularisation whose images best predict samples that they were not made from.

    Every scan is reconstructed from its samples outside ``held_out``, and scored by
    :func:`~sansref.metrics.held_out.held_out_error` on those inside. The best of the grid is refined once: the middles,
    on a logarithmic scale, between it and its neighbours are tried too. Of equally good ones the smallest of the grid
    is taken. A scan's reference is never read.

    Of a full scan no sample has to be predicted, and the least regularisation would do that best: its noise decides
    (:class:`~sansref.metrics.image_error.ImageError`), as far as any is known.

    Parameters
    ----------
    name
        As of :class:`Classical`.
    scans
        Undersampled scans, at least one; a few of the subjects that are not for the test.
    held_out
        For each scan, some of its acquired samples, bool (height, width).
    family
        Knows the sampling density, by which the samples are weighted.
    grid
        Positive numbers in increasing order.
    iterations
        Of the solver, as they will be used.
    denoise
        Let the noise of acquired samples decide as well where others are to be predicted.

    Raises
    ------
    SettingError
        For an unknown name or impossible numbers, without the package that ``name`` needs, or for a scan without a
        held-out error since its held-out samples are none, zero or not finite.
    ValueError
        If scans and masks do not belong together, or the grid does not increase.
    FileError
        For several coils without maps.
    """
    if not scans or len(scans) != len(held_out):
        raise ValueError(f"{len(scans)} scans and {len(held_out)} held-out masks: give one mask for each of some scans")
    if not grid or not all(low < high < inf for low, high in pairwise((0, *grid))):
        raise ValueError(f"grid must be positive numbers in increasing order, got {list(grid)}")
    trials = [_Trial.of(scan, mask, family, denoise) for scan, mask in zip(scans, held_out, strict=True)]

    def score(regularisation: float) -> float:
        method = Classical(name, regularisation, iterations)
        return sum(trial.error(method) for trial in trials) / len(trials)

    tried = {value: score(value) for value in grid}
    best = min(tried, key=tried.__getitem__)
    tried |= {value: score(value) for value in _between(best, grid)}
    best = min(tried, key=tried.__getitem__)
    return Choice(best, tried[best], tuple(sorted(tried.items())))


@dataclass(frozen=True)
class _Trial:
    """A scan without some of its samples, as a batch of one, and what these were."""

    source: str
    given: Measurement
    measured: Tensor
    held_out: Tensor
    density: Tensor
    noisy: ImageError | None

    @classmethod
    def of(cls, scan: Scan, held_out: Tensor, family: MaskFamily, denoise: bool) -> _Trial:
        if held_out.shape != scan.mask.shape:
            raise ValueError(
                f"held-out mask {tuple(held_out.shape)} and {scan.meta.source} {tuple(scan.mask.shape)}"
                " are of different planes"
            )
        if bool((held_out & ~scan.mask).any()):
            raise ValueError(f"held-out samples of {scan.meta.source} were not acquired")
        given = scan.restricted(~held_out).batch()
        density, full = family.density(scan.mask), is_full(scan.mask)
        noisy = None
        if full or denoise:
            with suppress(ValueError):  # where no noise is found
                noisy = ImageError(scan, torch.zeros_like(held_out) if full else held_out, density)
        return cls(scan.meta.source, given, scan.kspace[None], held_out[None], density, noisy)

    def error(self, method: Classical) -> float:
        if self.noisy is not None:
            return self.noisy.error(self.noisy.answer(method.reconstruct))
        image = method.reconstruct(self.given)
        error = float(held_out_error(image, self.measured, self.held_out, self.given.maps, self.density))
        if not isfinite(error):
            raise SettingError(
                f"{self.source} has no held-out error (its held-out samples are none, zero or not finite):"
                " leave this scan out, or hold more samples out"
            )
        return error


def _between(best: float, grid: Sequence[float]) -> Iterator[float]:
    """The geometric means of the best number of the grid and its neighbours."""
    place = grid.index(best)
    for neighbour in (*grid[max(place - 1, 0) : place], *grid[place + 1 : place + 2]):
        yield (best * neighbour) ** 0.5
