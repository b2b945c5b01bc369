"""What one client sends, gathered into images, and the images that wait for the network."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ismrmrd import Acquisition, AcquisitionHeader

from sansref.data.mrd.acquisitions import ImageKey, Role, head_of, key_of, role_of
from sansref.data.mrd.calibration import Whitening
from sansref.data.mrd.grouping import LINE_BYTES, Collector, Group
from sansref.data.mrd.header import MrdHeader, parse_header
from sansref.errors import FileError
from sansref.serving.messages import ClientError
from sansref.serving.options import MEBIBYTE, ServerLimits, cost

LOGGER = logging.getLogger(__package__)


class Backlog:
    """A bounded queue between the thread that receives lines and the one that sends images.

    The receiving thread waits where there is no room, so that the system in the end makes the client wait. So many
    images may wait, and so many bytes of lines may be held: those that wait, those in work, and those of images still
    incomplete.
    """

    def __init__(self, images: int, most_bytes: int) -> None:
        self._images, self._most_bytes = images, most_bytes
        self._changed = threading.Condition()
        self._waiting: deque[Work] = deque()
        self._in_work = 0
        self._ended = self._dropped = False

    def wait_for_room(self, held: int) -> bool:
        """Wait until a line has room beside ``held`` bytes of incomplete images; False if nobody will take it."""
        with self._changed:
            self._changed.wait_for(lambda: self._dropped or not self._bytes or held + self._bytes < self._most_bytes)
            return not self._dropped

    def put(self, work: Work) -> None:
        """Wait for room and add an image; it is forgotten where nobody will take it."""
        with self._changed:
            self._changed.wait_for(lambda: self._dropped or len(self._waiting) < self._images)
            if not self._dropped:
                self._waiting.append(work)
                self._changed.notify_all()

    def take(self) -> Work | None:
        """Wait for the next image, the one before being done; None after the last."""
        with self._changed:
            self._in_work = 0
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._ended or self._dropped)
            if not self._waiting:
                return None
            work = self._waiting.popleft()
            self._in_work = work.bytes
            self._changed.notify_all()
            return work

    def end(self) -> None:
        """Nothing more will be put in."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def drop(self) -> None:
        """Forget what waits: nobody will take it."""
        with self._changed:
            self._dropped = True
            self._waiting.clear()
            self._changed.notify_all()

    @property
    def dropped(self) -> bool:
        """Whether nobody will take anything any more."""
        return self._dropped

    @property
    def _bytes(self) -> int:
        return self._in_work + sum(work.bytes for work in self._waiting)


#: Lines of noise and of calibration that count as progress.
OTHER_LINES = 65536


@dataclass(frozen=True, slots=True)
class Work:
    """An image whose lines are all there, with the header of the line nearest to the center of k-space.

    ``whitening`` makes the coils' noise white; ``bytes`` are the memory of the lines, ``units`` what it costs to
    reconstruct, see :func:`sansref.serving.options.cost`; ``acceleration`` are the points of the declared matrix for
    each one that was sampled.
    """

    group: Group
    line: AcquisitionHeader
    whitening: Whitening | None
    bytes: int
    units: float = 1.0
    acceleration: float = 1.0


