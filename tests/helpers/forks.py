"""A task in a child process: a fork spares the imports, which take seconds."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch


def fork(task: Callable[[], object], said: Path = Path(os.devnull), environ: Mapping[str, object] | None = None) -> int:
    """Let a child process do a task and leave with its exit code, 1 after a traceback; returns the child's number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: the child computes on one thread only
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # workers of pytest have a handler of their own
        os.environ.update({name: str(value) for name, value in (environ or {}).items()})
        sys.stderr = said.open("w", buffering=1)
        task()
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@contextmanager
def held_by_another(lock: Callable[[], AbstractContextManager[object]], flag: Path) -> Iterator[int]:
    """Let a child process hold a lock while the block runs; yields its number. ``flag`` is a file for it to make."""

    def hold() -> None:
        with lock():
            flag.touch()
            time.sleep(60)

    child = fork(hold)
    try:
        while not flag.exists():
            time.sleep(0.01)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
