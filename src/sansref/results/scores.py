"""Scores of reconstructions: with the reference, and without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from math import isfinite, isnan, log10, nan
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.grid import centre_crop
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import noise_level
from sansref.metrics.held_out import held_out_error, held_out_mask
from sansref.metrics.lpips import LPIPS, BackboneName, MissingWeightsError
from sansref.metrics.quality import best_scale, nmse, psnr, ssim
from sansref.scan import Scan

RANGE_NOTE = "per slice on magnitudes, data range = maximum of the slice's reference, SSIM 7x7 uniform window"
MINMAX_NOTE = (
    "per slice on magnitudes after min-max (images by the minimum and maximum of the zero-filled image, the reference "
    "by its own), data range 1, SSIM 7x7 uniform window"
)
ZERO_FILLED = "zero-filled"
BEST_SCALE = "zero-filled, best scale"

Normalise = Literal["none", "minmax"]
Reconstruction = Callable[[Measurement], Tensor]


@dataclass(frozen=True, eq=False)
class Score:
    """Scores of one slice; NaN is a score that is not defined, and equals another such.

    Attributes
    ----------
    psnr
        Decibels, peak = maximum of the reference; NaN without a reference, as the next two.
    ssim
        Structural similarity, 7x7 uniform window, range as for PSNR.
    nmse
        Squared error of the magnitudes over the squared reference.
    held_out
        The reference-free score, lower is better; NaN for what is no reconstruction of samples.
    lpips
        Perceptual distance, range as for PSNR, lower is better; NaN also without weights.
    """

    psnr: float = nan
    ssim: float = nan
    nmse: float = nan
    held_out: float = nan
    lpips: float = nan

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Score):
            return NotImplemented
        return all(a == b or (isnan(a) and isnan(b)) for a, b in zip(astuple(self), astuple(other), strict=True))

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, which has no NaN and no infinity: they are None."""
        return {name: value if isfinite(value) else None for name, value in asdict(self).items()}


def data_note(slices: Sequence[tuple[bool, bool]], coil_reference: Literal["combined", "rss"]) -> str:
    """What a table must say of the data under its scores; empty for measured k-space of one coil.

    Parameters
    ----------
    slices
        Of every slice, whether its k-space is synthetic, and whether it has a measured reference of several coils.
    coil_reference
        How such a reference combines them.
    """
    synthetic = sum(simulated for simulated, _ in slices)
    which = "" if synthetic == len(slices) else f" of {synthetic} slices"
    notes = [f"k-space{which} simulated from magnitudes, which flatters every method"] if synthetic else []
    if any(several for _, several in slices):
        how = "combined by their maps" if coil_reference == "combined" else "as root of the sum of squares"
        notes.append(f"reference: coils {how}")
    return "; ".join(notes)


def reference_noise(scan: Scan) -> tuple[float, float] | None:
    """How noisy the reference of a scan is: the reference of measured k-space is no truth.

    Returns
    -------
    tuple or None
        Standard deviation of its noise as a share of its maximum, estimated from the scan's acquired samples; and the
        PSNR in decibels, against it, of an image without noise or any other error. In the object the squared error is
        the variance of one part of a complex number, beside it that of both. None without a measured reference.
    """
    if scan.reference is None or scan.meta.synthetic:
        return None
    variance = float(noise_level(scan.kspace, scan.mask).square().mean())
    truth = scored_reference(scan)
    peak = float(truth.max())
    if not variance > 0 or not peak > 0:
        return None
    beside = float((truth < 3 * variance**0.5).float().mean())
    return variance**0.5 / peak, 10 * log10(peak**2 / (variance * (1 + beside)))


def zero_filled(given: Measurement) -> Tensor:
    """The reconstruction without learning: E^H y, complex (batch, height, width)."""
    return given.physics.adjoint(given.kspace)


def magnitude(image: Tensor, scan: Scan) -> Tensor:
    """Magnitude (height, width) of the part of a complex image that is scored and exported."""
    return _cropped(image.abs(), scan)


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
    shown = image.abs()
    if normalise == "minmax":
        shown = _minmax(shown, zero_filled(scan.batch())[0].abs())
    return _cropped(shown, scan)


def scored_reference(scan: Scan, normalise: Normalise = "none") -> Tensor:
    """Magnitude (height, width) of a scan's reference as images are compared with it; "minmax" is by its own values."""
    assert scan.reference is not None
    truth = scan.reference.abs()
    return _cropped(_minmax(truth, truth) if normalise == "minmax" else truth, scan)


def _minmax(image: Tensor, by: Tensor) -> Tensor:
    low, high = by.min(), by.max()
    # A blank image has no range of its own.
    return (image - low) / torch.where(high > low, high - low, 1.0)


def _cropped(image: Tensor, scan: Scan) -> Tensor:
    return image if scan.meta.crop is None else centre_crop(image, scan.meta.crop)


