"""Memory, threads and precision of the machine; freed memory is asked of the system, in processes of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sansref.machine import (
    _left_in_group,
    available_memory,
    has_fast_bfloat16,
    out_of_memory,
    quickest,
    seconds_by_threads,
)

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

MEGABYTES = 64
PROGRAM = f"""
import resource, torch
from sansref.machine import keep_freed_memory
keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.zeros({MEGABYTES} * 2**18)
before = faults()
for _ in range(5):
    torch.zeros({MEGABYTES} * 2**18)
print(faults() - before)
"""


def faults(**variables: str) -> int:
    """Pages that the system had to provide for tensors of a size that had just been freed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**environment, **variables}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_available_memory_is_some_of_all_there_is():
    there = available_memory()
    assert there is not None
    assert 2**20 < there < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_limits_of_a_process_count():
    program = (
        "import resource; from sansref.machine import available_memory;"
        "resource.setrlimit(resource.{limit}, (1 << 31, 1 << 31)); print(available_memory())"
    )
    for limit in ("RLIMIT_AS", "RLIMIT_DATA"):
        command = [sys.executable, "-c", program.format(limit=limit)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert 0 < int(done.stdout) < 1 << 31


def group(folder: Path, most: str, used: int, cached: int, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (most, used), strict=True):
        (folder / f"memory.{name}").write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


def test_the_limits_of_control_groups_count(tmp_path: Path):
    table = tmp_path / "table"
    for text, place, names in (
        ("0::/job/step\n", "", ("max", "current")),
        ("3:cpu:/\n4:memory:/job/step\n0::/\n", "memory", ("limit_in_bytes", "usage_in_bytes")),
    ):
        table.write_text(text)
        root = tmp_path / (place or "two")
        base = root / place if place else root
        group(base / "job", "1000", 700, 50, names)
        group(base / "job" / "step", "max" if not place else "5000", 600, 50, names)
        assert min(_left_in_group(root, table)) == 350
    assert _left_in_group(tmp_path, tmp_path / "missing") == []


def test_words_and_numbers_that_mean_memory():
    first = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes.")
    for error in (first, MemoryError(), OSError(12, "Cannot allocate memory"), ValueError("std::bad_alloc")):
        assert out_of_memory(error)
        try:
            raise KeyError("it") from error
        except KeyError as later:
            assert out_of_memory(later)
    for error in (OSError(28, "No space left on device"), ValueError("is damaged"), RuntimeError("shape")):
        assert not out_of_memory(error)


def test_tensors_are_made_of_the_memory_that_earlier_ones_left():
    assert faults() < 100


def test_the_users_own_settings_of_malloc_stay():
    pages = 5 * MEGABYTES * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert faults(MALLOC_TRIM_THRESHOLD_="1000000") > pages // 2


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx512f avx512_bf16", True), ("avx2 amx_bf16 amx_tile", True), ("avx2 avx512f avx512_fp16", False), ("", False)],
)
def test_the_processor_says_whether_it_multiplies_in_bfloat16(tmp_path: Path, flags: str, expected: bool):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: one\nflags\t\t: fpu {flags}\n")
    assert has_fast_bfloat16(tmp_path / "cpuinfo") is expected
    assert not has_fast_bfloat16(tmp_path / "missing")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 2.1}, 1),
        ({1: 1.0, 2: 0.97}, 1),
        ({1: 1.0, 2: 0.6, 4: 0.59}, 2),
        ({1: 1.0, 2: 1.2, 4: 0.5}, 4),
    ],
)
def test_more_threads_are_taken_only_where_they_are_worth_it(seconds: dict[int, float], expected: int):
    assert quickest(seconds) == expected


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6])])
def test_work_is_measured_on_the_threads_that_there_may_be(most: int, counts: list[int]):
    before = torch.get_num_threads()
    for scale, best in ((lambda count: count, 1), (lambda count: 1 / count, most)):
        seconds = seconds_by_threads(lambda: time.sleep(0.004 * scale(torch.get_num_threads())), most, 0.05)  # noqa: B023
        assert list(seconds) == counts
        assert quickest(seconds) == best
        assert torch.get_num_threads() == before
