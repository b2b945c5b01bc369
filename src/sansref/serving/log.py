"""The server's log: one line an event, on the error stream and in a file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import WatchedFileHandler
from pathlib import Path

from sansref.errors import FileError

LOGGER = logging.getLogger("sansref.serving")


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    """Write the log to the error stream, and to the end of a file.

    The file may be moved away while it is written, as ``logrotate`` does; it is then begun anew.

    Raises
    ------
    FileError
        If the file cannot be written.
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
    try:
        yield
    finally:
        for handler in handlers:
            LOGGER.removeHandler(handler)
            handler.close()
