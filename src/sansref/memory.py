"""How much memory there is, and keeping what tensors leave behind."""

from __future__ import annotations

import ctypes
import os
import platform
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
