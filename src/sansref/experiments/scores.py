"""Scores of reconstructions: with the reference, and without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from math import isnan

import torch
from torch import Tensor

from sansref.kspace.crop import centre_crop
from sansref.kspace.encoding import EncodingOperator
from sansref.kspace.family import MaskFamily
from sansref.methods import Measured, measured, stack
from sansref.metrics.holdout import held_out_error
from sansref.metrics.quality import nmse, psnr, ssim
from sansref.scan import Scan
from sansref.training.batches import held_out_mask

RANGE_NOTE = "per slice on magnitudes, data range = maximum of the slice's reference, SSIM 7x7 uniform window"

Reconstruction = Callable[[Measured], Tensor]


@dataclass(frozen=True)
class Score:
    """Scores of one slice.

    Attributes
    ----------
    psnr
        Decibels, peak = maximum of the reference; NaN without a reference, as the next two.
    ssim
        Structural similarity, 7x7 uniform window, range as for PSNR.
    nmse
        Squared error of the magnitudes over the squared reference.
    held_out
        The reference-free score, lower is better.
    """

    psnr: float
    ssim: float
    nmse: float
    held_out: float


def zero_filled(given: Measured) -> Tensor:
    """The reconstruction without learning: E^H y, complex (batch, height, width)."""
    return EncodingOperator(given.mask, given.maps).adjoint(given.kspace)


def magnitude(image: Tensor, scan: Scan) -> Tensor:
    """Magnitude (height, width) of the part of a complex image that is scored and exported."""
    return image.abs() if scan.meta.crop is None else centre_crop(image.abs(), scan.meta.crop)


@torch.inference_mode()
def score_scan(
    reconstruct: Reconstruction, scan: Scan, family: MaskFamily, held_out: float, seed: int, item: int
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
        Share and choice of the samples held out for the reference-free score.

    Returns
    -------
    tuple
        The scores, and the magnitude image (height, width) from all acquired samples.
    """
    image = magnitude(reconstruct(stack([measured(scan)]))[0], scan)
    free = held_out_score(reconstruct, scan, family, held_out_mask(scan.mask, held_out, seed, item))
    if scan.reference is None:
        return Score(float("nan"), float("nan"), float("nan"), free), image
    truth = magnitude(scan.reference, scan)
    peak = float(truth.max())
    return Score(
        float(psnr(image, truth, peak)), float(ssim(image, truth, peak)), float(nmse(image, truth)), free
    ), image


def held_out_score(reconstruct: Reconstruction, scan: Scan, family: MaskFamily, held_out: Tensor) -> float:
    """Reference-free score of one scan on the samples under ``held_out``, bool (height, width)."""
    given = stack([measured(scan.restricted(~held_out))])
    image = reconstruct(given)
    error = held_out_error(image, scan.kspace[None], held_out[None], given.maps, family.density(scan.mask))
    return float(error)


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation over ``count`` slices, per score."""

    count: int
    mean: Score
    std: Score

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Summary:
        """Summarise at least one score."""
        values = torch.tensor([astuple(score) for score in scores], dtype=torch.float64)
        std = values.std(dim=0) if len(scores) > 1 else torch.zeros_like(values[0])
        return cls(len(scores), Score(*values.mean(dim=0).tolist()), Score(*std.tolist()))

    def as_dict(self) -> dict[str, object]:
        """For JSON, which has no NaN: scores that need a missing reference are None."""
        mean, std = (
            {name: None if isnan(value) else value for name, value in asdict(part).items()}
            for part in (self.mean, self.std)
        )
        return {"slices": self.count, "mean": mean, "std": std}
