"""One trained run that all clients share: images take turns, and are broken off where nobody waits for them."""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sansref.commands.denoised import (
    KEPT,
    LEARNED,
    RECONSTRUCTIONS,
    Denoised,
    denoised,
    notes_of,
    taken_out,
    with_samples,
)
from sansref.commands.error_map import MappedSlice, mapped_slice, meanings, told_of
from sansref.commands.reconstruct import Accelerator, Job, Worker, reconstruct_scan
from sansref.data.mrd.assemble import assemble
from sansref.data.mrd.header import MrdHeader
from sansref.errors import FileError
from sansref.metrics.contradiction import SEEN
from sansref.metrics.error_maps import ErrorMapOptions
from sansref.metrics.held_out import Reconstruct
from sansref.results.scorer import magnitude
from sansref.scan import ScanMeta
from sansref.serving.gathering import Work
from sansref.serving.images import SentImage
from sansref.serving.messages import LOOK, ClientError
from sansref.serving.options import QUICK, SECONDS_A_UNIT, ServerLimits
from sansref.training.run import RunDirectory

LOGGER = logging.getLogger(__package__)

Result = TypeVar("Result")
#: Seconds after which a computation that has not ended is told again; after which the log says so.
AGAIN, SLOW = 0.5, 5.0
#: An image that is expected to take so many times longer than it may is not begun.
SURELY = 3.0


class UnwantedError(Exception):
    """Nobody waits for the result any more."""


class _BrokenOffError(BaseException):
    """Raised inside a computation to end it; no ``except Exception`` on the way may stop it."""


class Turns:
    """Two lanes, in each of which one image is computed at a time, in the order in which they were asked for.

    A client asks for one image at a time, so that clients take turns. Images that take long have a lane of their own:
    those that are quick never wait for them.
    """

    def __init__(self, most_seconds: float) -> None:
        self._most_seconds = most_seconds
        self._lanes = (_Lane(), _Lane())
        self._rate = SECONDS_A_UNIT

    def run(self, units: float, work: Callable[[], Result], wanted: Callable[[], bool]) -> Result:
        """Wait for a turn, compute, and return the result.

        Raises ``ClientError`` if it is expected to take, or takes, longer than it may, and ``UnwantedError`` if nobody
        waits any more.

        Parameters
        ----------
        units
            What it costs, see :func:`sansref.serving.options.cost`.
        work
            The computation. It runs in a thread of its own: what is left of it when it is broken off in the middle,
            such as the thread's modes of PyTorch, ends with the thread.
        wanted
            Asked again and again whether somebody still waits for the result.
        """
        most, expected = self._most_seconds, units * self._rate  # in seconds, by the images before
        # The estimate is rough, and an image that takes too long is stopped anyway.
        if expected > SURELY * most:
            told = f"it would take about {expected:.0f} s, and {most:g} s is the most for one image"
            raise ClientError(told, "max_seconds")
        with self._lanes[expected > QUICK].turn(wanted):
            begin = time.monotonic()
            computation = _Computation(work)
            while not computation.ended(LOOK):
                if not wanted():
                    computation.break_off()
                    raise UnwantedError
                if time.monotonic() - begin > most:
                    computation.break_off()
                    raise ClientError(f"it was not done after {most:g} s, the limit for one image", "max_seconds")
            result = computation.result()
            seconds = time.monotonic() - begin
            if seconds > 1:  # of shorter ones, most is not in proportion to their size
                # What a strange image took must not have all others refused.
                self._rate += 0.2 * (min(seconds / units, 2 * self._rate) - self._rate)
            return result

    def close(self) -> None:
        """Wait for the images in work."""
        for lane in self._lanes:
            with lane.turn(lambda: True):
                pass


class _Lane:
    """First come, first served."""

    def __init__(self) -> None:
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, wanted: Callable[[], bool]) -> Iterator[None]:
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
        try:
            while True:
                with self._changed:
                    if self._changed.wait_for(lambda: self._queue[0] is ticket, LOOK):
                        break
                if not wanted():
                    raise UnwantedError
            yield
        finally:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()


class _Computation(Generic[Result]):
    """A call in a thread that can be broken off between any two steps of Python's.

    Libraries whose loops have no place to ask whether to go on, as that of coil maps, are stopped like this too. A
    single call into compiled code is not: it takes seconds at most for the largest matrix. What is imported or compiled
    at first use would be left half-done: the engine sees to it beforehand.
    """

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._over = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="reconstruct", daemon=True)
        self._thread.start()

    def ended(self, seconds: float) -> bool:
        """Wait so long for the end, and tell whether it has come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Result:
        if self._error is not None:
            raise self._error
        return self._results[0]

    def break_off(self) -> None:
        """Stop, and wait until it has: the next one must find the memory free."""
        begin, collecting = time.monotonic(), gc.isenabled()
        gc.disable()  # callbacks of what it frees would meet the error, and Python goes on after those
        try:
            self._raise_in_thread(_BrokenOffError)
            while not self.ended(AGAIN):
                self._raise_in_thread(_BrokenOffError)
        finally:
            if collecting:
                gc.enable()
        if (took := time.monotonic() - begin) > SLOW:
            LOGGER.warning("an image took %.0f s to break off", took)

    def _run(self) -> None:
        try:
            try:
                self._results.append(self._work())
            finally:
                self._end()
        except BaseException as error:  # to be raised where it is waited for
            self._error = error

    def _end(self) -> None:
        """From now on nothing is raised in this thread, not even what was on its way."""
        with self._lock:
            self._over = True
            _raise_in(threading.get_ident(), None)

    def _raise_in_thread(self, error: type[BaseException]) -> None:
        with self._lock:
            if not self._over and self._thread.ident is not None:
                _raise_in(self._thread.ident, error)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Let a thread meet an error at its next step, or take back one that it has not met."""
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


