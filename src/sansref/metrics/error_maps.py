"""Where an image may be wrong, without any reference: a bound of its error, and what the scan contradicts.

:mod:`sansref.metrics.error_bound` says how the bound comes about, :mod:`sansref.metrics.contradiction` the other map.
Both are made of reconstructions of the scan without some of its samples, and the bound of reconstructions of scans that
are simulated from the image; the scan's reference, if any, is never looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sansref.errors import FileError, SettingError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.grid import is_rows
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import VIEWS, Measurement, View
from sansref.kspace.noise import estimate_noise, white_noise
from sansref.metrics.contradiction import Region, contradiction_map, missing_signal, regions, robust
from sansref.metrics.error_bound import (
    MAPS_DOUBT,
    NUDGE,
    Energy,
    Estimated,
    error_energy,
    error_shape,
    estimated_psnr,
    noise_doubt,
    two_sided_quantile,
)
from sansref.metrics.held_out import COLUMNS_WANTED, ROWS_TOLD, Reconstruct, held_out_folds, reachable
from sansref.metrics.quality import body_mask
from sansref.randomness import seeded
from sansref.scan import Scan

FIRST_MASK = 1_000_000
"""Number of the first mask that the bootstrap draws: far from those that a method may have learned with."""


@dataclass(frozen=True)
class ErrorMapOptions:
    """How error maps are made.

    Attributes
    ----------
    bound
        Fraction of the pixels whose error should lie below the bound.
    replicates
        Number of replicates of the bootstrap.
    folds
        Number of folds of the acquired samples at most.
    batch
        Reconstructions at once.
    seed
        Seed of folds, masks and noise.

    Raises
    ------
    SettingError
        For an impossible number.
    """

    bound: float = 0.9
    replicates: int = 8
    folds: int = 10
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.bound < 1:
            raise SettingError(f"bound is {self.bound:g}: give a share of the pixels between 0 and 1, such as 0.9")
        if self.replicates < 1 or self.batch < 1 or self.folds < LEAST_FOLDS:
            told = f"got {self.replicates}, {self.batch} and {self.folds}"
            raise SettingError(f"replicates and batch must be at least 1 and folds at least 4, {told}")

    @property
    def reconstructions(self) -> int:
        """How many a slice takes, the image among them."""
        return 2 + self.folds + self.replicates


LEAST_FOLDS = 4


@dataclass(frozen=True)
class ErrorMaps:
    """An image, and where it may be wrong; maps are cropped to the part that is scored and exported.

    Attributes
    ----------
    image
        Complex (height, width), over the whole field of view.
    bound
        The error of the magnitude stays below it in the wanted share of the pixels; float32, in the image's units.
    contradiction
        Standard deviations by which the scan wants more signal than there is, or less; float32.
    regions
        Where that is strong, the strongest first.
    psnr
        In dB, estimated.
    """

    image: Tensor
    bound: Tensor
    contradiction: Tensor
    regions: tuple[Region, ...]
    psnr: Estimated


@torch.inference_mode()
def error_maps(
    reconstruct: Reconstruct,
    scan: Scan,
    family: MaskFamily,
    options: ErrorMapOptions | None = None,
    unseen: Tensor | None = None,
) -> ErrorMaps:
    """Reconstruct a scan and say where the image may be wrong.

    Parameters
    ----------
    reconstruct
        Any method, trained or not; images of one batch must not depend on each other.
    scan
        One or several coils, masks of points or of columns; its reference is not looked at.
    family
        Masks of the scan's kind.
    options
        How the maps are made.
    unseen
        Samples that the method has not learned from, bool (height, width), which alone are held out; None is all, for a
        method that was taught by other scans.

    Returns
    -------
    ErrorMaps
        The same for the same scan, also on another day.

    Raises
    ------
    FileError
        If the scan has too few samples to hold any out or leaves out whole rows, or its coils have no maps.
    """
    options = options or ErrorMapOptions()
    if scan.sets > 1:
        raise SettingError("images with two sets of coil maps (--map_sets 2) have no error maps: leave out --error_map")
    found, folds = estimate_noise(scan.kspace, scan.mask), _folds(scan, options, unseen)
    level = found.level if scan.meta.noise is None else scan.noise_level
    nudge = NUDGE * white_noise(scan.kspace, level, _stream(scan, options, "nudge")).masked_fill(~scan.mask, 0)
    asked = [scan.measurement, replace(scan.measurement, kspace=scan.kspace + nudge)]
    asked += [scan.restricted(~held_out).measurement for held_out in folds]
    images = _in_batches(reconstruct, asked, options.batch)
    coils = Cartesian(scan.mask[None], None if scan.maps is None else scan.maps[None])
    predicted, nudged, *without = (coils.transform(one[None])[0] for one in images)

    residual = _at(folds, [scan.kspace - one for one in without])
    density = family.density(scan.mask).clamp(min=1e-3, max=1 - 1e-6)
    weight = (1 - density) / density
    # Of a complex sample of all coils, and its part that the image follows.
    noise = 2 * float(level.double().square().sum())
    followed = 2 * float((nudge.conj() * (nudged - predicted)).real.double().sum()) / NUDGE**2
    taken = noise * int(scan.mask.sum()) - followed
    missing = int((reachable(scan, family.density(scan.mask)) & ~scan.mask).sum())
    power = residual.abs().double().square().sum(0) - noise
    energy = error_energy(
        acquired=float((predicted - scan.kspace)[:, scan.mask].abs().double().square().sum()) - taken,
        held_out=[power[fold] for fold in folds],
        weights=[weight.double()[fold] for fold in folds],
        missing=missing,
        noise=taken + missing * noise,
        doubt=noise_doubt(found),
        unseen=0.0 if scan.maps is None else MAPS_DOUBT,
    )
    z = contradiction_map(images[0], residual, weight, scan.maps)
    # Of few samples, what they want is too noisy to tell a peak.
    wanted = None if unseen is not None else missing_signal(images[0], residual, weight, scan.maps)
    return _maps(
        scan, images[0], z, wanted, _replicates(reconstruct, scan, images[0], level, family, options), energy, options
    )


def _maps(
    scan: Scan,
    image: Tensor,
    z: Tensor,
    wanted: Tensor | None,
    replicates: Tensor,
    energy: Energy,
    options: ErrorMapOptions,
) -> ErrorMaps:
    body = body_mask(image.abs())
    shape = scan.meta.cropped(error_shape(image, replicates, body))
    safe, error = ((one * shape).sqrt() for one in (energy.safe, energy.value))
    # In air, image and residual are of the same noise, and their phases with them: z would be of one sign.
    z = scan.meta.cropped(torch.where(body, z, 0.0))
    return ErrorMaps(
        image,
        (two_sided_quantile(options.bound) * safe).float(),
        z,
        tuple(regions(z, scan.meta.cropped(body))),
        estimated_psnr(*_peak(scan.meta.cropped(image.abs()), error, wanted, scan, body), error, energy.spread),
    )


def _peak(image: Tensor, error: Tensor, wanted: Tensor | None, scan: Scan, body: Tensor) -> tuple[float, float]:
    """The largest magnitude of the truth, and how far it may be off, as a part of it.

    Networks dim the brightest pixels: there, what the scan wants more is added. Without it the image's own is taken.
    """
    at = image.argmax()
    peak, aside = image.flatten()[at], error.flatten()[at]
    if wanted is not None:
        peak = torch.maximum(peak + scan.meta.cropped(wanted).flatten()[at], peak / 2)
        aside = robust(wanted[body])[1]
    return float(peak), float(aside / peak.clamp(min=1e-15))


def _stream(scan: Scan, options: ErrorMapOptions, purpose: str, *number: int) -> torch.Generator:
    return seeded(options.seed, "error map", purpose, scan.meta.slice, *number)


def _folds(scan: Scan, options: ErrorMapOptions, unseen: Tensor | None) -> list[Tensor]:
    if is_rows(scan.mask):
        problem = f"leaves out whole rows of k-space: {ROWS_TOLD}"
        raise FileError(scan.meta.source, problem, f"{COLUMNS_WANTED}, or leave out --error_map")
    folds = held_out_folds(scan, options.folds, options.seed, unseen)
    if len(folds) < LEAST_FOLDS:
        problem = f"has too few samples outside the center in slice {scan.meta.slice} to hold any out for an error map"
        raise FileError(scan.meta.source, problem, "Reconstruct it without --error_map")
    return folds


def _at(places: Sequence[Tensor], residuals: Sequence[Tensor]) -> Tensor:
    """Residuals (coils, height, width) each at its own places, zero elsewhere."""
    found = torch.zeros_like(residuals[0])
    for place, residual in zip(places, residuals, strict=True):
        found = torch.where(place, residual, found)
    return found


def _in_batches(reconstruct: Reconstruct, asked: Sequence[Measurement], size: int) -> Tensor:
    parts = (asked[start : start + size] for start in range(0, len(asked), size))
    return torch.cat([reconstruct(Measurement.stacked(part)) for part in parts])


def _replicates(
    reconstruct: Reconstruct, scan: Scan, image: Tensor, level: Tensor, family: MaskFamily, options: ErrorMapOptions
) -> Tensor:
    """What is reconstructed of scans of the image, their view undone, complex (replicates, height, width)."""
    views = [VIEWS[number % len(VIEWS)] for number in range(options.replicates)]
    scans = [_scan_of(image, scan, level, family, view, number, options) for number, view in enumerate(views)]
    found = _in_batches(reconstruct, scans, options.batch)
    return torch.stack([view.image(one) for view, one in zip(views, found, strict=True)])


def _scan_of(
    image: Tensor, scan: Scan, level: Tensor, family: MaskFamily, view: View, number: int, options: ErrorMapOptions
) -> Measurement:
    """A view of the image as another mask of the scan's kind and its noise would have acquired it."""
    maps = None if scan.maps is None else view.image(scan.maps)
    mask = family.another(scan.mask, FIRST_MASK + number) & reachable(scan, family.density(scan.mask))
    full = Cartesian(mask[None], None if maps is None else maps[None]).transform(view.image(image)[None])[0]
    noise = white_noise(full, level, _stream(scan, options, "replicate", number))
    return replace(scan.measurement, kspace=(full + noise).masked_fill(~mask, 0), mask=mask, maps=maps)
