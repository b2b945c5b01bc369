"""Three-dimensional k-space: an inverse Fourier transform along a fully sampled axis gives slices."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from sansref.data.readers.acquired import MOST_LONE_ZEROS
from sansref.data.readers.planes import arranged, check_kspace
from sansref.data.readers.stored import Array, Stored
from sansref.errors import FileError
from sansref.kspace.fourier import ifft1c

#: Bytes of k-space that are transformed at once.
BLOCK = 1 << 26


@contextmanager
def transformed(path: Path, stored: Stored, words: tuple[str, ...]) -> Iterator[Array]:
    """Slices of a 3-D scan, complex64 (slices, coils, rows, columns), kept in a temporary file.

    The transform along the partitions is centred and orthonormal, as that of the plane is.

    Raises
    ------
    FileError
        If some partitions were left out where others were acquired, if k-space is not finite, or if there is no room
        for the temporary file.
    """
    sizes = dict(zip(words, stored.shape, strict=True))
    shape = (sizes["partition"], sizes.get("coil", 1), sizes["row"], sizes["column"])
    step = max(1, BLOCK // (8 * shape[0] * shape[1] * shape[3]))
    with tempfile.TemporaryFile() as file:
        _reserve(path, file.fileno(), 8 * int(np.prod(shape)))
        volume = np.memmap(file, np.complex64, "r+", shape=shape)
        counts = np.zeros((shape[0] + 1,), dtype=np.int64)
        acquired = np.zeros(shape[0], dtype=bool)
        for first in range(0, shape[2], step):
            rows = slice(first, min(first + step, shape[2]))
            block = arranged(stored.part(words.index("row"), rows.start, rows.stop), words, ORDER)
            there = (block != 0).any(axis=1)
            acquired |= there.any(axis=(1, 2))
            counts += np.bincount(there.sum(axis=0).ravel(), minlength=len(counts))
            if there.any():
                check_kspace(path, block, f"rows {rows.start} to {rows.stop - 1}")
            volume[:, :, rows] = ifft1c(torch.from_numpy(block.astype(np.complex64)), 0).numpy()
        _check_sampling(path, counts, acquired)
        yield volume


ORDER = ("partition", "coil", "row", "column")


def _reserve(path: Path, descriptor: int, size: int) -> None:
    # Asked for now, as an error: a disk that is full later would kill the process through the memory map.
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        problem = f"needs {size / 1e9:.1f} GB for a temporary file in {tempfile.gettempdir()} ({error.strerror})"
        raise FileError(path, problem, "Free some space, or set TMPDIR to another folder") from error


def _check_sampling(path: Path, counts: Array, acquired: Array) -> None:
    """Refuse undersampling along the partitions.

    ``counts`` tells of how many places in the plane had 0, 1, ... partitions. Outer partitions may be missing
    everywhere, but no more than half of them.
    """
    there = np.flatnonzero(acquired)
    whole = len(there)
    gaps = whole == 0 or whole < there[-1] - there[0] + 1 or 2 * whole <= len(acquired)
    partly = counts[1:whole].sum()
    if gaps or partly > MOST_LONE_ZEROS * counts[1:].sum():
        problem = "is undersampled along the axis named partition"
        raise FileError(path, problem, "Name a fully sampled k-space axis partition (the readout always is), as --axes")
