"""How fully sampled scans are undersampled in emulation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from sansref.errors import SettingError, SizeError, did_you_mean
from sansref.kspace.grid import acquired_columns, is_full
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.masks.file import read_mask
from sansref.kspace.masks.laws import MASK_LAWS, SamplingMask, draw_mask
from sansref.kspace.masks.mask import check_request
from sansref.randomness import seeded
from sansref.scan import Scan


@dataclass(frozen=True)
class Sampling:
    """The sampling of an emulated acquisition.

    Attributes
    ----------
    mask
        A law (variable_density, uniform_random, poisson_disc, random_columns, equispaced_columns) or a mask
        file (.npy, .mat, .png).
    acceleration
        Grid points over acquired samples, the centre included.
    center
        Side of the fully sampled centre as a fraction of the matrix; None takes the law's own default.
    exact
        Reach the acceleration exactly where the law allows it.
    mask_seed
        Of the mask.
    mask_dc
        Where a mask file has its low frequencies; auto finds out.
    mask_per
        One mask for all scans of a shape (dataset), or a new one for each scan (scan).
    """

    mask: str = "variable_density"
    acceleration: float = 4.0
    center: float | None = None
    exact: bool = True
    mask_seed: int = 0
    mask_dc: Literal["auto", "centre", "corner"] = "auto"
    mask_per: Literal["dataset", "scan"] = "dataset"

    def __post_init__(self) -> None:
        check_request((1, 1), self.acceleration)
        if self.mask not in MASK_LAWS:
            if Path(self.mask).suffix.lower() not in (".npy", ".mat", ".png"):
                cure = f"use one of {', '.join(MASK_LAWS)}, or a file"
                raise SettingError(f"unknown mask {self.mask!r}{did_you_mean(self.mask, MASK_LAWS, cure)}")
            # A run goes on, and is used, from other folders than the one that it was started in.
            object.__setattr__(self, "mask", str(Path(self.mask).resolve()))

    def draw(self, shape: tuple[int, int], generator: torch.Generator) -> SamplingMask:
        """Draw a new mask of this law, or read the mask file again."""
        if self.mask in MASK_LAWS:
            return draw_mask(self.mask, shape, self.acceleration, generator, self.center, self.exact)
        found = read_mask(Path(self.mask), height=shape[0], dc=self.mask_dc)
        if tuple(found.array.shape) != shape:
            size = tuple(found.array.shape)
            raise SizeError(f"{self.mask}: the mask is {size}, the scans are {shape}: give another --mask")
        return found

    def family(self, emulated: bool, withheld: float = 0.0) -> MaskFamily:
        """Masks of the kind that scans have.

        Of this law if they were undersampled by it (``emulated``); otherwise, and for a mask file, each scan's
        own mask is all there is to go by. ``withheld`` as for :class:`MaskFamily`.
        """
        known = emulated and self.mask in MASK_LAWS
        return MaskFamily(self.draw if known else None, self.mask_seed, withheld)

    def fixed(self, shape: tuple[int, int]) -> SamplingMask:
        """The one mask that all scans of this shape share."""
        return _fixed(self, shape)

    def undersample(self, scan: Scan, generator: torch.Generator) -> Scan:
        """Keep the samples that the emulated acquisition takes; an undersampled scan stays as it is."""
        if not is_full(scan.mask):
            return scan
        shape = (scan.mask.shape[0], scan.mask.shape[1])
        mask = self.fixed(shape) if self.mask_per == "dataset" else self.draw(shape, generator)
        reached = acquired_columns(scan.mask)
        columns = None if reached == (0, shape[1]) else reached
        return replace(scan.restricted(mask.array), meta=replace(scan.meta, emulated=True, columns=columns))


@lru_cache(maxsize=32)
def _fixed(sampling: Sampling, shape: tuple[int, int]) -> SamplingMask:
    return sampling.draw(shape, seeded(sampling.mask_seed, "mask", *shape))
