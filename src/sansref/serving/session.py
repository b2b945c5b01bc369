"""One client, from its first message to the last."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing

from ismrmrd import Acquisition

from sansref.errors import FileError, SansrefError, printable
from sansref.serving.engine import Engine, UnwantedError
from sansref.serving.gathering import Backlog, Gathering, Work
from sansref.serving.images import Pixel, mrd_images
from sansref.serving.messages import ClientError, GoneError, Message, MessageId, Stream
from sansref.serving.options import IMAGE_TIMEOUTS, MEBIBYTE, WAITING_IMAGES

LOGGER = logging.getLogger(__package__)


class Session:
    """One client at work.

    Lines are received in the thread that calls :meth:`run`; images are sent from a thread of their own, while the next
    lines come in.
    """

    def __init__(self, name: str, stream: Stream, engine: Engine, pixel: Pixel = "float32") -> None:
        self.name = name
        self._stream, self._engine, self._pixel = stream, engine, pixel
        self._backlog = Backlog(WAITING_IMAGES, stream.limits.max_held * MEBIBYTE)
        self._gathering: Gathering | None = None
        self._images = 0
        self._stopping, self._gone = threading.Event(), threading.Event()
        self._asked = False
        self._image_due = math.inf
        self._fault: str | None = None

    def run(self) -> None:
        """Serve the client until it, or the server, has had enough."""
        start = time.monotonic()
        sender = threading.Thread(target=self._guarded, args=(self._send_images,), name=f"{self.name} out", daemon=True)
        with closing(self._stream):
            try:
                sender.start()
            except RuntimeError as error:
                LOGGER.warning("%s: cannot be served: %s", self.name, error)
                self._stream.part("the server has no thread left for this client; try again later")
                return
            self._guarded(self._receive_lines)
            self._backlog.end()
            sender.join()
            self._stream.part(self._fault)
        if self._gathering is not None:
            took = time.monotonic() - start
            LOGGER.info("%s: end; %d lines, %d images, %.1f s", self.name, self._gathering.lines, self._images, took)

    def stop(self) -> None:
        """Take no more lines; the images whose lines are complete are still sent."""
        self._stopping.set()
        self._stream.halt()

    def abort(self) -> None:
        """Break off at once."""
        self._backlog.drop()
        self._stream.abort()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do one of the session's two works; whatever goes wrong ends this session and nothing else."""
        try:
            work()
        except GoneError as error:
            if not self._gone.is_set():
                LOGGER.warning("%s: gone (%s)", self.name, error)
            self._gone.set()
            self.abort()
        except SansrefError as error:
            LOGGER.warning("%s: refused: %s", self.name, _for_operator(error))
            self._fault = self._fault or _for_client(error)
        except Exception:
            LOGGER.exception("%s: internal error", self.name)
            self._fault = self._fault or "internal error, described in the server's log"
            self._backlog.drop()
            self._stream.halt()

    def _receive_lines(self) -> None:
        while True:
            message = self._stream.receive()
            if self._stopping.is_set():
                raise ClientError("the server is being stopped; lines that do not complete an image are dropped")
            if self._fault is not None:
                return
            if message is None:
                raise GoneError("without CLOSE")
            if message.id == MessageId.CLOSE:
                break
            self._take(message)
        if self._gathering is not None:
            self._pass_on(self._gathering.finish())

    def _take(self, message: Message) -> None:
        content = message.content
        if isinstance(content, Acquisition):
            if self._gathering is None:
                raise ClientError("a line came before the header (message 3), which must describe the measurement")
            if self._backlog.wait_for_room(self._gathering.held):
                self._take_line(self._gathering, content)
        elif message.id == MessageId.HEADER:
            if self._gathering is not None:
                raise ClientError("a second header came; each measurement needs a connection of its own")
            self._gathering = Gathering(self.name, content or "", self._stream.limits)
            header = self._gathering.header
            self._stream.progressed()
            self._image_due = time.monotonic() + self._image_timeout
            LOGGER.info("%s: header; matrix %s", self.name, " x ".join(map(str, header.encoded)))
        elif message.id == MessageId.CONFIG_FILE and not self._asked:
            self._asked = True  # once: the log must not grow with all that a client sends
            LOGGER.info("%s: asks for %r; the run serves all", self.name, printable(content or "")[:80])

    def _take_line(self, gathering: Gathering, line: Acquisition) -> None:
        before = gathering.progress
        self._pass_on(gathering.add(line))
        if time.monotonic() > self._image_due:
            raise ClientError(f"no image became complete within {self._image_timeout:g} s", "timeout")
        if gathering.progress > before:
            self._stream.progressed()

    @property
    def _image_timeout(self) -> float:
        return IMAGE_TIMEOUTS * self._stream.limits.timeout

    def _pass_on(self, ready: Iterable[Work]) -> None:
        for work in ready:
            self._backlog.put(work)

    def _send_images(self) -> None:
        while (work := self._backlog.take()) is not None:
            self._send_image(work)
            del work  # its lines must not stay while the next is waited for

    def _send_image(self, work: Work) -> None:
        assert self._gathering is not None, "work comes from there"
        header, lines = self._gathering.header, len(work.group.lines.data)
        counters = work.group.key._asdict().items()
        which = ", ".join(f"{name} {value}" for name, value in counters if value or name == "slice")
        try:
            if work.acceleration > (most := self._stream.limits.max_acceleration):
                sent = f"one sample was sent for {work.acceleration:.3g} points of the declared matrix"
                raise ClientError(f"{sent}; at most {most:g} are accepted", "max_acceleration")
            done = self._engine.reconstruct(self.name, header, work, self._images, self._is_wanted)
        except UnwantedError:
            raise GoneError("before its images were done") from None
        except SansrefError as error:
            LOGGER.warning("%s: %s cannot be reconstructed: %s", self.name, which, _for_operator(error))
            self._stream.send_text(f"{which} cannot be reconstructed: {_for_client(error)}")
            return
        self._images += 1
        for image in mrd_images(done, work.line, header, self._engine.made, self._images, self._pixel):
            self._stream.send_image(image)
        self._image_due = time.monotonic() + self._image_timeout
        self._stream.progressed()
        LOGGER.info("%s: image of %s; %d lines, %.2f s", self.name, which, lines, done.seconds)

    def _is_wanted(self) -> bool:
        """Whether the client still waits for the image in work; while it does, its clock stands still."""
        self._stream.progressed()
        return not (self._gone.is_set() or self._backlog.dropped or self._stream.has_gone())


def _for_client(error: SansrefError) -> str:
    """What a client is told: nothing that only the server's operator could do."""
    if isinstance(error, FileError):
        return error.problem  # its cure is for whoever has a file and a command line
    if isinstance(error, ClientError):
        return str(error)
    return "the server is not set up for this; its log says why"


def _for_operator(error: SansrefError) -> str:
    """What the log says."""
    if isinstance(error, ClientError) and error.option:
        return f"{error} (--{error.option})"
    return str(error)