class Engine:
    """A trained method that reconstructs the images of all clients, who take turns, each image in ``most_seconds``.

    With ``error_map``, images come with maps of where they may be wrong; an image then takes more ``reconstructions``,
    which count into these seconds. The network exists once, and the memory that an image takes on its way twice,
    however many clients there are. Raises ``FileError`` if the run cannot be used, and ``SettingError`` if there is no
    GPU where one is asked for, or no error maps can be made of the run.
    """

    def __init__(
        self,
        run: RunDirectory,
        accelerator: Accelerator = "auto",
        most_seconds: float = ServerLimits.max_seconds,
        error_map: ErrorMapOptions | None = None,
    ) -> None:
        self._worker = Worker(Job(run, run.path, accelerator=accelerator, error_map=error_map))
        self._family = self._worker.job.run.config().sampling.family
        mapped = 0 if error_map is None else error_map.reconstructions
        self.reconstructions = mapped + (RECONSTRUCTIONS if self._worker.method.denoises else 0) or 1
        self.made, self.device = self._worker.made, self._worker.device
        self._turns = Turns(most_seconds)

    def reconstruct(
        self, source: str, header: MrdHeader, work: Work, number: int, wanted: Callable[[], bool] = lambda: True
    ) -> SentImage:
        """Wait for the turn of image ``number`` of a measurement, and reconstruct it if it is still ``wanted``.

        Raises ``ClientError`` if it takes too long; ``UnwantedError`` if nobody waits any more; ``FileError``, blaming
        ``source``, if the lines cannot be an image, or not one that the method can reconstruct.
        """
        return self._turns.run(
            self.reconstructions * work.units, lambda: self._reconstruct(source, header, work, number), wanted
        )

    def close(self) -> None:
        """Wait for the images in work."""
        self._turns.close()

    def _reconstruct(self, source: str, header: MrdHeader, work: Work, number: int) -> SentImage:
        start = time.monotonic()
        meta = ScanMeta(header.subject or "unknown", source, slice=number)
        images: list[Tensor] = []
        found: list[MappedSlice] = []
        cleaned: list[tuple[ScanMeta, Denoised]] = []
        first, told, wanted = None, list[str](), self._worker.maps
        for measured in assemble(source, header, work.group.lines, meta, work.whitening, work.group.others):
            scan = self._worker.recipe.ready(measured)
            if scan is None:
                raise FileError(source, "sent lines without signal", "Check the measurement")
            reconstruct: Reconstruct = self._worker.reconstruct
            image = None
            if self._worker.method.denoises:
                clean = denoised(self._worker.method.reconstruct, scan, self.device)
                cleaned.append((scan.meta, clean.numbers()))
                reconstruct = with_samples(reconstruct) if clean.left_alone else reconstruct
                image = magnitude(clean.image.cpu(), scan) * scan.meta.scale
            if wanted is not None:
                try:
                    found.append(mapped_slice(reconstruct, scan, self._family(scan.meta.emulated), wanted))
                    image = found[-1].layers[0]
                except FileError as error:  # such as too few samples: an image is worth more than its maps
                    LOGGER.warning("%s: no error maps: %s", source, error.problem)
                    told, wanted = [f"no error maps: {error.problem}"], None
            images.append(reconstruct_scan(self._worker.method, scan, self.device) if image is None else image)
            first = first or scan
        assert first is not None, "lines without an image are refused"
        maps: dict[str, tuple[Tensor, str]] = {}
        if wanted is not None:
            for layer, (name, meaning) in enumerate(meanings(wanted).items(), start=1):
                maps[name] = torch.stack([one.layers[layer] for one in found]), meaning
            # Places are in the map: rows and columns of what is sent may run the other way.
            told = [*told_of([one[1:] for one in found], listed=0, more="are marked in the contradiction map"), SEEN]
        if cleaned:
            alone = all(one.left_alone for _, one in cleaned)
            told = [KEPT if alone else taken_out(LEARNED), *notes_of(cleaned), *told]
        seconds = time.monotonic() - start
        return SentImage(torch.stack(images), first.acceleration, first.meta, seconds, maps, told)
