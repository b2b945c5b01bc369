"""The server from its start to its end, as ``sansref serve`` runs it."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from sansref.errors import SettingError
from sansref.serving.log import LOGGER, logging_to
from sansref.serving.options import Limits, ServeOptions


def serve(run: Path, options: ServeOptions, limits: Limits, trust_code: bool = False) -> None:
    """Serve a trained run until Ctrl-C or SIGTERM, and leave as they do (exit code 130 or 143).

    A second signal leaves at once.

    Raises
    ------
    FileError
        If the run or the log cannot be used.
    SettingError
        If the server cannot listen there, there is no GPU where one is asked for, or a package is missing.
    """
    if find_spec("ismrmrd") is None:
        raise SettingError("serving needs the package ismrmrd: pip install ismrmrd")
    from sansref.serving.engine import Engine
    from sansref.serving.server import Server
    from sansref.training.run import RunDirectory

    with logging_to(options.log):
        engine = Engine(RunDirectory(run, trust_code), options.accelerator, limits.max_seconds)
        server = Server(engine, limits, options.host, options.port, options.pixel)
        stopping = threading.Event()
        with _signals(stopping) as received:
            host, port = server.address
            if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
                LOGGER.warning("other machines can connect: the protocol has no authentication and no encryption")
            what = f"run {run}, method {engine.made.method} on {engine.device}"
            LOGGER.info("listening on %s port %d; %s; %d clients at once", host, port, what, limits.clients)
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