class Gathering:
    """The lines of one measurement, gathered into images.

    Raises ``FileError`` or ``ClientError`` if the header cannot be used, or its matrix is too large.
    """

    def __init__(self, name: str, text: str, limits: ServerLimits) -> None:
        self._name, self._limits = name, limits
        self.header: MrdHeader = parse_header(name, text)
        if max(self.header.encoded) > limits.max_matrix:
            matrix = " x ".join(map(str, self.header.encoded))
            most = f"{limits.max_matrix}, the most that is taken here in any direction"
            raise ClientError(f"the declared matrix {matrix} is larger than {most}", "max_matrix")
        self._collector = Collector(name, self.header, limits.max_held * MEBIBYTE)
        self._central: dict[ImageKey, AcquisitionHeader] = {}  # of the line nearest to the center
        self._open = 0
        self._whitened: tuple[object, ...] | None = None
        self._by: Whitening | None = None
        self.lines = 0
        self._others = 0

    @property
    def held(self) -> int:
        """Memory that the lines of incomplete images take, in bytes."""
        return self._collector.held_bytes + LINE_BYTES * self._open

    def add(self, line: Acquisition) -> list[Work]:
        """Take a line; the images that it completes come out.

        Raises ``FileError`` or ``ClientError`` if the line cannot be part of the measurement, or more is held than may
        be.
        """
        needed = 8 * line.active_channels * math.prod(self.header.encoded)
        most = self._limits.max_held * MEBIBYTE
        # Whatever has not been acquired of the matrix is filled with zeros: few lines can ask for much.
        if max(needed, self.held) > most:
            problem = "an image takes" if needed > most else "incomplete images hold"
            told = f"{problem} {max(needed, self.held) // MEBIBYTE} MiB, and {self._limits.max_held} are taken here"
            cure = "" if needed > most else "; mark the last line of each slice (ACQ_LAST_IN_SLICE)"
            raise ClientError(told + cure, "max_held")
        self.lines += 1
        head = head_of(line)
        role = role_of(head)
        if role is Role.IMAGE:
            nearest = self._central.get(key := key_of(head))
            if nearest is None or self._distance(line) < self._distance(nearest):
                self._central[key] = line.getHead()
        self._open += role in (Role.IMAGE, Role.CALIBRATION)
        self._others += role in (Role.NOISE, Role.CALIBRATION)
        ready = self._ready(self._collector.add(head, line.data))
        if self._collector.held_bytes == 0:
            self._open = 0  # calibration lines without an image are dropped with the last image
        return ready

    @property
    def progress(self) -> int:
        """Grows with each line that was still missing; of noise and calibration, a reasonable number is needed."""
        return self._collector.places + min(self._others, OTHER_LINES)

    def finish(self) -> list[Work]:
        """What is left when nothing more will come."""
        return self._ready(self._collector.finish())

    def _distance(self, line: Acquisition | AcquisitionHeader) -> int:
        """Steps and partitions from the center of k-space."""
        steps = line.idx.kspace_encode_step_1 - self.header.steps1.center
        return abs(steps) + abs(line.idx.kspace_encode_step_2 - self.header.steps2.center)

    def _ready(self, groups: Iterable[Group]) -> list[Work]:
        ready = []
        for group in groups:
            line, data = self._central.pop(group.key), group.lines.data
            held = sum(samples.nbytes + LINE_BYTES for samples in data)
            whitening = self._whitening(len(data[0]), line.sample_time_us)
            x, y, z = self.header.encoded
            units = cost(x * y * z, len(data[0]), len(data))
            ready.append(Work(group, line, whitening, held, units, x * y * z / max(_places(group, x), 1)))
            self._open -= len(data)
        return ready

    def _whitening(self, coils: int, dwell: float) -> Whitening | None:
        """As for a file, noise that is of no use, say of a dead coil, is left aside."""
        noise = self._collector.noise
        if self._whitened != (coils, dwell, noise.dwell, noise.samples):
            self._whitened, self._by = (coils, dwell, noise.dwell, noise.samples), None
            try:
                self._by = noise.whitening(self._name, coils, dwell)
            except FileError as error:
                LOGGER.warning("%s: coils are not whitened: %s", self._name, error.problem)
        return self._by


def _places(group: Group, most: int) -> int:
    """Places on the grid that samples were sent of, each counted once however often it was acquired."""
    heads = group.lines.heads
    steps = (heads["idx"][name].astype(np.int64) for name in ("kspace_encode_step_1", "kspace_encode_step_2"))
    columns, index = np.unique(np.stack(list(steps)), axis=1, return_inverse=True)
    longest = np.zeros(columns.shape[1], np.int64)
    np.maximum.at(longest, index, np.minimum(heads["number_of_samples"], most))
    return int(longest.sum())
