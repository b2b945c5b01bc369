"""Noise: its level and colour from the samples themselves, more of it, and coils made independent of each other.

Whitening: Pruessmann et al., Magn Reson Med 46(4), 2001, section on sample decorrelation; Kellman & McVeigh, Magn Reson
Med 54(6), 2005.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sansref.kspace.fourier import fft2c, ifft1c, ifft2c
from sansref.kspace.grid import distance
from sansref.kspace.measurement import Measurement

INNER = 0.4
"""Of the largest distance: nearer samples are those of shapes and contrasts rather than of edges and noise."""

RINGS, OUTER = 12, 6
"""Rings of equally many samples beyond :data:`INNER`, and those at the rim that the level is fitted to."""

LEAST_RIM = 1 / 4
"""Of the level at the rim, where the fit finds no noise at all: there is always some."""

STEEP, FLAT = 5.0, 3.0
"""The power of an image falls at the rim of k-space with a power of the distance from DC that lies between these:
:data:`FLAT` is that of sharp edges, :data:`STEEP` that of edges which a scanner's filter or its pixels have blurred."""

EMPTY = 1e-17
"""Samples whose power is less than this part of the largest were not received but filled in: what single precision
leaves there."""

BANDS = 8
"""Along the readout; a receive filter lets noise differ between them."""

BLUR = 2.5
"""Pixels over which power is averaged before air is looked for."""

LEAST_AIR = 0.06
"""Of a band. With less there is none: the darkest pixels of anything are few."""

EXPONENTIAL = (1.2, 1.75)
"""Mean over median of the power in air. It is 1 / ln 2 = 1.44 for noise, 1 for an even object and more for edges."""

LOUDEST = 6.0
"""Ratio of the power in air between bands. More is no receive filter but faint signal in a band without air."""

FILTERED = 3.0
"""Ratio of the power in air between bands along an axis from which on a receive filter has made some of it quiet."""

DEAD = 1e-6
"""Of the strongest sample of all coils: a coil that has less received nothing."""

COLOURED = 1.25
"""Ratio of the strongest to the weakest noise along an axis from which on noise counts as coloured."""

Source = Literal["air", "spectrum", "given"]


