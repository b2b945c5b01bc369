"""Gathering lines as they come, until an image has all of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sansref.data.mrd.acquisitions import (
    LAST_IN_MEASUREMENT,
    LAST_IN_REPETITION,
    LAST_IN_SLICE,
    Data,
    ImageKey,
    Lines,
    Role,
    check_head,
    is_role,
    key_of,
    role_of,
)
from sansref.data.mrd.calibration import NoiseScan
from sansref.data.mrd.gridding import ON_GRID
from sansref.data.mrd.header import MrdHeader, StepLimits
from sansref.errors import FileError

LINE_BYTES = 2048
"""Memory of a line besides its samples: its headers, and Python's own."""


@dataclass(frozen=True, slots=True)
class Group:
    """The lines of one image, as many as came."""

    key: ImageKey
    lines: Lines
    others: Lines | None = None
    """Lines of an earlier image of the same slice that calibrate this one, which has none."""


@dataclass(slots=True)
class _Open:
    """An image whose lines are still coming."""

    heads: list[Any] = field(default_factory=list)
    data: list[Data] = field(default_factory=list)
    places: set[tuple[int, int, int]] = field(default_factory=set)  # (step, partition, average) of the image lines
    partitions: set[int] = field(default_factory=set)
    averages: set[int] = field(default_factory=set)


class Collector:
    """Sorts a stream of lines into images.

    An image is complete with the line marked as the last of its slice or repetition, once all declared averages and
    partitions came; with the last line of the measurement; or when every declared line is there. A line that comes
    later opens a new image under the same key. Calibration lines that are a measurement of their own complete nothing;
    they go with the later images of their slice, too. Of incomplete images, ``most_bytes`` of samples may be held at a
    time; of calibration, a quarter of it is kept besides.
    """

    def __init__(self, source: Path | str, header: MrdHeader, most_bytes: int = 2**31) -> None:
        self.noise = NoiseScan()
        self.held_bytes = 0
        self.places = 0  # of all images so far: what each line brings that was still missing
        self._source = source
        self._header = header
        self._most_bytes = most_bytes
        self._open: dict[ImageKey, _Open] = {}
        self._calibrated: dict[int, Lines] = {}  # by slice
        steps = (header.steps1, header.steps2 if header.encoded[2] > 1 else StepLimits(0, 0, 0))
        self._declared = (*(step.maximum - step.minimum + 1 for step in steps), header.averages)

    def add(self, head: Any, data: Data) -> list[Group]:
        """Take in a line, complex64 (coils, samples), with an element of :data:`~sansref.data.mrd.acquisitions.HEAD`.

        Returns the images that it completes. Raises ``FileError`` if the line is implausible, or more would be held
        than is allowed.
        """
        role = role_of(head)
        if role in (Role.IMAGE, Role.CALIBRATION, Role.NOISE):
            check_head(self._source, head)
        if role is Role.NOISE:
            self.noise.add(head, data)
        elif role in (Role.IMAGE, Role.CALIBRATION):
            self._hold(head, data, role)
        # The last line of a measurement may be one that is dropped.
        return self._completed(head, role)

    def finish(self) -> list[Group]:
        """The images that are left, with those lines that came; those without an image line are dropped."""
        return self._release(list(self._open))

    def _hold(self, head: Any, data: Data, role: Role) -> None:
        if self.held_bytes + data.nbytes > self._most_bytes:
            problem = f"sends more than {self._most_bytes} bytes of lines before an image is complete"
            raise FileError(self._source, problem, "Mark the last line of each slice (ACQ_LAST_IN_SLICE)")
        image = self._open.setdefault(key_of(head), _Open())
        image.heads.append(head)
        image.data.append(data)
        self.held_bytes += data.nbytes
        if role is Role.IMAGE:
            counters = ("kspace_encode_step_1", "kspace_encode_step_2", "average")
            step, partition, average = (int(head["idx"][name]) for name in counters)
            self.places += (step, partition, average) not in image.places
            image.places.add((step, partition, average))
            image.partitions.add(partition)
            image.averages.add(average)

    def _completed(self, head: Any, role: Role) -> list[Group]:
        flags, key = int(head["flags"]), key_of(head)
        if flags & LAST_IN_MEASUREMENT:
            return self._release(list(self._open))
        embedded = self._header.calibration in ON_GRID and not int(head["encoding_space_ref"])
        if not (role is Role.IMAGE or (role is Role.CALIBRATION and embedded)) or not self._open[key].places:
            return []
        image = self._open[key]
        if len(image.places) >= math.prod(self._declared):
            return self._release([key])
        # Scanners may set these flags on every average and every partition.
        if flags & (LAST_IN_SLICE | LAST_IN_REPETITION) and self._has_all(image):
            whole = flags & LAST_IN_REPETITION
            return self._release([k for k in self._open if k == key or (whole and k.repetition == key.repetition)])
        return []

    def _has_all(self, image: _Open) -> bool:
        """Whether lines of all declared partitions and averages came."""
        return len(image.partitions) >= self._declared[1] and len(image.averages) >= self._declared[2]

    def _release(self, keys: list[ImageKey]) -> list[Group]:
        groups = []
        for key in sorted(keys):
            image = self._open.pop(key)
            lines = Lines(np.array(image.heads, dtype=image.heads[0].dtype), image.data)
            self.held_bytes -= _bytes(lines)
            kept = self._kept(key, lines)
            if image.places:
                groups.append(Group(key, lines, kept))
        return groups

    def _kept(self, key: ImageKey, lines: Lines) -> Lines | None:
        """What calibrates an image without calibration lines: those of the last one of its slice that had some."""
        calibration = is_role(lines.heads, Role.CALIBRATION)
        known = self._calibrated.get(key.slice)
        if not calibration.any():
            return known
        # Where they lie on the image's grid, they are whole only with the lines of their image.
        if self._header.calibration not in ON_GRID:
            chosen = np.flatnonzero(calibration)
            lines = Lines(lines.heads[chosen], [lines.data[index] for index in chosen])
        kept = [lines, *(each for number, each in self._calibrated.items() if number != key.slice)]
        if sum(_bytes(each) + LINE_BYTES * len(each.data) for each in kept) <= self._most_bytes // 4:
            self._calibrated[key.slice] = lines
        return None


def _bytes(lines: Lines) -> int:
    return sum(data.nbytes for data in lines.data)
