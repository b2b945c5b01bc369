"""Lines that are no part of an image: noise, and calibration lines that tell what the coils see.

Calibration lines may be numbered from anywhere, have a matrix, oversampling, encoding and contrast of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sansref.data.mrd.acquisitions import Data, Heads, ImageKey, Lines, Role, is_role
from sansref.data.mrd.gridding import (
    MOST_PADDING,
    ON_GRID,
    SMALL_GRID,
    Integers,
    centers_of,
    kept_samples,
    measured_lines,
    reversed_lines,
    steps_of,
)
from sansref.data.mrd.header import MrdHeader
from sansref.errors import FileError
from sansref.kspace.fourier import fft1c, ifft1c
from sansref.kspace.grid import center_fit
from sansref.kspace.noise import whitening_matrix

#: Samples per coil that are kept: they tell a covariance to well under 1 %.
MOST_SAMPLES = 2**16
#: Dwell times of which lines are kept: a stream may name as many as it likes.
MOST_DWELLS = 8
#: Of the dwell times of scan and noise; beyond it one of them is not a dwell time.
MOST_RATIO = 100.0


@dataclass(frozen=True)
class Whitening:
    """What makes the noise of all coils independent and equally strong.

    Attributes
    ----------
    matrix
        Mixes the coils, complex64 (coils, coils), see :func:`sansref.kspace.noise.whitened`.
    unit
        Whether the noise of the scan then is 1 in each part of a sample; else its strength is not known.
    """

    matrix: Tensor
    unit: bool


class NoiseScan:
    """Gathers the noise lines of a scan, as many as are of use.

    Those of one dwell time are taken: of the most samples, and one that is told before one that is not.
    """

    def __init__(self) -> None:
        self._lines: dict[float, list[Data]] = {}
        self._samples = Counter[float]()
        self.coils = 0

    @property
    def dwell(self) -> float:
        """Dwell time of the lines that are taken, in microseconds; 0 where it is not told."""
        return max(self._lines, key=lambda dwell: (dwell > 0, self._samples[dwell]), default=0.0)

    @property
    def samples(self) -> int:
        """Samples of each coil that are taken."""
        return self._samples[self.dwell]

    @property
    def full(self) -> bool:
        """Whether further lines are of no use."""
        return self.dwell > 0 and self.samples >= MOST_SAMPLES

    def add(self, head: Any, data: Data) -> None:
        """Take in a noise line, complex64 (coils, samples); another number of coils starts afresh."""
        if len(data) != self.coils:
            self._lines, self._samples, self.coils = {}, Counter(), len(data)
        told = float(head["sample_time_us"])
        dwell = told if told > 0 else 0.0
        if self._samples[dwell] < MOST_SAMPLES and (dwell in self._lines or len(self._lines) < MOST_DWELLS):
            self._lines.setdefault(dwell, []).append(data)
            self._samples[dwell] += data.shape[1]

    def whitening(self, source: Path | str, coils: int, dwell: float) -> Whitening | None:
        """What whitens lines of a scan of this dwell time, in microseconds, 0 where it is not told.

        Noise power grows with the bandwidth, the inverse of the dwell time, so noise that was sampled faster than the
        scan is scaled down. (The receiver's filter, which may pass some 20 % less noise at the edges of the noise
        scan's band, is not known and left out.) None where there is no noise, or that of another number of coils.
        Raises ``FileError`` if the noise is of no use: too short, not finite, of a dead coil or of coils that depend on
        each other.
        """
        if self.coils != coils or not self._lines:
            return None
        try:
            matrix = whitening_matrix(torch.from_numpy(np.concatenate(self._lines[self.dwell], axis=1)))
        except ValueError as error:
            problem = f"has noise lines that cannot whiten the coils: {error}"
            raise FileError(source, problem, "Repair or remove this coil, or remove the noise lines") from error
        ratio = dwell / self.dwell if self.dwell > 0 else 0.0
        known = 1 / MOST_RATIO < ratio < MOST_RATIO
        return Whitening(matrix * math.sqrt(ratio) if known else matrix, known)


#: How much finer an image is made, at most, to be cut to another field of view.
FINER = 64
#: By what images are near to each other, the first before the others.
NEAREST = ("contrast", "set", "phase", "repetition")


def calibration_lines(header: MrdHeader, lines: Lines) -> Lines | None:
    """Those of an image's lines that serve for calibration only; None where there is none."""
    apart = is_role(lines.heads, Role.CALIBRATION)
    apart[measured_lines(header, lines.heads)] = False
    chosen = np.flatnonzero(apart)
    return Lines(lines.heads[chosen], [lines.data[index] for index in chosen]) if len(chosen) else None


def lines_for(header: MrdHeader, key: ImageKey, images: Iterable[tuple[ImageKey, Integers]], heads: Heads) -> Integers:
    """Indices of the lines of other images that calibrate an image which lacks calibration lines of its own.

    Where calibration is a measurement of its own, they are those of the nearest image of the same slice that has some:
    scanners often acquire it once, before the first repetition. Where it lies on the image's grid, neighbouring images
    give what this one lacks, until they give no more: they differ in the lines that are left out (TGRAPPA, Breuer et
    al., Magn Reson Med 53(4), 2005), or have the calibration lines. ``images`` are all images of the file, with the
    indices of their lines, calibration lines among them; ``heads`` are those of all lines.
    """

    def distance(other: ImageKey) -> tuple[int, ...]:
        return tuple(abs(getattr(other, name) - getattr(key, name)) for name in NEAREST)

    near = sorted(((distance(other), lines) for other, lines in images if other.slice == key.slice), key=lambda e: e[0])
    apart = header.calibration not in ON_GRID
    gathered, places = [np.zeros(0, np.int64)], set[tuple[int, int]]()
    for (contrast, of_set, *_), lines in near:
        if apart:
            lines = lines[is_role(heads[lines], Role.CALIBRATION)]
            if len(lines):
                return lines
        elif (contrast, of_set) == (0, 0):
            new = set(zip(*steps_of(heads[lines]), strict=True)) - places
            if not new and places:
                break
            places |= new
            gathered.append(lines)
    return np.sort(np.concatenate(gathered))


def calibration_kspace(
    header: MrdHeader, lines: Lines, coils: int, slices: int, size: tuple[int, int]
) -> list[Tensor] | None:
    """K-space of a calibration scan on the grid of the image.

    Parameters
    ----------
    header
        How the image was encoded.
    coils
        Receive channels of the image.
    slices
        1, or the partitions of a 3-D slab without its oversampling.
    size
        Rows and columns of the image's k-space.

    Returns
    -------
    list of Tensor or None
        One complex64 (coils, rows, columns) per slice, zero where not acquired; None where the lines do not show the
        center of k-space in these coils.
    """
    usable = np.flatnonzero((lines.heads["active_channels"] == coils) & (lines.heads["number_of_samples"] > 0))
    if not len(usable):
        return None
    spaces = lines.heads["encoding_space_ref"][usable]
    usable = usable[spaces == spaces[-1]]
    block = _central_block(header, lines.heads[usable], [lines.data[index] for index in usable])
    if block is None or (block.shape[0] == 1 and slices > 1) or (block.shape[0] > 1 and header.encoded[2] == 1):
        return None
    space = int(spaces[-1])
    own = header.fovs[space] if space < len(header.fovs) else None
    x, y, z = own or header.encoded_fov
    rows, columns = size
    for axis, wanted, told in (
        (3, rows * header.spacing[0], x),
        (1, columns * header.spacing[1], y),
        (0, header.encoded_fov[2], z if header.encoded[2] > 1 else header.encoded_fov[2]),
    ):
        block = _of_field(block, axis, wanted / told)
    if header.encoded[2] > 1:
        block = ifft1c(_sized(block, 0, header.encoded[2]), 0)
        block = _sized(block, 0, slices)
    return [center_fit(each.permute(1, 2, 0), size).contiguous() for each in block]


def _central_block(header: MrdHeader, heads: Heads, data: list[Data]) -> Tensor | None:
    """The largest fully sampled block about the strongest sample, complex64 (partitions, columns, coils, rows)."""
    step1, step2 = (steps - steps.min() for steps in steps_of(heads))
    (first, stop), centers = kept_samples(heads), centers_of(header, heads)
    rows = centers.max() - centers + first
    rows -= rows.min()
    y, z, x = (int(each.max()) for each in (step1 + 1, step2 + 1, rows + stop - first))
    coils, acquired = len(data[0]), int((stop - first).sum())
    if (stop <= first).any() or x * y * z * coils > max(MOST_PADDING * acquired * coils, SMALL_GRID):
        return None
    total, count = np.zeros((z, y, coils, x), np.complex64), np.zeros((z, y, x), np.float32)
    for index, (samples, turned) in enumerate(zip(data, reversed_lines(heads), strict=True)):
        if samples.shape != (coils, int(heads["number_of_samples"][index])):
            return None
        kept = (samples[:, ::-1] if turned else samples)[:, first[index] : stop[index]]
        place, span = (step2[index], step1[index]), slice(rows[index], rows[index] + kept.shape[1])
        total[place][:, span] += kept
        count[place][span] += 1
    total /= np.maximum(count, 1)[:, :, None]
    energy = (np.abs(total) ** 2).sum(2)
    if not np.isfinite(energy).all() or not energy.any():
        return None
    partition, column, row = (int(at) for at in np.unravel_index(int(energy.argmax()), energy.shape))
    there = count > 0
    along = _extent(there[partition, column], row)
    across = _extent(there[partition][:, along].all(-1), column)
    through = _extent(there[:, across][:, :, along].all((1, 2)), partition)
    return torch.from_numpy(np.ascontiguousarray(total[through, across][..., along]))


def _extent(acquired: Any, center: int) -> slice:
    """The longest run of acquired samples in which ``center`` is the middle, at ``n // 2``."""
    gaps = np.flatnonzero(~acquired)
    before = center - 1 - int(gaps[gaps < center].max(initial=-1))
    after = int(gaps[gaps > center].min(initial=len(acquired))) - center - 1
    size = min(2 * before + 1, 2 * after + 2)
    return slice(center - size // 2, center - size // 2 + size)


def _of_field(kspace: Tensor, axis: int, ratio: float) -> Tensor:
    """K-space of a field of view that is ``ratio`` times as large along an axis."""
    size = kspace.shape[axis]
    kept = max(round(size * ratio), 1)
    if kept == size:
        return kspace
    # Padded until the new field of view is a whole number of pixels, which keeps maps in place.
    fine = min(range(size, size + FINER), key=lambda n: (round(abs(n * ratio - round(n * ratio)), 6), n))
    image = ifft1c(_sized(kspace, axis, fine), axis)
    return _sized(fft1c(_sized(image, axis, max(round(fine * ratio), 1)), axis), axis, max(int(size * ratio + 1e-6), 1))


def _sized(data: Tensor, axis: int, size: int) -> Tensor:
    """Cropped or zero-padded along one axis about its center."""
    moved = data.movedim(axis, -1)
    return center_fit(moved, (moved.shape[-2], size)).movedim(-1, axis)
