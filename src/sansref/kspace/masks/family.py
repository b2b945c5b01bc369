"""Masks like the one a scan was acquired with: their density, and further masks of their kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sansref.kspace.grid import Shape, central_mask, is_columns
from sansref.kspace.masks.mask import SamplingMask, estimated_density, order_sample, reached
from sansref.kspace.partitions import never_held_out, shape_of
from sansref.randomness import seeded

# This many masks of 256 x 256 take 32 MiB.
_REMEMBERED = 512
_FILLED = 0.95  # share of the samples from which on a part of k-space counts as full


class MaskFamily:
    """The law behind the acquired masks.

    Parameters
    ----------
    draw
        Draws a mask of the law. None where the law is unknown, as for scans that came undersampled: then the
        density is estimated from each scan's own mask and masks are drawn from that.
    seed
        Of the masks drawn.
    withheld
        Share of the acquired samples outside the center that the masks handed in lack, since they are held out of
        training to validate on. Densities are of what is left; masks drawn are those of whole scans.
    """

    def __init__(
        self,
        draw: Callable[[Shape, torch.Generator], SamplingMask] | None = None,
        seed: int = 0,
        withheld: float = 0.0,
    ) -> None:
        self._draw = draw
        self._seed = seed
        self._withheld = withheld
        self._others: dict[tuple[object, int], Tensor] = {}
        self._densities: dict[object, Tensor] = {}

    def density(self, acquired: Tensor, calibration: int = 0) -> Tensor:
        """Probability that the law acquires each location, float32 (height, width).

        Of a Poisson-disc law, and of masks whose law is unknown, it is estimated from one mask.

        Parameters
        ----------
        acquired
            Mask, bool (height, width).
        calibration
            Side of the square around DC that is not withheld either, see :class:`sansref.scan.ScanMeta`.
        """
        key = self._key(acquired), calibration
        return remembered(self._densities, key, lambda: self._density(acquired, calibration))

    def _density(self, acquired: Tensor, calibration: int) -> Tensor:
        shape = shape_of(acquired)
        if self._draw is None:
            return estimated_density(acquired, is_columns(acquired))
        density = self._draw(shape, seeded(self._seed, "density")).density
        if self._withheld == 0:
            return density
        rows, columns = never_held_out(shape, least=calibration)
        spared = central_mask(shape, (shape[0] if is_columns(acquired) else rows, columns))
        return torch.where(spared, density, (1 - self._withheld) * density)

    def another(self, acquired: Tensor, number: int) -> Tensor:
        """Draw a further mask of the same kind, bool (height, width); the same for the same ``number``."""
        return remembered(self._others, (self._key(acquired), number), lambda: self._draw_another(acquired, number))

    def _draw_another(self, acquired: Tensor, number: int) -> Tensor:
        generator = seeded(self._seed, "pool", number)
        if self._draw is not None:
            return self._draw(shape_of(acquired), generator).array
        line = acquired.any(0, keepdim=True)
        if is_columns(acquired) and not self._is_filled(line):
            return self._like(line, generator) & acquired.any(1, keepdim=True)
        return self._like(acquired, generator)

    def _like(self, acquired: Tensor, generator: torch.Generator) -> Tensor:
        whole = remembered(self._densities, (self._key(acquired), "whole scans"), lambda: self._whole(acquired))
        return order_sample(whole, round(float(whole.sum())), generator)

    def _whole(self, acquired: Tensor) -> Tensor:
        within = reached(acquired)
        # If nothing lacks where partial Fourier reaches, only a mask that reaches elsewhere, too, leaves anything out.
        within = torch.ones_like(within) if self._is_filled(acquired[within]) else within
        density = estimated_density(acquired, acquired.shape[0] == 1, within=within)
        return (density.double() / (1 - self._withheld)).clamp(max=1)

    def _is_filled(self, acquired: Tensor) -> bool:
        return float(acquired.double().mean()) >= _FILLED * (1 - self._withheld)

    def _key(self, acquired: Tensor) -> object:
        shape = shape_of(acquired)
        return shape if self._draw is not None else (shape, np.packbits(acquired.numpy()).tobytes())


def remembered(known: dict[Any, Tensor], key: object, make: Callable[[], Tensor], most: int = _REMEMBERED) -> Tensor:
    """What is made for a key, once, as long as there are not too many of them."""
    if key not in known:
        if len(known) >= most:  # memory is bounded where every scan has a mask of its own
            known.clear()
        known[key] = make()
    return known[key]
