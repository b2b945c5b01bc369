"""The scorer: how good reconstructions are, with the reference and without it, and what they look like."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan, log10, nan
from typing import Any

import torch
from torch import Tensor

from sansref.data.placement import for_people
from sansref.kspace.coils import magnitude_of_sets
from sansref.kspace.grid import acquired_columns, is_full
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import noise_in_image, noise_of
from sansref.metrics.held_out import HeldOut, Reconstruct
from sansref.metrics.lpips import LPIPS
from sansref.metrics.quality import WINDOW, best_scale, body_mask, nmse, psnr, ssim
from sansref.metrics.sure import sure
from sansref.randomness import seeded
from sansref.results.scores import METRICS, Normalise, ScoredSlice
from sansref.results.viewer.contents import ViewerSlice
from sansref.scan import Scan

ZERO_FILLED = "zero-filled"
BEST_SCALE = "zero-filled, best scale"


@dataclass(frozen=True)
class Scorer:
    """Scores methods on scans.

    Attributes
    ----------
    methods
        How each reconstructs, by the name that tables give it.
    held_out
        Which samples the reference-free score is taken on, on the original scale.
    normalise
        Scale on which images are compared with the reference, see :func:`scored_image`.
    lpips
        None leaves the perceptual distance undefined.
    rescaled
        Methods whose image is multiplied by the one factor that brings it closest to the reference, in least squares:
        what a single number can repair. They have no held-out error, and are not shown.
    denoises
        Some method takes noise out: tell of each how much noise is kept and structure lost. A full scan then has no
        held-out error, since methods that only denoise predict no samples.
    """

    methods: Mapping[str, Reconstruct]
    held_out: HeldOut
    normalise: Normalise = "none"
    lpips: LPIPS | None = None
    rescaled: Collection[str] = ()
    denoises: bool = False

    @torch.inference_mode()
    def score(self, scan: Scan, item: int) -> Iterator[ScoredSlice]:
        """Score every method.

        Parameters
        ----------
        scan
            With or without reference.
        item
            Its number, from which the held-out samples follow.
        """
        body = None if scan.reference is None else body_mask(scored_reference(scan))
        for label, reconstruct in self.methods.items():
            scores: dict[str, Any] = (
                {} if body is None else self._against_reference(self.image(label, scan), scan, body)
            )
            if label not in self.rescaled:
                if not (self.denoises and is_full(scan.mask)):
                    scores["held_out"] = self.held_out.score(reconstruct, scan, item)
                scores |= self._proof(reconstruct, scan)
            yield ScoredSlice(label, scan.acceleration, 0, 0, scan.meta.subject, scan.meta.slice, **scores)

    def _proof(self, reconstruct: Reconstruct, scan: Scan) -> dict[str, float]:
        given = scan.batch()
        sigma = noise_of(given) if self.denoises else torch.zeros(1)
        if not bool((sigma > 0).any()):
            return {}
        found = sure(reconstruct, given, sigma, seeded("proof"))
        return {"risk": found.risk, "noise_kept": found.kept, "structure_lost": found.lost}

    def _against_reference(self, image: Tensor, scan: Scan, body: Tensor) -> dict[str, Any]:
        truth = scored_reference(scan, self.normalise)
        if not bool(truth.amax() > truth.amin()):  # of one grey value, as where coil maps see nothing
            return {}
        peak = 1.0 if self.normalise == "minmax" else float(truth.max())
        sees_structure = min(truth.shape) >= WINDOW
        return {
            "psnr": float(psnr(image, truth, peak)),
            "ssim": float(ssim(image, truth, peak)) if sees_structure else nan,
            "nmse": float(nmse(image, truth)),
            "lpips": nan if self.lpips is None else float(self.lpips(image, truth, peak)),
            "psnr_body": float(psnr(image, truth, peak, body)),
            "ssim_body": float(ssim(image, truth, peak, mask=body)) if sees_structure else nan,
            "nmse_body": float(nmse(image, truth, body)),
        }

    @torch.inference_mode()
    def image(self, label: str, scan: Scan) -> Tensor:
        """What a method makes of all acquired samples: magnitude (height, width) as it is compared."""
        image = scored_image(self.methods[label](scan.batch())[0], scan, self.normalise)
        if label in self.rescaled and scan.reference is not None:
            image = best_scale(image, scored_reference(scan, self.normalise)) * image
        return image

    def show(
        self,
        scan: Scan,
        rows: Sequence[ScoredSlice],
        acceleration: str = "",
        among_worst: bool = False,
        is_median: bool = False,
    ) -> ViewerSlice:
        """Reconstruct a slice for the viewer, turned upright.

        Parameters
        ----------
        scan
            With or without reference.
        rows
            Its scores.
        acceleration, among_worst, is_median
            As in :class:`~sansref.results.viewer.contents.ViewerSlice`.
        """
        turned = partial(for_people, geometry=scan.meta.geometry)
        scores = {row.label: row for row in rows if row.label not in self.rescaled}
        # Noise is known in the units of the samples.
        noisy = self.normalise == "none" and not scan.meta.synthetic
        return ViewerSlice(
            scan.meta.subject,
            scan.meta.slice,
            acceleration,
            None if scan.reference is None else turned(scored_reference(scan, self.normalise)).numpy(),
            {label: turned(self.image(label, scan)).numpy() for label in scores},
            {label: _caption(score) for label, score in scores.items()},
            {label: _details(score) for label, score in scores.items()},
            scan.mask.numpy(),
            _pixel_variance(scan) ** 0.5 if noisy else None,
            among_worst,
            is_median,
        )


def _caption(score: ScoredSlice) -> str:
    if isnan(score.psnr):
        return f"SURE {score.risk:.3f}" if isnan(score.held_out) else f"held-out error {score.held_out:.4f}"
    return f"{score.psnr:.2f} dB / {score.ssim:.4f}"


def _details(score: ScoredSlice) -> dict[str, str]:
    values = {name: getattr(score, name) for name in METRICS}
    return {METRICS[name].heading: METRICS[name].text(value) for name, value in values.items() if not isnan(value)}


def zero_filled(given: Measurement) -> Tensor:
    """The reconstruction without learning: E^H y, complex (batch, height, width)."""
    return given.physics.adjoint(given.kspace)


def magnitude(image: Tensor, scan: Scan) -> Tensor:
    """Magnitude (height, width) of the part of a complex image that is scored and exported."""
    return scan.meta.cropped(magnitude_of_sets(image.abs(), scan.mask.shape[0]))


def scored_image(image: Tensor, scan: Scan, normalise: Normalise = "none") -> Tensor:
    """Magnitude of a complex image (height, width) as it is scored.

    Parameters
    ----------
    image
        A reconstruction of ``scan``.
    scan
        Its zero-filled image gives the grey values that "minmax" maps to 0 and 1, over the whole field of view, as
        methods that scale every image by itself do.
    normalise
        "none" leaves the scale.
    """
    height = scan.mask.shape[0]
    shown = magnitude_of_sets(image.abs(), height)
    if normalise == "minmax":
        shown = _minmax(shown, magnitude_of_sets(zero_filled(scan.batch())[0].abs(), height))
    return scan.meta.cropped(shown)


def scored_reference(scan: Scan, normalise: Normalise = "none") -> Tensor:
    """Magnitude (height, width) of a scan's reference as images are compared with it; "minmax" is by its own values."""
    assert scan.reference is not None
    truth = magnitude_of_sets(scan.reference.abs(), scan.mask.shape[0])
    return scan.meta.cropped(_minmax(truth, truth) if normalise == "minmax" else truth)


