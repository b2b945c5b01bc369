"""The reference-free score: the error on acquired samples held out from the network's input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sansref.kspace.cartesian import Cartesian
from sansref.kspace.grid import central_mask, full_center, is_columns, is_full
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.kspace.partitions import Unit, hold_out, never_held_out, shape_of
from sansref.randomness import seeded
from sansref.scan import Scan

Reconstruct = Callable[[Measurement], Tensor]
"""From samples (batch) to complex images (batch, height, width)."""


COLUMNS_WANTED = "Let columns be the phase-encoding direction, as --axes column,row does for a transposed array"
"""Cure of scans that leave out whole rows."""

ROWS_TOLD = "neighbours in a row tell what is held out, so that held-out errors are too small"
"""What is wrong with them."""


def held_out_mask(scan: Scan, fraction: float, seed: int, item: int, spare_full: bool = False) -> Tensor:
    """Choose the acquired samples of a scan, number ``item``, that its score is computed on, bool (height, width).

    Whole columns of a 1-D mask: single samples would be easy to guess from their neighbours along the readout. None of
    those that the coil maps were estimated from, which the network's input knows by them. With ``spare_full``, none of
    a full scan: a method that only denoises it never predicts a sample.
    """
    if spare_full and is_full(scan.mask):
        return torch.zeros_like(scan.mask)
    unit: Unit = "column" if is_columns(scan.mask) else "point"
    generator, spared = seeded(seed, "held out", item), scan.meta.calibration
    return hold_out(scan.mask, fraction, generator, least=spared, unit=unit).target


def held_out_folds(scan: Scan, count: int, seed: int, among: Tensor | None = None) -> list[Tensor]:
    """Divide the acquired samples of a scan at random into folds to be held out one after the other.

    Whole columns of a 1-D mask. What :func:`held_out_mask` leaves alone stays, as far as no sample is missing around
    DC: where some are, others have to stand for them.

    Parameters
    ----------
    scan
        With or without reference; its slice's number is part of the seed.
    count
        Of the folds; there are fewer where there are fewer samples, or columns, and none without any.
    seed
        Of the division.
    among
        Samples that may be held out, bool (height, width), whole columns of a 1-D mask; None is all of them.

    Returns
    -------
    list
        Disjoint, bool (height, width) each, of equal size but for one sample or column.
    """
    shape, columns = shape_of(scan.mask), is_columns(scan.mask)
    rows, across = map(min, full_center(scan.mask), never_held_out(shape))
    spared = central_mask(shape, (max(rows, scan.meta.calibration), max(across, scan.meta.calibration)))
    if columns:
        spared = spared.any(0).expand(shape)
    divided = scan.mask & ~spared if among is None else scan.mask & ~spared & among
    units = divided.any(0) if columns else divided.flatten()
    places = units.nonzero().flatten()
    order = places[torch.randperm(len(places), generator=seeded(seed, "folds", scan.meta.slice))]
    folds = []
    for part in order.tensor_split(min(count, len(order))) if len(order) else ():
        fold = torch.zeros_like(units)
        fold[part] = True
        folds.append(fold.expand(shape) & divided if columns else fold.view(shape))
    return folds


def reachable(scan: Scan, density: Tensor) -> Tensor:
    """Where a law may acquire (its ``density``, or a mask, is not 0), and a zero-padded scan reached, bool."""
    found = density > 0
    if scan.meta.columns is None:
        return found
    first, stop = scan.meta.columns
    columns = torch.arange(scan.mask.shape[1])
    return found & (columns >= first) & (columns < stop)


@dataclass(frozen=True)
class HeldOut:
    """Which samples of scans are held out, to score reconstructions from the others.

    Attributes
    ----------
    share
        Share of the acquired samples outside the center.
    seed
        Seed of the choice.
    family
        Masks of the scans' kind, by whether the scans were undersampled here, by a law that is known.
    """

    share: float
    seed: int
    family: Callable[[bool], MaskFamily]

    def score(self, reconstruct: Reconstruct, scan: Scan, item: int) -> float:
        """Score a reconstruction of scan number ``item``, whose reference is not looked at.

        Parameters
        ----------
        reconstruct
            From samples (batch of one) to a complex image (1, height, width).
        scan, item
            See :func:`held_out_mask`.
        """
        held_out = held_out_mask(scan, self.share, self.seed, item)
        given = scan.restricted(~held_out).batch()
        density = self.family(scan.meta.emulated).density(scan.mask)
        return float(held_out_error(reconstruct(given), scan.kspace[None], held_out[None], given.maps, density))


def held_out_error(
    image: Tensor, measured: Tensor, held_out: Tensor, maps: Tensor | None = None, density: Tensor | None = None
) -> Tensor:
    r"""Normalised squared error of an image on samples that its reconstruction did not see.

    .. math:: \sum_{k \in V} w_k |(F S x)_k - y_k|^2 \Big/ \sum_{k \in V} w_k |y_k|^2, \qquad w_k = 1 / p_k

    With ``density`` p each held-out sample stands for the 1/p locations of its kind (Horvitz and Thompson's
    estimator), so that up to the noise the score estimates the NMSE of the whole image outside the center,
    however unevenly the scanner sampled.

    Parameters
    ----------
    image
        Reconstruction from the samples outside ``held_out``, complex (batch, height, width).
    measured
        Acquired k-space, complex (batch, coils, height, width).
    held_out
        bool (batch, height, width), a subset of the acquired samples.
    maps
        Coil sensitivity maps, complex (batch, coils, height, width), or None.
    density
        The probability with which each location is acquired, float (height, width) or
        (batch, height, width); None weights all held-out samples alike.

    Returns
    -------
    Tensor
        One value per slice, float (batch,); 0 is perfect, an empty image scores 1.
    """
    weight = held_out.to(image.real.dtype)
    if density is not None:
        weight = weight / density.clamp(min=1e-3)
    weight = weight.unsqueeze(-3)
    predicted = Cartesian(held_out, maps).transform(image)
    error = (weight * (predicted - measured).abs().square()).sum((-3, -2, -1))
    return error / (weight * measured.abs().square()).sum((-3, -2, -1))
