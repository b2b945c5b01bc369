"""Freed memory is kept: asked of the system itself, in processes of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from sansref.memory import available_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

MEGABYTES = 64
PROGRAM = f"""
import resource, torch
from sansref.memory import keep_freed_memory
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


def test_tensors_are_made_of_the_memory_that_earlier_ones_left():
    assert faults() < 100


def test_the_users_own_settings_of_malloc_stay():
    pages = 5 * MEGABYTES * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert faults(MALLOC_TRIM_THRESHOLD_="1000000") > pages // 2
