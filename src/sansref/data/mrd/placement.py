"""Where the samples of lines lie on the encoded grid, as told by their headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sansref.data.mrd.header import Limits, MrdHeader
from sansref.data.mrd.lines import REVERSE, Heads, Role, is_role
from sansref.errors import FileError

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

CURE = "Export it again; its header and its acquisitions do not belong together"
#: Grid points to acquired samples: far beyond any acceleration, and a bound on the memory that a header asks for.
MOST_PADDING = 64
#: A grid of this many points, over all coils, is no danger to anyone.
SMALL_GRID = 2**22


@dataclass(frozen=True, slots=True)
class Placement:
    """Where lines lie on the grid; all arrays have one element per line.

    Attributes
    ----------
    rows
        First grid point along the readout.
    columns, partitions
        Grid point along phase encoding and along the partitions.
    first, stop
        The samples that are kept, counted in the direction of the grid (after reversal).
    reverse
        Whether the line was read backwards.
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
    if image.any() and len(calibration) and header.calibration in (None, "embedded"):
        example = heads[int(np.argmax(image))]
        taken = set(zip(*_steps(heads[image]), strict=True))
        for index, place in zip(calibration, zip(*_steps(heads[calibration]), strict=True), strict=True):
            chosen[index] = place not in taken and _reads_alike(heads[index], example)
    found: Integers = np.flatnonzero(chosen)
    return found


def place(source: Path | str, header: MrdHeader, heads: Heads) -> Placement:
    """Place lines on the grid.

    Zero of k-space (a line's ``center_sample``, the header's central steps) lies at ``size // 2``. A line as long as
    the grid fills it, whatever its centre is said to be. A line that was read backwards is turned round first, and
    its ``center_sample`` counts in the turned line.

    Raises
    ------
    FileError
        If a line, or a part of it, lies outside the grid, or the grid is far too large for the lines.
    """
    x, y, z = header.encoded
    samples = heads["number_of_samples"].astype(np.int64)
    reverse = (heads["flags"].astype(np.uint64) & np.uint64(REVERSE)) != 0
    before, after = heads["discard_pre"].astype(np.int64), heads["discard_post"].astype(np.int64)
    first, stop = np.where(reverse, after, before), samples - np.where(reverse, before, after)
    rows = np.where(samples == x, 0, x // 2 - heads["center_sample"].astype(np.int64)) + first
    step1, step2 = _steps(heads)
    columns, partitions = _centred(step1, header.steps1, y), _centred(step2, header.steps2, z)
    placement = Placement(rows, columns, partitions, first, stop, reverse)
    _check_inside(source, header, heads, placement)
    acquired, coils = int((stop - first).sum()), int(heads["active_channels"].max(initial=1))
    if x * y * z * coils > max(MOST_PADDING * acquired * coils, SMALL_GRID):
        raise FileError(source, f"declares a grid of {x} x {y} x {z} for {acquired} acquired samples", CURE)
    return placement


def grid_mask(header: MrdHeader, placement: Placement) -> Mask:
    """Which points of the grid are acquired, (partitions, columns, rows)."""
    x, y, z = header.encoded
    mask = np.zeros((z, y, x), dtype=bool)
    for *at, row, stop in zip(
        placement.partitions, placement.columns, placement.rows, placement.stop_rows, strict=True
    ):
        mask[(*at, slice(row, stop))] = True
    return mask


def _steps(heads: Heads) -> tuple[Integers, Integers]:
    idx = heads["idx"]
    return idx["kspace_encode_step_1"].astype(np.int64), idx["kspace_encode_step_2"].astype(np.int64)


def _reads_alike(head: Any, example: Any) -> bool:
    same = ("number_of_samples", "active_channels", "center_sample", "discard_pre", "discard_post")
    dwell = np.isclose(head["sample_time_us"], example["sample_time_us"], rtol=0.01)
    return bool(dwell) and all(head[name] == example[name] for name in same)


def _centred(steps: Integers, limits: Limits, size: int) -> Integers:
    return steps - limits.center + size // 2


def _check_inside(source: Path | str, header: MrdHeader, heads: Heads, placement: Placement) -> None:
    x, y, z = header.encoded
    outside = (placement.rows < 0) | (placement.stop_rows > x) | (placement.stop <= placement.first)
    outside |= (placement.columns < 0) | (placement.columns >= y)
    outside |= (placement.partitions < 0) | (placement.partitions >= z)
    if outside.any():
        head = heads[int(np.argmax(outside))]
        counters, samples = head["idx"], int(head["number_of_samples"])
        where = f"step {counters['kspace_encode_step_1']}, partition {counters['kspace_encode_step_2']}"
        echo = f"{samples} samples with the centre at {head['center_sample']}"
        raise FileError(source, f"has a line ({where}, {echo}) outside its encoded grid of {x} x {y} x {z}", CURE)