@dataclass(frozen=True)
class Noise:
    """The noise of a scan.

    Attributes
    ----------
    level
        Standard deviation of the real, and of the imaginary, part of a sample, root mean square over all that were
        received; real (coils, 1, 1), in the units of the k-space.
    low, high
        What the level lies between, as far as it can be known from the samples; shaped like ``level``. Of the power
        spectrum, ``low`` is 0 where its fall may be that of an image without noise.
    colour
        Standard deviation of each sample over the level, real (height, width): 1 for white noise, 0 where nothing was
        received.
    source
        air: from where there is no signal; spectrum: from the fall of the power in k-space; given: by the user.
    """

    level: Tensor
    low: Tensor
    high: Tensor
    colour: Tensor
    source: Source

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of the real, and of the imaginary, part of each sample, real (coils, height, width)."""
        return self.level * self.colour

    @property
    def sure(self) -> bool:
        """Whether the level is known to a fifth."""
        return bool((self.high <= 1.2 * self.level).all() and (self.low >= 0.8 * self.level).all())

    @property
    def middle(self) -> Tensor:
        """Half way from the lower end to the level, real (coils, 1, 1).

        Where edges reach the rim of k-space, the one is too low and the other too high
        (docs/appendix/2026-11-defaults.md).
        """
        return (self.low + self.level) / 2

    def with_level(self, level: Tensor) -> Noise:
        """The same colour with a level that is known otherwise, real (coils, 1, 1)."""
        level = level.to(self.level).expand(self.level.shape)
        return replace(self, level=level, low=level, high=level, source="given")


def estimate_noise(kspace: Tensor, mask: Tensor) -> Noise:
    """The level of the noise in each coil, and its colour, from a scan's own samples.

    Where samples have no gaps, noise is seen in the image's air; where whole columns are missing, in those rows along
    the readout that show nothing but air. The level along the readout may vary by a receive filter, so that the mean of
    its square over the readout is that of a sample (Parseval). Elsewhere ``A r^-5 + 2 sigma^2`` is fitted to the power
    of the outermost samples, by least squares of the relative error, with neither term negative. All power is that of
    complex noise, exponentially distributed: its median over ln 2 is its mean, and a few strong samples do not count.
    How far off it is, is in ``docs/denoise.md``. Without samples the level is 0, as it is of a coil that received
    nothing.

    Colour is taken from air alone: what is seen there is transformed back to k-space, where its power is taken as a
    product of a smooth profile along each axis. Haze in the air, such as ghosts and the floor of a magnitude image, is
    smooth, and so lies near DC: medians leave it out of both colour and level.

    Parameters
    ----------
    kspace
        Acquired samples, complex (coils, height, width); zeros may be filled in.
    mask
        Where they were acquired, bool (height, width).
    """
    kspace = kspace.detach()
    filled = _received(kspace, mask)
    zero = kspace.real.new_zeros(kspace.shape[0], 1, 1)
    white = filled.to(kspace.real.dtype)
    if int(filled.sum()) < 2 * RINGS:
        return Noise(zero, zero, zero, white, "spectrum")
    if not (alive := received(kspace)).all():
        found = estimate_noise(kspace[alive], mask)
        level, low, high = (zero.index_put((alive,), one) for one in (found.level, found.low, found.high))
        return Noise(level, low, high, found.colour, found.source)
    rim = _from_spectrum(kspace, filled)
    full = _without_gaps(filled)
    if full:
        image = ifft2c(kspace * filled)
        power = image.abs().square()
        air = _air(power)
        # The image spreads the noise of the samples received over all of its pixels.
        spread = filled.numel() / filled.sum()
    else:
        rows, columns = filled.any(1), filled.any(0)
        whole_columns = bool((filled == rows[:, None] & columns).all()) and _without_gaps(rows[:, None])
        air = _air(ifft1c(kspace, -2)[..., columns].abs().square()) if whole_columns else None
        spread = rows.numel() / rows.sum()
    if air is None:
        return Noise(rim[0], rim[1], rim[2], white, "spectrum")
    level, colour = (spread * air.power.mean(1) / 2).sqrt()[:, None, None], white
    if full:
        colour, share = _without_haze(image, filled, air)
        level = share * level
    if not full or (bool((colour == white).all()) and _quietened(air, _air(power.mT))):
        # White noise is no weaker in air than what edges alone cannot explain at the rim, and no stronger than the rim:
        # a receive filter makes air too quiet, and what is seen there need not be noise alone.
        level = level.clamp(rim[1], rim[2])
    doubt = max(0.03, 1 / math.sqrt(air.pixels))
    low = (1 - doubt) * level
    # Rows are few, and faint signal in them is easily overlooked.
    low = low if full else torch.minimum(low, rim[1])
    return Noise(level, low, (1 + doubt) * level, colour, "air")


def received(kspace: Tensor) -> Tensor:
    """Which coils of (coils, height, width) received anything, bool (coils): all where none did.

    Virtual coils that are made of dead ones hold what rounding leaves.
    """
    strongest = kspace.abs().flatten(1).amax(1)
    return strongest >= DEAD * strongest.max()


def noise_in_image(variance: Tensor, maps: Tensor | None) -> Tensor:
    """Mean variance of each part of the noise in an image, over the pixels that its coil maps see, real (...).

    Parameters
    ----------
    variance
        Of each part of a sample, real (..., coils, 1, 1).
    maps
        Normalised, complex (..., coils, height, width), or None: then all coils that received anything count alike.
    """
    weight = (variance > 0).to(variance) if maps is None else maps.abs().square()
    seen = weight.sum(-3)
    total = (weight * variance).sum(-3)
    if maps is None:
        total = total / seen.clamp(min=1)
    return total.sum((-2, -1)) / (seen > 0).sum((-2, -1)).clamp(min=1)


def _received(kspace: Tensor, mask: Tensor) -> Tensor:
    """Where samples hold something, bool (height, width); noise between its neighbours may be 0 by chance."""
    strength = kspace.abs().square().sum(0)
    filled = mask & (strength > EMPTY * strength.max())
    for axis in (0, 1):
        filled = filled | (mask & filled.roll(1, axis) & filled.roll(-1, axis))
    return filled


def noise_of(given: Measurement) -> Tensor:
    """Standard deviation of the real, and of the imaginary, part of the noise of each sample, where it was acquired.

    The colour is found in the samples of each scan; the level too, unless the measurement knows it.

    Returns
    -------
    Tensor
        Real (batch, coils, height, width), on the device of ``given``; 0 where nothing was acquired.
    """
    found = []
    for item, (kspace, mask) in enumerate(zip(given.kspace.cpu(), given.mask.cpu(), strict=True)):
        noise = estimate_noise(kspace, mask)
        found.append((noise if given.noise is None else noise.with_level(given.noise[item].cpu())).sigma)
    return torch.stack(found).to(given.kspace.device)


def white_noise(kspace: Tensor, level: Tensor | float, generator: torch.Generator) -> Tensor:
    """Complex white noise of the shape (coils, height, width) and the dtype of ``kspace``.

    ``level`` is the standard deviation of the real, and of the imaginary, part, as :func:`estimate_noise` gives it;
    with one for each sample (:attr:`Noise.sigma`) the noise is coloured.
    """
    # A complex normal number of torch has variance 1/2 in each part.
    return math.sqrt(2) * level * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)


def probing_noise(sigma: Tensor, generator: torch.Generator) -> Tensor:
    """Noise whose energy is that expected, neither more nor less by chance, complex (batch, coils, height, width).

    ``sigma`` is the standard deviation of each part of each sample, real and of this shape. An image that keeps all
    noise then keeps exactly all of a probe. All scans of a batch are probed alike, so that none depends on the others.
    """
    one = torch.zeros(1, *sigma.shape[1:], dtype=sigma.dtype.to_complex())
    noise = white_noise(one, sigma.cpu(), generator)
    energy = noise.abs().square().sum((1, 2, 3), keepdim=True)
    expected = 2 * sigma.cpu().square().sum((1, 2, 3), keepdim=True)
    return (noise * (expected / energy.clamp(min=torch.finfo(sigma.dtype).tiny)).sqrt()).to(sigma.device)


def pooled_levels(found: Sequence[Noise], scales: Sequence[float]) -> list[Tensor]:
    """One level for all slices of a file, in the units of each.

    A receiver is as noisy in one slice as in another. Levels from air agree but for chance, so their median is taken;
    those from the spectrum have something left of the image, the more the more there is in the slice, so their lower
    quartile is. Where any slice shows air, those without it do not count.

    Parameters
    ----------
    found
        What was estimated of each slice, of as many coils.
    scales
        What the k-space of each was divided by.

    Returns
    -------
    list
        A level for each slice, real (coils, 1, 1).
    """
    sure = [one.source == "air" for one in found]
    used = [one.level * scale for one, scale, good in zip(found, scales, sure, strict=True) if good or not any(sure)]
    level = torch.stack(used).quantile(0.5 if any(sure) else 0.25, dim=0)
    return [level / scale for scale in scales]


@dataclass(frozen=True)
class _Air:
    """Where only noise is seen: its power (coils, bands) along the readout, where (coils, rows, columns), how much."""

    power: Tensor
    where: Tensor
    pixels: int


def _air(power: Tensor) -> _Air | None:
    """Find air in power (coils, rows, columns), an image's, or of columns apart; None if some coil shows none."""
    smooth = blurred(power, BLUR)
    bands = len(power), BANDS
    levels, where = power.new_full(bands, math.nan), torch.zeros_like(power, dtype=torch.bool)
    edges = [len(power[0]) * band // BANDS for band in range(BANDS + 1)]
    for coil, (values, means) in enumerate(zip(power, smooth, strict=True)):
        for band in range(BANDS):
            rows = slice(edges[band], edges[band + 1])
            if rows.start == rows.stop:  # fewer rows than bands
                continue
            found = _quiet(values[rows], means[rows])
            if found is not None:
                where[coil, rows] = found
                levels[coil, band] = values[rows][found].mean()
        found_levels = levels[coil][levels[coil].isfinite()]
        if not len(found_levels):
            return None
        # False for a band without a level, too.
        air = levels[coil] <= LOUDEST * found_levels.min()
        for band in (~air).nonzero().flatten().tolist():
            where[coil, edges[band] : edges[band + 1]] = False
        known = air.nonzero().flatten()
        filtered = _filtered(levels[coil, known])
        for band in range(BANDS):  # one full of signal is as noisy as the nearest where noise can be seen
            nearest = known[(known - band).abs().argmin()].reshape(1)
            if filtered:  # a receive filter passes the middle: as the louder of both neighbours
                nearest = torch.cat([known[known <= band][-1:], known[known >= band][:1]])
            levels[coil, band] = levels[coil, nearest].max()
    return _Air(levels, where, int(where.sum()) // len(power))


def _quiet(power: Tensor, smooth: Tensor) -> Tensor | None:
    """Where a band shows noise alone, bool; None if its darkest part is not distributed as noise is."""
    darkest = smooth.flatten().kthvalue(max(1, round(0.05 * smooth.numel()))).values
    air = smooth < 1.6 * darkest
    for _ in range(2):
        air = smooth < 1.6 * power[air].mean()
        if not bool(air.any()):
            return None
    ratio = float(power[air].mean() / power[air].median().clamp(min=torch.finfo(power.dtype).tiny))
    return air if EXPONENTIAL[0] < ratio < EXPONENTIAL[1] and air.float().mean() > LEAST_AIR else None


def _filtered(levels: Tensor) -> bool:
    """Whether a receive filter shows in the levels of some coil's bands, (..., bands)."""
    return bool((levels.amax(-1) > FILTERED * levels.amin(-1)).any())


def _quietened(*axes: _Air | None) -> bool:
    """Whether a receive filter shows along an axis."""
    return any(air is not None and _filtered(air.power) for air in axes)


def _without_haze(image: Tensor, filled: Tensor, air: _Air) -> tuple[Tensor, Tensor]:
    """Colour of the noise in air, as :class:`Noise` has it, and its share of the level seen there, (coils, 1, 1)."""
    bands = air.power.repeat_interleave(torch.tensor(_heights(image.shape[1])), dim=1)[..., None]
    even = image * air.where / bands.clamp(min=torch.finfo(bands.dtype).tiny).sqrt()
    power = fft2c(even).abs().square()
    variance = _variance(power, filled)
    # Where noise is weak, the smooth profiles are least exact.
    strong = filled & (variance >= variance[filled].median())
    share = (power[:, strong] / variance[strong]).median(1).values / math.log(2) / power[:, filled].mean(1)
    return variance.sqrt(), share.clamp(max=1).sqrt()[:, None, None]


def _variance(power: Tensor, filled: Tensor) -> Tensor:
    """Variance of each sample (height, width) by the power of noise (coils, height, width), 1 in the mean."""
    profiles = []
    for axis in (0, 1):
        lines, received = power.movedim(1 + axis, 1), filled.movedim(axis, 0)
        along = torch.where(received, lines, math.nan).nanmedian(-1).values.nan_to_num().mean(0)
        known = received.any(1)
        width = max(1.0, len(along) / 32)
        profile = _smoothed(along[None], width)[0] / _smoothed(known[None].to(along.dtype), width)[0].clamp(min=1e-6)
        profiles.append(torch.where(known, profile, 0.0))
    if all(seen.amax() < COLOURED**2 * seen.amin() for seen in (profile[profile > 0] for profile in profiles)):
        return filled.to(power.dtype)
    product = profiles[0][:, None] * profiles[1] * filled
    return product / product[filled].mean()


def _heights(rows: int) -> list[int]:
    return [rows * (band + 1) // BANDS - rows * band // BANDS for band in range(BANDS)]


def blurred(values: Tensor, width: float) -> Tensor:
    """Gaussian average over neighbours (..., rows, columns), of standard deviation ``width``."""
    return _smoothed(_smoothed(values.transpose(-2, -1), width).transpose(-2, -1), width)


def _smoothed(values: Tensor, width: float) -> Tensor:
    """Gaussian average along the last axis, (..., n); beyond its ends there is nothing."""
    places = torch.arange(values.shape[-1], dtype=values.dtype, device=values.device)
    kernel = (-((places[:, None] - places) ** 2) / (2 * width**2)).exp()
    return values @ (kernel / kernel.sum(0))


def _without_gaps(filled: Tensor) -> bool:
    """Whether samples are neighbours in each row and in each column, bool (height, width)."""
    for axis in (0, 1):
        starts = (filled & ~filled.roll(1, axis)).sum(axis) + 0
        if bool((starts > 1).any()):
            return False
    return True


def _from_spectrum(kspace: Tensor, filled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Level, and what it lies between, from the outer samples, each real (coils, 1, 1)."""
    far = distance((filled.shape[0], filled.shape[1]), filled.device)[filled]
    outer = far > INNER * far.max()
    power, far = kspace[:, filled][:, outer].abs().square().double(), far[outer]
    rings = far.argsort(stable=True).chunk(RINGS)
    distances = torch.stack([far[ring].mean() for ring in rings])
    measured = torch.stack([power[:, ring].median(dim=1).values for ring in rings], dim=1) / math.log(2)
    fitted, high = _floor(distances[-OUTER:] ** -STEEP, measured[:, -OUTER:]), measured[:, -2:].mean(1)
    # The slower fall leaves less for noise, but for chance: the fit to more rings is the safer one then.
    low = _floor(distances**-FLAT, measured)
    level = torch.maximum(fitted, LEAST_RIM**2 * high).maximum(low)
    bounds = (level, low, torch.maximum(high, level))
    level, low, high = ((bound / 2).sqrt().to(kspace.real.dtype)[:, None, None] for bound in bounds)
    return level, low, high


def _floor(falling: Tensor, measured: Tensor) -> Tensor:
    """The constant c of the fit of ``A * falling + c`` to ``measured`` (coils, rings), both not negative."""
    weight = 1 / measured.clamp(min=torch.finfo(measured.dtype).tiny ** 0.25)
    signal = falling * weight
    ss, sw, ww = (signal * signal).sum(1), (signal * weight).sum(1), (weight * weight).sum(1)
    s1, w1 = signal.sum(1), weight.sum(1)
    determinant = ss * ww - sw * sw
    amplitude, constant = (s1 * ww - w1 * sw) / determinant, (w1 * ss - s1 * sw) / determinant
    return torch.where(amplitude < 0, w1 / ww, constant.clamp(min=0))


#: A coil whose noise is weaker than this part of the strongest coil's is not connected.
DEAD = 1e-5
#: What must be left of a coil's noise, as a part of it, once the other coils' has been taken out.
INDEPENDENT = 1e-3


def whitening_matrix(noise: Tensor) -> Tensor:
    """The matrix that makes the noise of the coils uncorrelated, of unit strength.

    With Psi the covariance of the coils and L its Cholesky factor (Psi = L L'), this is sqrt(2) inv(L): the real
    and the imaginary part of whitened noise each have a standard deviation of 1.

    Parameters
    ----------
    noise
        Complex (coils, samples), acquired without signal.

    Returns
    -------
    Tensor
        complex64 (coils, coils), lower triangular.

    Raises
    ------
    ValueError
        If the samples are too few or not finite, a coil is dead, or coils are linearly dependent.
    """
    if noise.ndim != 2 or not noise.is_complex():
        raise ValueError(f"noise must be complex (coils, samples), got {noise.dtype} {tuple(noise.shape)}")
    coils, samples = noise.shape
    if samples <= 2 * coils:
        raise ValueError(f"{samples} noise samples are too few for {coils} coils: more than {2 * coils} are needed")
    noise = noise.to(torch.complex128)
    if not torch.isfinite(torch.view_as_real(noise)).all():
        raise ValueError("the noise samples are not all finite")
    covariance = torch.cov(noise).reshape(coils, coils)  # without the mean: an offset of the receiver is no noise
    strength = covariance.diagonal().real.clamp(min=0).sqrt()
    dead = (strength <= DEAD * strength.max()).nonzero().flatten().tolist()
    if dead:
        raise ValueError(f"coils without noise, counted from 0: {', '.join(map(str, dead))}")
    # Of the correlation, not of the covariance: gains of the coils may differ by orders of magnitude.
    correlation = covariance / (strength[:, None] * strength)
    factor, failed = torch.linalg.cholesky_ex(correlation)
    independent = factor.diagonal().real
    if int(failed) or float(independent.min()) < INDEPENDENT:
        coil = int(failed) - 1 if int(failed) else int(independent.argmin())
        raise ValueError(f"the noise of coil {coil}, counted from 0, is a combination of that of other coils")
    identity = torch.eye(coils, dtype=torch.complex128)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    return (math.sqrt(2) * inverse / strength).to(torch.complex64)


def whitened(data: Tensor, matrix: Tensor) -> Tensor:
    """Mix the coils of complex data (coils, ...) by a :func:`whitening_matrix` (coils, coils); the dtype stays.

    Raises ``ValueError`` if the numbers of coils differ.
    """
    if matrix.shape != (data.shape[0], data.shape[0]):
        raise ValueError(f"a matrix of {tuple(matrix.shape)} does not fit {data.shape[0]} coils")
    return (matrix.to(data.dtype) @ data.flatten(1)).reshape(data.shape)
