"""Arrays in HDF5: MATLAB 7.3 (``save -v7.3``), and files of other programs that hold named arrays.

MATLAB stores the axes of an array in reverse, which is undone, and complex numbers as pairs (real, imag); it marks its
arrays with the attribute ``MATLAB_class``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sansref.data.readers.arrays import ArrayReader, Entry
from sansref.data.readers.guard import check_plausible_size, reading
from sansref.data.readers.stored import Array, Stored
from sansref.errors import FileError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MARK = "MATLAB_class"
MATLAB_TITLE = b"MATLAB 7.3 MAT-file"
NUMBERS = frozenset(("double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))))
#: Cells and tables can be of millions of objects.
MOST_OBJECTS = 10_000


def is_hdf5(path: Path) -> bool:
    """Whether a file has HDF5's signature, at its beginning or after a block of another program; without libhdf5."""
    with path.open("rb") as file:
        for place in (0, *(512 << step for step in range(8))):
            file.seek(place)
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return True
    return False


class Hdf5ArraysReader(ArrayReader):
    """Reader of an array in HDF5 of any program."""

    format = "HDF5 arrays"

    def recognises(self, path: Path) -> bool:
        """Whether it is HDF5 that holds an array of numbers."""
        try:
            return bool(self.entries(path))
        except Exception:  # whatever a damaged file raises
            return False

    def entries(self, path: Path) -> list[Entry]:
        """Read the headers of its arrays of numbers, at any depth."""
        import h5py

        found: list[Entry] = []
        seen = 0

        def look(name: str, item: Any) -> bool | None:
            nonlocal seen
            seen += 1
            # "#refs#" and "#subsystem#" hold what MATLAB's cells refer to.
            if isinstance(item, h5py.Dataset) and not name.startswith("#") and (entry := _entry(name, item)):
                found.append(entry)
            return True if seen >= MOST_OBJECTS else None

        with reading(path, self.format), h5py.File(path) as file:
            file.visititems(look)
        return found

    @contextmanager
    def opened(self, path: Path, entry: Entry) -> Iterator[Stored]:
        """Open one array; the file is open meanwhile."""
        import h5py

        check_plausible_size(path, math.prod(entry.shape) * entry.dtype.itemsize)
        with reading(path, self.format):
            file = h5py.File(path)
        with file:
            with reading(path, self.format):
                dataset = file[entry.name]
                stored = _Dataset(path, dataset, entry, MARK in dataset.attrs)
            yield stored


class Matlab73Reader(Hdf5ArraysReader):
    """Reader of MATLAB 7.3, whatever its arrays are called."""

    format = "MATLAB 7.3"
    pads_axes = True

    def recognises(self, path: Path) -> bool:
        """Whether it has MATLAB's title, or marks of MATLAB on what it holds."""
        import h5py

        with path.open("rb") as file:
            if file.read(len(MATLAB_TITLE)) == MATLAB_TITLE:
                return True
        try:
            with h5py.File(path) as file:
                return any(MARK in item.attrs for item in file.values())
        except Exception:  # whatever a damaged file raises
            return False


@dataclass(frozen=True, slots=True)
class _Dataset:
    path: Path
    dataset: Any
    entry: Entry
    matlab: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    def part(self, axis: int, start: int, stop: int) -> Array:
        with reading(self.path, "HDF5"):
            dimensions = self.dataset.ndim
            place = dimensions - 1 - axis if self.matlab else axis
            # An axis of length 1 that MATLAB left out is not there to be cut.
            cut = (*[slice(None)] * place, slice(start, stop)) if 0 <= place < dimensions else ()
            block = np.asarray(self.dataset[cut])
        if block.dtype.names:
            block = (block["real"] + 1j * block["imag"]).astype(self.entry.dtype)
        block = block.transpose() if self.matlab else block
        wanted = list(self.shape)
        wanted[axis] = stop - start
        if block.size != math.prod(wanted):
            raise FileError(self.path, f"holds an array '{self.entry.name}' unlike its header", "Copy it again")
        return block.reshape(wanted)


def _entry(name: str, dataset: Any) -> Entry | None:
    shape, dtype = dataset.shape, dataset.dtype
    if shape is None or 0 in shape:
        return None
    if dtype.names == ("real", "imag") and all(dtype[part].kind in "fiu" for part in dtype.names):
        dtype = np.result_type(dtype["real"], np.complex64)
    if dtype.kind not in "iufc" or dtype.itemsize > 16:
        return None
    if MARK not in dataset.attrs:
        return Entry(name, tuple(shape), dtype)
    mark = dataset.attrs[MARK]
    kind = mark.decode("ascii", "replace") if isinstance(mark, bytes) else str(mark)
    if kind not in NUMBERS or "MATLAB_empty" in dataset.attrs:
        return None
    return Entry(name, tuple(shape[::-1]), dtype)
