"""Arrays in files, of which a part is read at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from sansref.data.readers.damage import check_plausible_size
from sansref.errors import FileError
from sansref.machine import available_memory

Array = npt.NDArray[Any]

#: Bytes that are read at once where a part lies in many small pieces.
BLOCK = 1 << 24


class Stored(Protocol):
    """An array in an open file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        ...

    def part(self, axis: int, start: int, stop: int) -> Array:
        """Read what lies in ``start:stop`` of one axis; the other axes are whole."""
        ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """An array that was read as a whole."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self.array.shape

    def part(self, axis: int, start: int, stop: int) -> Array:
        """Give a view of ``start:stop`` of one axis."""
        return self.array[(*[slice(None)] * axis, slice(start, stop))]


@dataclass(frozen=True, slots=True)
class FlatFile:
    """Numbers one after the other in a file.

    It is not memory-mapped: a file that is cut meanwhile, or a network drive that fails, would kill the process.

    Attributes
    ----------
    path, file
        The file, open for reading.
    offset
        Where the numbers begin, in bytes.
    shape, dtype
        Of the array.
    fortran
        Whether the first axis runs fastest, else the last.
    """

    path: Path
    file: BinaryIO
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    def part(self, axis: int, start: int, stop: int) -> Array:
        """Read ``start:stop`` of one axis."""
        sizes = self.shape[::-1] if self.fortran else self.shape
        place = len(sizes) - 1 - axis if self.fortran else axis
        outer, count, inner = math.prod(sizes[:place]), sizes[place], math.prod(sizes[place + 1 :])
        found = np.empty((outer, (stop - start) * inner), self.dtype)
        row = count * inner
        # Long pieces are read one by one; short ones together with what lies between them.
        step = 1 if found[:1].nbytes > BLOCK // 256 else max(1, BLOCK // (row * self.dtype.itemsize))
        for first in range(0, outer, step):
            if step == 1:
                found[first] = self._numbers(first * row + start * inner, (stop - start) * inner)
            else:
                rows = min(step, outer - first)
                block = self._numbers(first * row, rows * row).reshape(rows, row)
                found[first : first + rows] = block[:, start * inner : stop * inner]
        whole = found.reshape(*sizes[:place], stop - start, *sizes[place + 1 :])
        return whole.transpose() if self.fortran else whole

    def _numbers(self, first: int, count: int) -> Array:
        size = self.dtype.itemsize
        try:
            self.file.seek(self.offset + first * size)
            content = self.file.read(count * size)
        except OSError as error:  # a drive that fails; who writes meanwhile would take it for his own
            problem = f"cannot be read ({error.strerror or error})"
            raise FileError(self.path, problem, "Check the drive that it lies on") from error
        if len(content) < count * size:
            raise FileError(self.path, "became shorter while it was read", "Copy or download it again")
        return np.frombuffer(content, self.dtype)


@dataclass(frozen=True, slots=True)
class Paired:
    """Complex numbers whose real and imaginary parts take turns along an axis of a real array.

    Attributes
    ----------
    stored
        The real numbers.
    axis
        Axis along which pairs are complex numbers; its length is even.
    """

    stored: Stored
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes, that of the pairs halved."""
        return paired(self.stored.shape, self.axis)

    def part(self, axis: int, start: int, stop: int) -> Array:
        """Read ``start:stop`` of one axis."""
        twice = 2 if axis == self.axis else 1
        parts = np.moveaxis(self.stored.part(axis, twice * start, twice * stop), self.axis, -1)
        return np.moveaxis(parts[..., 0::2] + np.complex64(1j) * parts[..., 1::2], -1, self.axis)


def paired(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    """The shape of an array whose numbers along an axis are pairs."""
    return (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])


def check_fits(
    path: Path, shape: Sequence[int], itemsize: int, cure: str = "Store it as .npy, which is read slice by slice"
) -> None:
    """Refuse an array that has to be read as a whole and is larger than the file or the free memory allow."""
    size = math.prod(shape) * itemsize
    check_plausible_size(path, size)
    free = available_memory()
    if free is not None and size > free:
        problem = f"holds an array of {size / 1e9:.1f} GB, read as a whole, and {free / 1e9:.1f} GB of memory are free"
        raise FileError(path, problem, f"{cure}, or use a machine with more memory")
