"""The choice of a zero-shot reconstruction: which samples judge, and what they choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import fmean

from torch import Tensor

from sansref.commands.evaluate import CLASSICAL
from sansref.data.prepare import scaled
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.noise import noise_of, probing_noise
from sansref.metrics.held_out import HeldOut, Reconstruct, held_out_error, held_out_folds, held_out_mask
from sansref.randomness import seeded
from sansref.results.statistics import standard_error
from sansref.scan import Scan

JUDGED = 0.1
"""Share of the acquired samples outside the center that is for judging alone."""

ADDED = 0.3
"""Noise that is added to what a network learns to denoise from, over the scan's own: it tells what is known by heart.
The noise becomes 4 % stronger by it. With less, chance in the judgement grows with the inverse."""

PARTS = 10
"""Parts of the samples for judging, of all slices together, whose errors tell how sure the choice is; at least."""

START, NETWORK, MIXTURE = "start", "network", "mixture"
"""What tables call the learned images: by the weights that training began with, by those that it ended with, and mixed
with compressed sensing."""


NON_LOCAL = "non-local means"
AS_MEASURED = "as measured"
"""What tables call two further images of full scans that are to be denoised."""

UNLEARNED = (*CLASSICAL.values(), NON_LOCAL, AS_MEASURED)
"""What the learned images have to be better than."""


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


def judged_mask(scan: Scan, seed: int, denoises: bool = False) -> Tensor:
    """The acquired samples of a scan that are for judging alone, bool (height, width).

    None of a full scan that is to be denoised, whose samples are judged by their own noise.
    """
    return held_out_mask(scan, JUDGED, seed, scan.meta.slice, spare_full=denoises)


def scaled_without(scan: Scan, judged: Tensor) -> Scan:
    """A scan on the scale of its other samples: not even that tells of those that are for judging."""
    meta = scaled(scan.restricted(~judged)).meta
    factor = meta.scale / scan.meta.scale
    reference = None if scan.reference is None else scan.reference / factor
    return replace(scan, kspace=scan.kspace / factor, reference=reference, meta=meta)


def noisier(scan: Scan, seed: int) -> Scan:
    """A scan with noise of its own law added, :data:`ADDED` times as strong: that is held out from what is learned.

    Raises ``ValueError`` where no noise is known or can be found.
    """
    sigma = noise_of(scan.batch())
    if not bool((sigma > 0).any()):
        raise ValueError(f"none is found in slice {scan.meta.slice}")
    added = probing_noise(ADDED * sigma * scan.mask, seeded(seed, "held-out noise", scan.meta.slice))[0]
    level = scan.meta.noise and tuple((1 + ADDED**2) ** 0.5 * one for one in scan.meta.noise)
    return replace(scan, kspace=scan.kspace + added, meta=replace(scan.meta, noise=level))


def errors_in_parts(reconstruct: Reconstruct, scan: Scan, held_out: HeldOut, item: int, count: int) -> list[float]:
    """The held-out error of scan number ``item`` on ``count`` parts of the samples for judging, or fewer.

    Whole columns stay together, where whole columns are judged: their samples are no independent witnesses.
    """
    judged = held_out_mask(scan, held_out.share, held_out.seed, item)
    given = scan.restricted(~judged).batch()
    image, density = reconstruct(given), held_out.family(scan.meta.emulated).density(scan.mask)
    parts = held_out_folds(scan, count, held_out.seed, judged)
    return [float(held_out_error(image, scan.kspace[None], part[None], given.maps, density)) for part in parts]


def choose(
    errors: Mapping[str, Sequence[float]],
    parts: Mapping[str, Sequence[float]],
    judged: str = "on the samples for judging",
) -> Choice:
    """Choose the method whose images predict the samples for judging best; an unlearned one where that is not sure.

    A learned method must be better than the best of the others by more than the standard error of the difference.

    Parameters
    ----------
    errors
        Held-out error of every slice, by method.
    parts
        The same on parts of the samples, see :func:`errors_in_parts`.
    judged
        What the errors are taken by, in words.
    """
    means = {label: fmean(values) for label, values in errors.items()}
    means = {label: mean for label, mean in means.items() if isfinite(mean)}
    classical = min((label for label in UNLEARNED if label in means), key=means.__getitem__)
    learned = min((label for label in (START, NETWORK, MIXTURE) if label in means), key=means.__getitem__, default=None)
    if learned is None:
        return Choice(classical, f"{classical} was chosen: no network was trained", means)
    told = f"{judged}, the {learned} has the error {means[learned]:.4g}, {classical} "
    told += f"{means[classical]:.4g}"
    gain = means[classical] - means[learned]
    gains = [before - after for before, after in zip(parts[classical], parts[learned], strict=True)]
    unsure = standard_error(gains)
    over = f"; the difference has the standard error {unsure:.2g}, from {len(gains)} parts of these samples"
    if len(gains) < 2:
        over = "; these samples are a single column, which tells nobody how sure the difference is"
    if gain > unsure:
        return Choice(learned, f"the {learned} was chosen: {told}{over}", means)
    tie = ", too little to decide" if gain >= 0 else ""
    return Choice(classical, f"{classical} was chosen: {told}{tie}{over}", means)


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
