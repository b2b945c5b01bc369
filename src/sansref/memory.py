"""How much memory there is, and keeping what tensors leave behind."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def available_memory() -> int | None:
    """Bytes that new work can take without swapping; None where the system is not Linux."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def memory_in_use() -> int:
    """Bytes of this process that lie in memory; 0 where the system is not Linux."""
    return _status("VmRSS")


@contextmanager
def peak_of_memory() -> Iterator[Callable[[], int]]:
    """Give a function that says, in bytes, the most that this process had in memory since the block began.

    Where the system cannot tell that of the block alone, it is the most that the process ever had.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5): resets VmHWM
    yield lambda: _status("VmHWM")


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), 0)


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones, where the C library is glibc.

    glibc maps every block above 32 MB anew and returns it to the system when it is freed, and gives back the upper end
    of smaller ones. A training step frees and asks for the same tensors over and over, and the system has to clear
    their pages each time: at batch size 4 and 256 x 256 that can double the time of a step
    (``benchmarks/training_step.py``). The price is that the largest use of memory stays until the end.

    Nothing is changed where the user has set malloc's own variables (``MALLOC_*_``, ``GLIBC_TUNABLES``).
    """
    chosen = any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ)
    if platform.libc_ver()[0] != "glibc" or chosen:
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
