"""MATLAB files of version 5 (``save -v6``, ``-v7``), whose arrays are read whole by scipy.

Format: "MAT-File Format" (The MathWorks). The headers are read here, since scipy does not tell which arrays are complex
without reading them. Structures, cells and version 4 are not read; version 7.3 is HDF5, see :mod:`.hdf5_arrays`.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sansref.data.readers.array_slices import InMemory, Stored, check_fits
from sansref.data.readers.arrays import ArrayReader, Entry
from sansref.data.readers.damage import head_of, reading
from sansref.errors import FileError, printable

HEADER = 128
#: The end of the header: version 1.0 and the order of bytes, as struct has it.
ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
MATRIX, COMPRESSED = 14, 15
COMPLEX, LOGICAL = 0x0800, 0x0200
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
#: Bytes of a number, by the type in which it is stored.
SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
#: Bytes of an array's header that are looked at: flags, up to 32 sizes, a name.
LONGEST_START = 512


class MatlabReader(ArrayReader):
    """Reader of MATLAB files of version 5."""

    format = "MATLAB 5"
    note = "MATLAB 5 is held in memory as a whole; 'save -v7.3' gives files that are read slice by slice."
    pads_axes = True

    def recognises(self, path: Path) -> bool:
        """Whether it has the marks of version 5."""
        return head_of(path, HEADER)[124:] in ORDERS

    def entries(self, path: Path) -> list[Entry]:
        """Read the headers of its arrays of numbers."""
        with reading(path, self.format):
            return list(_entries(path))

    @contextmanager
    def opened(self, path: Path, entry: Entry) -> Iterator[Stored]:
        """Read an array whole, after a look at how large it is."""
        from scipy.io import loadmat

        check_fits(path, entry.shape, entry.dtype.itemsize)
        with reading(path, self.format):
            array = loadmat(str(path), variable_names=[entry.name], appendmat=False)[entry.name]
            shape, kind = np.shape(array), np.asarray(array).dtype.kind
        if shape != entry.shape[: len(shape)] or kind not in "iufc":
            raise FileError(path, f"holds an array '{entry.name}' unlike its header", "Copy or download it again")
        yield InMemory(array.reshape(entry.shape))


def _entries(path: Path) -> Iterator[Entry]:
    size = path.stat().st_size
    with path.open("rb") as file:
        order = ORDERS[file.read(HEADER)[124:]]
        while tag := file.read(8):
            kind, length = struct.unpack(f"{order}2I", tag)
            begin = file.tell()
            if begin + length > size:
                raise FileError(path, f"is truncated: it has {size} bytes of {begin + length}", "Copy it again")
            start = file.read(min(length, LONGEST_START))
            if kind == COMPRESSED:
                start = zlib.decompressobj().decompress(start, LONGEST_START)
                kind, start = struct.unpack_from(f"{order}I", start)[0], start[8:]
            if kind == MATRIX and (entry := _entry(start, order)):
                yield entry
            file.seek(begin + length)


def _entry(start: bytes, order: str) -> Entry | None:
    """An array by the first bytes of its element: flags, sizes and name, each behind a tag."""
    flags, _, _, length = struct.unpack_from(f"{order}4I", start, 8)
    kind = CLASSES.get(flags & 0xFF)
    if kind is None or flags & LOGICAL:
        return None
    shape = struct.unpack_from(f"{order}{length // 4}i", start, 24)
    if min(shape, default=0) < 1:
        return None  # an empty array
    place = 24 + (length + 7) // 8 * 8
    (tag,) = struct.unpack_from(f"{order}I", start, place)
    # A name of up to four letters shares the eight bytes of its tag.
    count, first = tag >> 16, place + 4
    if not count:
        (count,), first = struct.unpack_from(f"{order}I", start, place + 4), place + 8
    name = start[first : first + count].decode("utf-8", "replace")
    place = first + count + (-count % (8 if first > place + 4 else 4))
    (tag,) = struct.unpack_from(f"{order}I", start, place)
    stored = tag >> 16 or struct.unpack_from(f"{order}I", start, place + 4)[0]
    if stored != math.prod(shape) * SIZES.get(tag & 0xFFFF, 0):
        raise ValueError(f"array '{printable(name)}' has {stored} bytes, which are not those of its shape")
    dtype: np.dtype[Any] = np.dtype(kind)
    if flags & COMPLEX:
        dtype = np.dtype(np.complex64 if kind == "f4" else np.complex128)
    return Entry(name, shape, dtype)
