"""The server from its start to its end, as ``sansref serve`` runs it, and its log.

The log has one line an event, on the error stream and in a file, and not more than a disk can take.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from logging.handlers import WatchedFileHandler
from pathlib import Path

from sansref.errors import FileError, SettingError
from sansref.serving.options import ServeOptions, ServerLimits

LOGGER = logging.getLogger(__package__)
#: Lines of one kind that may come at once, and the seconds after which one more may.
AT_ONCE, EVERY = 60, 10.0


class FewOfAKind(logging.Filter):
    """Lets through so many lines of one kind, whoever causes them, and then one from time to time, with their number.

    With at most 9000 lines a day of each of the twenty kinds, nobody can fill a disk by connecting again and again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[str, tuple[float, float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written; it then tells how many before it were not."""
        kind, now = str(record.msg), time.monotonic()
        allowed, last, left_out = self._kinds.get(kind, (float(AT_ONCE), now, 0))
        allowed = min(allowed + (now - last) / EVERY, AT_ONCE)
        if allowed < 1:
            self._kinds[kind] = (allowed, now, left_out + 1)
            return False
        self._kinds[kind] = (allowed - 1, now, 0)
        if left_out:
            record.msg = f"{kind} ({left_out} lines like this were left out)"
        return True


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    """Write the log to the error stream, and to the end of a file.

    The file may be moved away while it is written, as ``logrotate`` does; it is then begun anew. Raises ``FileError``
    if the file cannot be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        try:
            handlers.append(WatchedFileHandler(path, encoding="utf-8"))
        except OSError as error:
            reason = error.strerror or str(error)
            raise FileError(path, f"cannot be written ({reason})", "Choose another --log") from error
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    few = FewOfAKind()
    LOGGER.addFilter(few)
    try:
        yield
    finally:
        LOGGER.removeFilter(few)
        for handler in handlers:
            LOGGER.removeHandler(handler)
            handler.close()


def serve(run: Path, options: ServeOptions, limits: ServerLimits, trust_code: bool = False) -> None:
    """Serve a trained run until Ctrl-C or SIGTERM, and leave as they do (exit code 130 or 143).

    A second signal leaves at once. Raises ``FileError`` if the run or the log cannot be used, and ``SettingError`` if
    the server cannot listen there, there is no GPU where one is asked for, a package is missing, or the system is not
    Linux.
    """
    if sys.platform != "linux":
        raise SettingError(
            "serving needs Linux, the only system that reports when a client has disconnected: use the container, or "
            "a Linux machine"
        )
    if find_spec("ismrmrd") is None:
        raise SettingError("serving needs the package ismrmrd: pip install ismrmrd")
    from sansref.commands.output_files import law_of
    from sansref.metrics.error_maps import ErrorMapOptions
    from sansref.serving.engine import Engine
    from sansref.serving.server import Server
    from sansref.training.run import RunDirectory

    with logging_to(options.log):
        maps = ErrorMapOptions(options.bound) if options.error_map else None
        finished = RunDirectory(run, trust_code)
        engine = Engine(finished, options.accelerator, limits.max_seconds, maps)
        server = Server(engine, limits, options.host, options.port, options.pixel)
        stopping = threading.Event()
        with _signals(stopping) as received:
            host, port = server.address
            if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
                LOGGER.warning("other machines can connect: the protocol has no authentication and no encryption")
            what = f"run {run}, method {engine.made.method} on {engine.device}"
            LOGGER.info("listening on %s port %d; %s; %d clients at once", host, port, what, limits.clients)
            if warning := law_of(finished)[1]:
                LOGGER.info("%s", warning.removeprefix("warning: "))
            if engine.reconstructions > 1:
                LOGGER.info("each image waits for up to %d reconstructions", engine.reconstructions)
            server.serve(stopping)
            LOGGER.info("stopping; %d clients have %g s", server.clients, options.grace)
            in_time = server.stop(options.grace)
            LOGGER.info("stopped")
            if not in_time:
                _leave(128 + received[0])  # the image in work cannot be broken off
            engine.close()
    sys.exit(128 + received[0])


@contextmanager
def _signals(stopping: threading.Event) -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM set ``stopping``; gives the list of what was received."""
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        received.append(number)
        if len(received) > 1:
            _leave(128 + received[0])
        stopping.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(code: int) -> None:
    logging.shutdown()
    os._exit(code)
