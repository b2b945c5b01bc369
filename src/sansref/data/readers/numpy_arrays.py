"""NumPy arrays: ``.npy``, read slice by slice, and ``.npz``, whose arrays are read whole.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html; decoded by numpy, never unpickled.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from sansref.data.readers.array_slices import FlatFile, InMemory, Stored, check_fits
from sansref.data.readers.arrays import ArrayReader, Entry
from sansref.data.readers.damage import head_of, reading
from sansref.errors import FileError

MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"
#: Bytes that are read of an array's header, more than numpy allows it.
LONGEST_HEADER = 1 << 16
#: Bytes of a zip file in which the name of its first member stands.
LONGEST_START = 542


class NpyReader(ArrayReader):
    """Reader of one array in ``.npy``."""

    format = "NumPy .npy"

    def recognises(self, path: Path) -> bool:
        """Whether it has numpy's magic."""
        return head_of(path, len(MAGIC)) == MAGIC

    def entries(self, path: Path) -> list[Entry]:
        """Read the header."""
        with self.opened(path, Entry("", (), np.dtype(np.complex64))) as stored:
            entry = Entry("", stored.shape, stored.dtype)
        if not _is_numeric(entry.dtype):
            raise FileError(
                path, f"holds an array of {entry.dtype}, not of numbers", "Store it as complex64 or float32"
            )
        if 0 in entry.shape:
            raise FileError(path, f"holds an array without values, of the shape {entry.shape}", "Save it again")
        return [entry]

    @contextmanager
    def opened(self, path: Path, entry: Entry) -> Iterator[FlatFile]:
        """Open it where its numbers begin."""
        with reading(path, self.format):
            # Its header alone is looked at; numpy compares the sizes with that of the file.
            header = np.load(path, mmap_mode="r", allow_pickle=False)
            offset, shape, dtype = header.offset, header.shape, header.dtype
            fortran = header.flags.f_contiguous and not header.flags.c_contiguous
            del header
        with path.open("rb") as file:
            yield FlatFile(path, file, offset, shape, dtype, fortran)


class NpzReader(ArrayReader):
    """Reader of an array in ``.npz``; its checksum is compared."""

    format = "NumPy .npz"

    def recognises(self, path: Path) -> bool:
        """Whether it is a zip file, complete or not, whose first member is an array of numpy."""
        head = head_of(path, LONGEST_START)
        return head.startswith(ZIP_MAGIC) and b".npy" in head

    def entries(self, path: Path) -> list[Entry]:
        """Read the headers of all its arrays of numbers."""
        with reading(path, self.format), zipfile.ZipFile(path) as archive:
            found = [_entry(archive, name) for name in archive.namelist() if name.endswith(".npy")]
            return [entry for entry in found if _is_numeric(entry.dtype) and 0 not in entry.shape]

    @contextmanager
    def opened(self, path: Path, entry: Entry) -> Iterator[Stored]:
        """Read an array whole, after a look at how large it is."""
        check_fits(path, entry.shape, entry.dtype.itemsize)
        with reading(path, self.format), zipfile.ZipFile(path) as archive, archive.open(f"{entry.name}.npy") as member:
            size = math.prod(entry.shape) * entry.dtype.itemsize
            if archive.getinfo(f"{entry.name}.npy").file_size > size + LONGEST_HEADER:
                raise ValueError(f"it goes on behind the array '{entry.name}'")
            array = np.lib.format.read_array(member, allow_pickle=False)
            while member.read(1 << 20):  # the checksum is only compared at the end
                pass
        yield InMemory(array)


def _entry(archive: zipfile.ZipFile, name: str) -> Entry:
    with archive.open(name) as opened:
        member = BytesIO(opened.read(LONGEST_HEADER))  # one that says to be longer could take any amount of memory
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return Entry(name.removesuffix(".npy"), shape, dtype)


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iufc" and dtype.itemsize <= 16
