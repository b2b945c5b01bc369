r"""Noise kept and structure lost by a reconstruction, told for one scan without a reference (SURE).

Stein's unbiased risk estimate (Stein, Ann. Stat. 9:1135, 1981) needs the samples, the level of their noise, and how the
reconstruction answers to a little more of it (Ramani et al., IEEE TIP 17:1540, 2008). With y the acquired samples, f(y)
the samples of the image, noise of variance sigma^2 in each part, and a probe b as strong as the noise,

.. math:: E |f - y_0|^2 = E |f - y|^2 - \sum 2 \sigma^2 + 2 E \, \mathrm{Re} \, b^* J b, \qquad
          J b = (f(y + \epsilon b) - f(y)) / \epsilon

of which :math:`E |J b|^2` is the noise that f passes on. The rest is the structure that it takes away, which is what
the residual f(y) - y has more than that of noise alone would, :math:`E |f - y|^2 - E |J b - b|^2`. All this is of
acquired samples only: whether the others are predicted well is for :mod:`sansref.metrics.held_out` to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sansref.kspace.coils import unstacked
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import blurred, noise_in_image, probing_noise

STEP = 0.1
"""Of a probe, as a part of the noise: small, but far above the rounding of single precision."""

BLUR = 4.0
"""Pixels over which maps are averaged: a single one tells of nothing but its own noise."""

FAINT = 0.05
"""Of the noise in the image: what is taken away there is compared with at least so much, lest rounding counts."""

VISIBLE = 5.0
"""Standard deviations from which on a place of the difference shows structure; ``docs/denoise.md`` has false alarms."""


@dataclass(frozen=True)
class Sure:
    """The squared error of a reconstruction on acquired samples, over the energy of their noise.

    Attributes
    ----------
    risk
        All of it: 1 as measured; above it the scan is better left alone.
    kept
        Of the noise, what is still there.
    lost
        Structure that is gone; slightly negative by chance where there is none.
    doubt
        Standard error of the risk.
    kept_map, lost_map
        The same in the image, averaged over neighbours, over the mean variance of the measured image's noise; real
        (height, width).
    seen
        Standard deviations by which what was taken away is stronger than noise would be, real (height, width);
        structure from about :data:`VISIBLE` on. 0 of a single probe, which has nothing to compare chance with.
    """

    risk: float
    kept: float
    lost: float
    doubt: float
    kept_map: Tensor
    lost_map: Tensor
    seen: Tensor

    @property
    def shows_structure(self) -> bool:
        """Whether structure is seen in the difference of both images."""
        return bool((self.seen >= VISIBLE).any())


class Response(NamedTuple):
    """How a reconstruction answers to noise.

    Attributes
    ----------
    image
        Of the samples as they are, complex (batch, height, width).
    probe
        What was added, complex (batch, coils, height, width).
    passed
        What came of it at every sample, acquired or not, over the step: J b.
    """

    image: Tensor
    probe: Tensor
    passed: Tensor


def response(
    reconstruct: Callable[[Measurement], Tensor], given: Measurement, sigma: Tensor, generator: torch.Generator
) -> Response:
    """Probe a reconstruction with a little noise.

    Parameters
    ----------
    reconstruct
        From samples to complex images (batch, height, width).
    given
        The samples, with a batch axis.
    sigma
        Standard deviation of each part of each sample's noise, real (batch, coils, height, width), 0 where nothing was
        acquired (:func:`~sansref.kspace.noise.noise_of`).
    generator
        On the CPU.
    """
    probe = probing_noise(sigma * given.mask.unsqueeze(-3), generator).to(given.kspace)
    image = reconstruct(given)
    disturbed = reconstruct(given.disturbed(STEP * probe))
    return Response(image, probe, given.physics.transform((disturbed - image) / STEP))


@torch.no_grad()
def sure(
    reconstruct: Callable[[Measurement], Tensor],
    given: Measurement,
    sigma: Tensor,
    generator: torch.Generator,
    probes: int = 1,
) -> Sure:
    """Estimate what a reconstruction makes of the noise and the structure of one scan.

    Parameters
    ----------
    reconstruct, given, sigma, generator
        As for :func:`response`; ``given`` is a batch of one.
    probes
        Each costs a reconstruction.

    Raises
    ------
    ValueError
        For a batch of several scans, without a probe, or where no noise is known.
    """
    if len(given.kspace) != 1 or probes < 1 or not bool((sigma > 0).any()):
        raise ValueError(f"SURE takes one scan with noise and a probe, got {len(given.kspace)} and {probes} probe(s)")
    mask = given.mask.unsqueeze(-3)
    physics = given.physics
    variance = 2 * sigma.square() * mask
    found = [response(reconstruct, given, sigma, generator) for _ in range(probes)]
    error = mask * (physics.transform(found[0].image) - given.kspace)
    overlap = torch.stack([(one.probe.conj() * one.passed).real for one in found]).mean(0) * mask
    passed = torch.stack([one.passed.abs().square() for one in found]).mean(0) * mask
    terms = error.abs().square() - variance + 2 * overlap
    noise = float(variance.sum())
    count = int((variance > 0).sum())
    risk, kept = float(terms.sum()) / noise, float(passed.sum()) / noise

    def image_of(samples: Tensor) -> Tensor:
        return physics.adjoint(samples)[0]

    def smooth(power: Tensor) -> Tensor:  # images of two sets of maps lie below one another, and are no neighbours
        return blurred(unstacked(power, mask.shape[-2]), BLUR).flatten(-3, -2) / mean

    kept_map = torch.stack([image_of(mask * one.passed).abs().square() for one in found]).mean(0)
    by_probe = [image_of(mask * one.passed - one.probe).abs().square() for one in found]
    taken = torch.stack(by_probe).mean(0)
    # Stationary noise is equally strong everywhere in a coil's image (Parseval).
    each = variance[0].mean((-2, -1), keepdim=True)
    mean = noise_in_image(each, None if given.maps is None else given.maps[0])
    lost_map = image_of(error).abs().square() - taken
    seen = _seen(smooth(image_of(error).abs().square()), [smooth(one) for one in by_probe])
    doubt = float(terms[variance > 0].std()) * count**0.5 / noise
    return Sure(risk, kept, risk - kept, doubt, smooth(kept_map), smooth(lost_map), seen)


def _seen(residual: Tensor, chance: Sequence[Tensor]) -> Tensor:
    """Standard deviations of the contrast between the residual and what probes of noise alone leave of themselves.

    Both are sums of as many squares, so that their contrast (a - b) / (a + b) has the same spread wherever the noise is
    weak or strong; that between two probes tells it.
    """
    if len(chance) < 2:
        return torch.zeros_like(residual)

    def contrast(one: Tensor, other: Tensor) -> Tensor:
        return (one - other) / (one + other + FAINT)

    pairs = torch.stack([contrast(one, other) for one, other in pairwise(chance)])
    # The mean of several probes varies less than each of them.
    spread = pairs.square().mean().sqrt() * ((1 + 1 / len(chance)) / 2) ** 0.5
    return contrast(residual, torch.stack(list(chance)).mean(0)) / spread.clamp(min=torch.finfo(spread.dtype).tiny)
