"""The machine: its memory, its threads, its precision, and where networks work."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

if sys.platform == "linux":
    import resource

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4

#: How libraries that do not raise ``MemoryError`` say that memory ran out.
MEMORY_WORDS = re.compile(
    r"out of memory|bad_?alloc|memory allocation failed|(unable|not able|can't|cannot|could not|failed) (to )?allocate",
    re.IGNORECASE,
)


def available_memory() -> int | None:
    """Bytes that new work can take without swapping; None where the system is not Linux.

    The limits of this process (``ulimit``) and of its control group (a container, a job of a cluster) count as well.
    """
    if sys.platform != "linux":
        return None
    free = [_kilobytes("/proc/meminfo", "MemAvailable"), *_left_in_group()]
    for limit, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most, used = resource.getrlimit(limit)[0], _kilobytes("/proc/self/status", field)
        if most != resource.RLIM_INFINITY and used is not None:
            free.append(most - used)
    return max(0, min(sizes)) if (sizes := [size for size in free if size is not None]) else None


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def data_size() -> int:
    """Bytes of this process that count against its limit of data (``ulimit -d``); 0 where nobody knows."""
    return _kilobytes("/proc/self/status", "VmData") or 0


def _kilobytes(path: str, field: str) -> int | None:
    """A field of one of the tables under /proc, in bytes."""
    try:
        lines = Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:")), None)


def _left_in_group(root: Path = Path("/sys/fs/cgroup"), table: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What each control group around this process leaves, of version 2 or 1; cached files count as free."""
    left: list[int] = []
    try:
        lines = [line.split(":", 2) for line in table.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return left
    for _, controllers, path in lines:
        if controllers not in ("", "memory"):
            continue
        names = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        own = root / controllers / path.strip("/")
        for group in (own, *own.parents):
            try:
                most, used = (int((group / f"memory.{name}").read_text()) for name in names)
                cached = next(line for line in (group / "memory.stat").read_text().splitlines() if "inactive_f" in line)
            except (OSError, StopIteration, ValueError):  # no such group in a container, or "max"
                continue
            left.append(most - used + int(cached.split()[-1]))
    return left


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that memory ran out: by its type, its number or its words."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    before = error.__cause__ or error.__context__
    return bool(MEMORY_WORDS.search(str(error))) or (before is not None and out_of_memory(before))


def memory_in_use() -> int:
    """Bytes of this process that lie in memory; 0 where the system is not Linux."""
    return _kilobytes("/proc/self/status", "VmRSS") or 0


@contextmanager
def peak_of_memory() -> Iterator[Callable[[], int]]:
    """Give a function that says, in bytes, the most that this process had in memory since the block began.

    Where the system cannot tell that of the block alone, it is the most that the process ever had.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5): resets VmHWM
    yield lambda: _kilobytes("/proc/self/status", "VmHWM") or 0


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


def device_of(accelerator: str) -> torch.device:
    """The GPU of this process if there is one, unless the accelerator is ``cpu``."""
    import torch

    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def has_fast_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies in bfloat16 by instructions of its own: AVX512-BF16 or AMX.

    False where the system is not Linux, which alone says so.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


WORTH = 0.95
"""More threads are taken where the work then needs at most this part of the time: others may want the cores as well."""


def seconds_by_threads(work: Callable[[], object], most: int, budget: float = 1.0) -> dict[int, float]:
    """How long some work takes on 1, 2, 4, ... threads and on the most, as the machine is busy now.

    Parameters
    ----------
    work
        A small part of what is to be done, on PyTorch's threads.
    most
        Number of threads that there may be.
    budget
        Seconds to measure for; three rounds are played in any case.

    Returns
    -------
    dict
        Median seconds for each number of threads. PyTorch's number of threads is as it was.
    """
    import torch

    counts = [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]
    times: dict[int, list[float]] = {count: [] for count in counts}
    before, start = torch.get_num_threads(), time.perf_counter()
    try:
        # In turns, so that a busy moment slows all alike; the first of each starts threads, and does not count.
        while min(map(len, times.values())) < 4 or time.perf_counter() - start < budget:
            for count, values in times.items():
                torch.set_num_threads(count)
                began = time.perf_counter()
                work()
                values.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return {count: median(values[1:]) for count, values in times.items()}


def quickest(seconds: dict[int, float]) -> int:
    """The number of threads to take, of those that were measured; more only where they are :data:`WORTH` it."""
    chosen, *more = sorted(seconds)
    for count in more:
        if seconds[count] <= WORTH * seconds[chosen]:
            chosen = count
    return chosen