def _minmax(image: Tensor, by: Tensor) -> Tensor:
    low, high = by.min(), by.max()
    # A blank image has no range of its own.
    return (image - low) / torch.where(high > low, high - low, 1.0)


def reference_noise(scan: Scan) -> tuple[float, float] | None:
    """How noisy the reference of a scan is: the reference of measured k-space is no truth.

    Returns
    -------
    tuple or None
        Standard deviation of its noise as a share of its maximum; and the PSNR in decibels, against it, of an image
        without noise or any other error. In the object the squared error is the variance of one part of a complex
        number, beside it that of both, and none where the coil maps see nothing. None without a measured reference.
    """
    if scan.reference is None or scan.meta.synthetic:
        return None
    variance = _pixel_variance(scan)
    truth = scored_reference(scan)
    peak = float(truth.max())
    if not variance > 0 or not peak > 0:
        return None
    seen = truth > 0
    beside = seen & (truth < 3 * variance**0.5)
    return variance**0.5 / peak, 10 * log10(peak**2 / (variance * float(seen.float().mean() + beside.float().mean())))


def _pixel_variance(scan: Scan) -> float:
    """Variance of the noise in each part of a pixel: that of a sample, and less where a file is zero-padded."""
    width = scan.mask.shape[1]
    reached = acquired_columns(scan.mask) if is_full(scan.mask) else (0, width)
    first, stop = scan.meta.columns or reached
    return float(noise_in_image(scan.noise_level.square(), scan.maps)) * (stop - first) / width
