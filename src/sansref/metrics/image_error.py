r"""The squared error of a denoised image without a reference: by SURE where samples were acquired, held-out ones else.

The held-out error alone prefers images that predict noisy samples; it says nothing of the noise on those that were
given, and at 1x there is nothing to predict. SURE (:mod:`sansref.metrics.sure`) sees the acquired samples alone. With
Omega the acquired samples, V those held out, p the probability with which a location is acquired and variance
:math:`2 \sigma^2` of the noise, the expected error over the whole of k-space is estimated by

.. math:: \sum_\Omega \left( |f(y) - y|^2 - 2 \sigma^2 + 2 \, \mathrm{Re} \, b^* J b \right)
          + \sum_V w \left( |f(y_{\Omega \setminus V}) - y|^2 - 2 \sigma^2 \right), \qquad w \propto (1 - p) / p,

where the weights of V add up to the number of locations that were not acquired and may have been. All of it is given
over the energy of the noise that these locations would have: 1 is a full scan as it is measured.

Of a network that has learned from this very scan SURE is too good: the network knows the noise by heart, which no probe
tells. It has then to learn from :math:`y_1 = y + \tau b` instead, with noise b of the law of the scan's own, held out
from it as samples are. Since b is independent of y, b tells how the image depends on noise, learning included:
:math:`\tau J b = f(y_1) - y` in the sum above makes it the expected error of :math:`f(y_1)`, by Stein's identity again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from sansref.kspace.grid import is_columns
from sansref.kspace.noise import noise_of
from sansref.metrics.held_out import HeldOut, Reconstruct, held_out_mask, reachable
from sansref.metrics.sure import response
from sansref.randomness import seeded
from sansref.scan import Scan


@dataclass(frozen=True)
class Answer:
    """What a reconstruction makes of a scan, as far as its error depends on it; linear in the reconstruction.

    Attributes
    ----------
    error
        What its samples have more than the acquired ones, complex (coils, height, width), 0 elsewhere.
    passed
        How they answer to the probe, over the step; complex, alike.
    missed
        As ``error``, of the image without the held-out samples, on these.
    """

    error: Tensor
    passed: Tensor
    missed: Tensor

    def mixed(self, other: Answer, share: float) -> Answer:
        """Of ``share`` of this reconstruction and the rest of the other."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("error", "passed", "missed"))
        return Answer(*(share * mine + (1 - share) * its for mine, its in pairs))


class ImageError:
    """Tells the error of reconstructions of one scan.

    Parameters
    ----------
    scan
        Its reference, if any, is not looked at.
    held_out
        Acquired samples, bool (height, width), that stand for those that were not; none of a full scan.
    density
        The probability with which each location is acquired, float (height, width).
    noisier
        The same scan with ``tau`` times as much noise added, which is what was learned from; None where nothing was.
    tau
        See above.

    Raises
    ------
    ValueError
        Where no noise is known or can be found.
    """

    def __init__(
        self, scan: Scan, held_out: Tensor, density: Tensor, noisier: Scan | None = None, tau: float = 0.0
    ) -> None:
        self.held_out, self._noisier, self._tau = held_out, noisier, tau
        self.given, self.without = scan.batch(), (noisier or scan).restricted(~held_out).batch()
        self.sigma = noise_of(self.given)
        variance = 2 * self.sigma[0].square() * scan.mask
        if not bool((variance > 0).any()):
            raise ValueError("no noise is known of this scan")
        missing = ~scan.mask & reachable(scan, density)
        density = density.clamp(min=1e-3)
        weight = held_out * (1 - density) / density
        stood_for = float(missing.sum()) if bool(weight.any()) else 0.0
        self._weight = weight * stood_for / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        self._variance = variance
        self._noise = float(variance.sum()) * (1 + stood_for / float(scan.mask.sum()))
        self._columns = is_columns(scan.mask)
        # That of every answer.
        self._probe = torch.zeros_like(scan.kspace) if noisier is None else (noisier.kspace - scan.kspace) / tau

    @classmethod
    def of(cls, scan: Scan, held_out: HeldOut, item: int, noisier: Scan | None = None, tau: float = 0.0) -> ImageError:
        """The judge of scan number ``item``; of a full scan, nothing is held out."""
        chosen = held_out_mask(scan, held_out.share, held_out.seed, item, spare_full=True)
        return cls(scan, chosen, held_out.family(scan.meta.emulated).density(scan.mask), noisier, tau)

    @torch.no_grad()
    def answer(self, reconstruct: Reconstruct) -> Answer:
        """Reconstruct and probe; takes two reconstructions at most, and one more where samples are held out."""
        given, mask = self.given, self.given.mask.unsqueeze(-3)
        if self._noisier is None:
            found = response(reconstruct, given, self.sigma, seeded("image error", *given.kspace.shape))
            self._probe, image, passed = found.probe[0], found.image, (mask * found.passed)[0]
        else:
            image, passed = reconstruct(self._noisier.batch()), None
        error = (mask * (given.physics.transform(image) - given.kspace))[0]
        missed = torch.zeros_like(error)
        if bool(self.held_out.any()):
            predicted = given.physics.transform(reconstruct(self.without))
            missed = (self.held_out * (predicted - given.kspace))[0]
        return Answer(error, error / self._tau if passed is None else passed, missed)

    def terms(self, answer: Answer) -> Tensor:
        """The error of every sample over the noise, real (height, width); their sum is the error."""
        others = self._weight * (answer.missed.abs().square() - self._variance)
        return (self._acquired(answer) + others).sum(0) / self._noise

    def _acquired(self, answer: Answer) -> Tensor:
        overlap = (self._probe.conj() * answer.passed).real
        return answer.error.abs().square() - self._variance + 2 * overlap

    def error(self, answer: Answer) -> float:
        """The error, 1 for a full scan as it is measured; slightly below 0 by chance for a nearly perfect image."""
        return float(self.terms(answer).sum())

    def on_acquired(self, answer: Answer) -> float:
        """The error on acquired samples alone, over their noise: what :func:`~sansref.metrics.sure.sure` tells."""
        return float(self._acquired(answer).sum() / self._variance.sum())

    def in_parts(self, answer: Answer, count: int, seed: int) -> list[float]:
        """The error as ``count`` parts of k-space tell it, whose mean it is; parts of a column mask are of columns."""
        terms = self.terms(answer)
        units = terms.sum(0) if self._columns else terms.flatten()
        order = torch.randperm(len(units), generator=seeded(seed, "parts"))
        return [float(units[part].sum()) * count for part in order.tensor_split(count)]

    def slope(self, one: Answer, other: Answer) -> tuple[float, float]:
        """First and second derivative of the error of ``one.mixed(other, share)`` at share 0."""
        ahead, missed = one.error - other.error, one.missed - other.missed
        linear = (other.error.conj() * ahead).real + self._weight * (other.missed.conj() * missed).real
        linear = linear + (self._probe.conj() * (one.passed - other.passed)).real
        square = ahead.abs().square() + self._weight * missed.abs().square()
        return 2 * float(linear.sum()) / self._noise, 2 * float(square.sum()) / self._noise


def best_share(judges: Sequence[ImageError], ones: Sequence[Answer], others: Sequence[Answer]) -> float:
    """The share of one reconstruction in 0..1 whose mixture with the other has the least error over all scans."""
    slopes = [judge.slope(one, other) for judge, one, other in zip(judges, ones, others, strict=True)]
    first, second = (sum(values) for values in zip(*slopes, strict=True))
    share = -first / second if second > 0 else 0.0
    return min(max(share, 0.0), 1.0) if isfinite(share) else 0.0
