"""The choice of a zero-shot reconstruction: which samples judge, and what they choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import fmean, stdev

from torch import Tensor

from sansref.commands.evaluate import CLASSICAL
from sansref.data.prepare import scaled
from sansref.kspace.cartesian import Cartesian
from sansref.metrics.held_out import HeldOut, Reconstruct, held_out_error, held_out_folds, held_out_mask
from sansref.scan import Scan

JUDGED = 0.1
"""Share of the acquired samples outside the center that is for judging alone."""

ONE_SIGMA = 0.8413
"""Share of a normal distribution below one standard deviation."""

PARTS = 10
"""Parts of the samples for judging, of all slices together, whose errors tell how sure the choice is; at least."""

START, NETWORK, MIXTURE = "start", "network", "mixture"
"""What tables call the learned images: by the weights that training began with, by those that it ended with, and mixed
with compressed sensing."""


@dataclass(frozen=True)
class Choice:
    """Which images were written, and why.

    Attributes
    ----------
    label
        Name of the method in tables.
    reason
        A sentence.
    errors
        Mean error on the samples for judging, by method.
    """

    label: str
    reason: str
    errors: Mapping[str, float]


def judged_mask(scan: Scan, seed: int) -> Tensor:
    """The acquired samples of a scan that are for judging alone, bool (height, width)."""
    return held_out_mask(scan, JUDGED, seed, scan.meta.slice)


def scaled_without(scan: Scan, judged: Tensor) -> Scan:
    """A scan on the scale of its other samples: not even that tells of those that are for judging."""
    meta = scaled(scan.restricted(~judged)).meta
    factor = meta.scale / scan.meta.scale
    reference = None if scan.reference is None else scan.reference / factor
    return replace(scan, kspace=scan.kspace / factor, reference=reference, meta=meta)


def errors_in_parts(reconstruct: Reconstruct, scan: Scan, held_out: HeldOut, item: int, count: int) -> list[float]:
    """The held-out error of scan number ``item`` on ``count`` parts of the samples for judging, or fewer.

    Whole columns stay together, where whole columns are judged: their samples are no independent witnesses.
    """
    judged = held_out_mask(scan, held_out.share, held_out.seed, item)
    given = scan.restricted(~judged).batch()
    image, density = reconstruct(given), held_out.family(scan.meta.emulated).density(scan.mask)
    parts = held_out_folds(scan, count, held_out.seed, judged)
    return [float(held_out_error(image, scan.kspace[None], part[None], given.maps, density)) for part in parts]


def choose(errors: Mapping[str, Sequence[float]], parts: Mapping[str, Sequence[float]]) -> Choice:
    """Choose the method whose images predict the samples for judging best; compressed sensing where that is not sure.

    A learned method must be better than the better one of compressed sensing by more than the standard error of the
    difference.

    Parameters
    ----------
    errors
        Held-out error of every slice, by method.
    parts
        The same on parts of the samples, see :func:`errors_in_parts`.
    """
    means = {label: fmean(values) for label, values in errors.items()}
    means = {label: mean for label, mean in means.items() if isfinite(mean)}
    classical = min((label for label in CLASSICAL.values() if label in means), key=means.__getitem__)
    learned = min((label for label in (START, NETWORK, MIXTURE) if label in means), key=means.__getitem__, default=None)
    if learned is None:
        return Choice(classical, f"{classical} was chosen: no network was trained", means)
    told = f"on the samples for judging, the {learned} has the error {means[learned]:.4g}, {classical} "
    told += f"{means[classical]:.4g}"
    gain = means[classical] - means[learned]
    gains = [before - after for before, after in zip(parts[classical], parts[learned], strict=True)]
    unsure = standard_error(gains)
    over = f"; the difference has the standard error {unsure:.2g}, from {len(gains)} parts of these samples"
    if gain > unsure:
        return Choice(learned, f"the {learned} was chosen: {told}{over}", means)
    tie = ", too little to decide" if gain >= 0 else ""
    return Choice(classical, f"{classical} was chosen: {told}{tie}{over}", means)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean, as large as Student's distribution makes it where values are few; 0 for a single one."""
    if len(values) < 2 or not all(map(isfinite, values)):
        return 0.0
    from scipy.stats import t

    few = float(t.ppf(ONE_SIGMA, len(values) - 1))
    return few * stdev(values) / len(values) ** 0.5


def mixing_weight(
    network: Reconstruct, classical: Reconstruct, scans: Sequence[Scan], held_out: HeldOut, items: Sequence[int]
) -> float:
    """The share of the network, in 0..1, whose mixture with another image predicts held-out samples best.

    In closed form: the mean of the slices' normalised squared errors is a parabola in that share.
    """
    above = below = 0.0
    for scan, item in zip(scans, items, strict=True):
        mask = held_out_mask(scan, held_out.share, held_out.seed, item)
        given = scan.restricted(~mask).batch()
        density = held_out.family(scan.meta.emulated).density(scan.mask).clamp(min=1e-3)
        seen = Cartesian(mask[None], given.maps)
        other = seen.transform(classical(given))
        error, difference = other - scan.kspace, other - seen.transform(network(given))
        weight = mask / density
        energy = float((weight * scan.kspace.abs().square()).sum())
        above += float((weight * (error * difference.conj()).real).sum()) / energy
        below += float((weight * difference.abs().square()).sum()) / energy
    share = above / below if below > 0 else 0.0
    return min(max(share, 0.0), 1.0) if isfinite(share) else 0.0
