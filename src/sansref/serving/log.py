"""The server's log: one line an event, on the error stream and in a file, and not more than a disk can take."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import WatchedFileHandler
from pathlib import Path

from sansref.errors import FileError

LOGGER = logging.getLogger("sansref.serving")
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
    few = FewOfAKind()
    LOGGER.addFilter(few)
    try:
        yield
    finally:
        LOGGER.removeFilter(few)
        for handler in handlers:
            LOGGER.removeHandler(handler)
            handler.close()