@torch.inference_mode()
def score_scan(
    reconstruct: Reconstruction,
    scan: Scan,
    family: MaskFamily,
    held_out: float,
    seed: int,
    item: int,
    lpips: LPIPS | None = None,
    normalise: Normalise = "none",
) -> tuple[Score, Tensor]:
    """Score a reconstruction of one scan.

    Parameters
    ----------
    reconstruct
        From samples (batch of one) to a complex image (1, height, width).
    scan
        With or without reference.
    family
        Knows the sampling density.
    held_out, seed, item
        Share and choice of the samples held out for the reference-free score, which is taken on the original scale.
    lpips
        None leaves the perceptual distance undefined.
    normalise
        Scale on which images are compared with the reference, see :func:`scored_image`.

    Returns
    -------
    tuple
        The scores, and the magnitude image (height, width) from all acquired samples, on the scale of the comparison.
    """
    image = scored_image(reconstruct(scan.batch())[0], scan, normalise)
    free = held_out_score(reconstruct, scan, family, held_out_mask(scan, held_out, seed, item))
    return replace(_compared(image, scan, lpips, normalise), held_out=free), image


@torch.inference_mode()
def score_best_scale(scan: Scan, lpips: LPIPS | None = None, normalise: Normalise = "none") -> Score:
    """Score the zero-filled image times the one factor that brings it closest to the reference, in least squares.

    What a single number can repair; the factor needs the reference. There is no held-out error.

    Parameters
    ----------
    scan
        With or without reference.
    lpips, normalise
        As for :func:`score_scan`.
    """
    if scan.reference is None:
        return Score()
    image = scored_image(zero_filled(scan.batch())[0], scan, normalise)
    factor = best_scale(image, scored_reference(scan, normalise))
    return _compared(factor * image, scan, lpips, normalise)


def _compared(image: Tensor, scan: Scan, lpips: LPIPS | None, normalise: Normalise) -> Score:
    """The scores that need a reference, of an image (height, width) as it is scored."""
    if scan.reference is None:
        return Score()
    truth = scored_reference(scan, normalise)
    peak = 1.0 if normalise == "minmax" else float(truth.max())
    distance = nan if lpips is None else float(lpips(image, truth, peak))
    return Score(
        float(psnr(image, truth, peak)), float(ssim(image, truth, peak)), float(nmse(image, truth)), lpips=distance
    )


def held_out_score(reconstruct: Reconstruction, scan: Scan, family: MaskFamily, held_out: Tensor) -> float:
    """Reference-free score of one scan on the samples under ``held_out``, bool (height, width)."""
    given = scan.restricted(~held_out).batch()
    image = reconstruct(given)
    error = held_out_error(image, scan.kspace[None], held_out[None], given.maps, family.density(scan.mask))
    return float(error)


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation over slices, per score.

    Attributes
    ----------
    count
        Slices.
    mean, std
        Over the slices where a score is defined; NaN where there are none. The standard deviation is the sample's,
        and 0 for a single slice.
    known
        Over how many slices that is, by the name of the score.
    """

    count: int
    mean: Score
    std: Score
    known: dict[str, int]

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Summary:
        """Summarise at least one score."""
        columns = torch.tensor([astuple(score) for score in scores], dtype=torch.float64).unbind(dim=1)
        defined = [column[~column.isnan()] for column in columns]
        means = [float(values.mean()) for values in defined]
        # A single slice has the spread 0.
        stds = [float(values.std(correction=min(1, len(values) - 1))) for values in defined]
        known = {name: len(values) for name, values in zip(asdict(scores[0]), defined, strict=True)}
        return cls(len(scores), Score(*means), Score(*stds), known)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"slices": self.count, "known": self.known, "mean": self.mean.as_dict(), "std": self.std.as_dict()}


@dataclass(frozen=True)
class PerceptualOptions:
    """LPIPS beside the other scores.

    Attributes
    ----------
    lpips
        Backbone of LPIPS, a perceptual distance learned on photographs; its weights are not part of sansref.
    lpips_weights
        File of the backbone's weights, .pth as PyTorch publishes them or .safetensors; null looks where PyTorch keeps
        downloads.
    lpips_download
        Download weights that are not there.
    """

    lpips: Literal["none", "alex", "vgg"] = "none"
    lpips_weights: Path | None = None
    lpips_download: bool = False

    def __post_init__(self) -> None:
        if self.lpips == "none" and (self.lpips_weights is not None or self.lpips_download):
            raise SettingError(
                "weights are given or to be downloaded for LPIPS, which is none: add --lpips alex or vgg"
            )

    @property
    def backbone(self) -> BackboneName | None:
        """Of LPIPS, or None."""
        return None if self.lpips == "none" else self.lpips

    def load(self) -> tuple[LPIPS | None, str]:
        """LPIPS, or None and why it is missing: scores that need no weights must not wait for them.

        Raises
        ------
        FileError
            If the given weights cannot be read.
        SettingError
            If they cannot be downloaded.
        """
        if self.backbone is None:
            return None, ""
        try:
            return LPIPS.load(self.backbone, self.lpips_weights, self.lpips_download), ""
        except MissingWeightsError as error:
            return None, str(error)
