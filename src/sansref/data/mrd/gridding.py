"""Where the samples of lines lie on the encoded grid, as told by their headers alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sansref.data.mrd.acquisitions import REVERSE, STEPS, Heads, Role, is_role
from sansref.data.mrd.header import MrdHeader, StepLimits
from sansref.errors import FileError

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

CURE = "Export it again; its header and its acquisitions do not belong together"
#: Calibration modes whose lines belong to the image's own k-space. In those that are left ("separate", "external",
#: "other") they are a measurement of their own, which tells only what the coils see.
ON_GRID = (None, "embedded", "interleaved")
#: Grid points to acquired samples: far beyond any acceleration, and a bound on the memory that a header asks for.
MOST_PADDING = 64
#: A grid of this many points, over all coils, is no danger to anyone.
SMALL_GRID = 2**22


@dataclass(frozen=True, slots=True)
class GridPlaces:
    """Where lines lie on the grid; all arrays have one element per line.

    ``rows`` is the first grid point along the readout, ``first`` to ``stop`` are the samples that are kept, counted in
    the direction of the grid (after reversal).
    """

    rows: Integers
    columns: Integers
    partitions: Integers
    first: Integers
    stop: Integers
    reverse: Mask

    @property
    def stop_rows(self) -> Integers:
        """One past the last grid point along the readout."""
        return self.rows + self.stop - self.first


def measured_lines(header: MrdHeader, heads: Heads) -> Integers:
    """Indices of the lines that an image is made of.

    These are its image lines, and the calibration lines that lie on its grid: read out alike, at places that no image
    line takes. Calibration that is said to be separate is another measurement, often of another contrast: it stays out.
    """
    image = is_role(heads, Role.IMAGE)
    chosen = image.copy()
    calibration = np.flatnonzero(is_role(heads, Role.CALIBRATION))
    if image.any() and len(calibration) and header.calibration in ON_GRID:
        taken = set(zip(*steps_of(heads[image]), strict=True))
        free = [place not in taken for place in zip(*steps_of(heads[calibration]), strict=True)]
        chosen[calibration] = free & _read_alike(header, heads, int(np.argmax(image)))[calibration]
    return np.flatnonzero(chosen)


def planar(header: MrdHeader, heads: Heads) -> MrdHeader:
    """The header of a 2-D scan where all measured lines are of one partition, whatever the header says.

    Sequences that are written in another language than the scanner's (Pulseq) leave a protocol that says 3-D, and
    converters an encoded matrix of 2 or of as many partitions as there are slices.
    """
    partitions = np.unique(steps_of(heads[measured_lines(header, heads)])[1])
    if len(partitions) != 1:
        return header
    (x, y, z), (step,) = header.encoded, partitions.tolist()
    if z == 1:
        return replace(header, steps2=StepLimits(step, step, step))
    thickness = header.recon_fov[2] / header.recon[2]
    return replace(
        header,
        encoded=(x, y, 1),
        recon=(*header.recon[:2], 1),
        encoded_fov=(*header.encoded_fov[:2], thickness),
        recon_fov=(*header.recon_fov[:2], thickness),
        steps2=StepLimits(step, step, step),
    )


def centers_of(header: MrdHeader, heads: Heads) -> Integers:
    """The sample of each line at which k-space is zero, counted in the direction of the grid.

    ISMRMRD's ``center_sample`` is the "index of the readout sample corresponding to k-space center (zero indexed)"
    (its documentation, "Raw Acquisition Data"), so of a line that was read backwards it counts in the order of
    acquisition. Siemens' column of the center, which converters copy, is greater by one in such lines: 64 of 128
    samples in either direction (observed by the authors of mrpro, whose reader takes one off).
    """
    samples, told = heads["number_of_samples"].astype(np.int64), heads["center_sample"].astype(np.int64)
    turned: Integers = np.where(reversed_lines(heads), samples - told - (0 if header.siemens else 1), told)
    return turned


def reversed_lines(heads: Heads) -> Mask:
    """Which lines were read backwards."""
    backwards: Mask = (heads["flags"].astype(np.uint64) & np.uint64(REVERSE)) != 0
    return backwards


def kept_samples(heads: Heads) -> tuple[Integers, Integers]:
    """First and one past the last sample that is not to be discarded, counted in the direction of the grid."""
    samples, reverse = heads["number_of_samples"].astype(np.int64), reversed_lines(heads)
    before, after = heads["discard_pre"].astype(np.int64), heads["discard_post"].astype(np.int64)
    return np.where(reverse, after, before), samples - np.where(reverse, before, after)


def place(source: Path | str, header: MrdHeader, heads: Heads) -> GridPlaces:
    """Place lines on the grid.

    Zero of k-space (a line's center as :func:`centers_of` tells it, the header's central steps) lies at ``size // 2``.
    A line as long as the grid fills it, whatever its center is said to be. A line that was read backwards is turned
    round first. Raises ``FileError`` if a line, or a part of it, lies outside the grid, or the grid is far too large
    for the lines.
    """
    x, y, z = header.encoded
    samples = heads["number_of_samples"].astype(np.int64)
    first, stop = kept_samples(heads)
    rows = np.where(samples == x, 0, x // 2 - centers_of(header, heads)) + first
    step1, step2 = steps_of(heads)
    columns, partitions = step1 - header.steps1.center + y // 2, step2 - header.steps2.center + z // 2
    places = GridPlaces(rows, columns, partitions, first, stop, reversed_lines(heads))
    _check_inside(source, header, heads, places)
    acquired, coils = int((stop - first).sum()), int(heads["active_channels"].max(initial=1))
    if x * y * z * coils > max(MOST_PADDING * acquired * coils, SMALL_GRID):
        raise FileError(source, f"declares a grid of {x} x {y} x {z} for {acquired} acquired samples", CURE)
    return places


def grid_mask(header: MrdHeader, places: GridPlaces) -> Mask:
    """Which points of the grid are acquired, (partitions, columns, rows)."""
    x, y, z = header.encoded
    mask = np.zeros((z, y, x), dtype=bool)
    for *at, row, stop in zip(places.partitions, places.columns, places.rows, places.stop_rows, strict=True):
        mask[(*at, slice(row, stop))] = True
    return mask


def steps_of(heads: Heads) -> tuple[Integers, Integers]:
    """Phase-encoding and partition counter of each line."""
    first, second = (heads["idx"][name].astype(np.int64) for name in STEPS)
    return first, second


def _read_alike(header: MrdHeader, heads: Heads, example: int) -> Mask:
    """Which lines have the samples of an example, at the same places of the readout."""
    alike: Mask = np.isclose(heads["sample_time_us"], heads["sample_time_us"][example], rtol=0.01)
    told, turned = heads["center_sample"], centers_of(header, heads)
    # Some writers tell one center for both directions of the readout.
    alike &= (told == told[example]) | (turned == turned[example])
    same = (heads[name] for name in ("number_of_samples", "active_channels", "encoding_space_ref"))
    for values in (*same, *kept_samples(heads)):
        alike &= values == values[example]
    return alike


def _check_inside(source: Path | str, header: MrdHeader, heads: Heads, places: GridPlaces) -> None:
    x, y, z = header.encoded
    outside = (places.rows < 0) | (places.stop_rows > x) | (places.stop <= places.first)
    outside |= (places.columns < 0) | (places.columns >= y)
    outside |= (places.partitions < 0) | (places.partitions >= z)
    if outside.any():
        head = heads[int(np.argmax(outside))]
        counters, samples = head["idx"], int(head["number_of_samples"])
        where = f"step {counters['kspace_encode_step_1']}, partition {counters['kspace_encode_step_2']}"
        echo = f"{samples} samples with the center at {head['center_sample']}"
        raise FileError(source, f"has a line ({where}, {echo}) outside its encoded grid of {x} x {y} x {z}", CURE)
