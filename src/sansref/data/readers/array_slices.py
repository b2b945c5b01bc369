"""Arrays in files: a slice is read at a time, and checked for all that would spoil an image without a word."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import torch

from sansref.data.readers.damage import check_plausible_size
from sansref.data.readers.reader import MOST_LONE_ZEROS, FileInfo, ImageSlice, acquired_samples
from sansref.errors import FileError
from sansref.files import room_on_disk
from sansref.kspace.fourier import ifft1c, ifft2c
from sansref.kspace.grid import is_full
from sansref.machine import available_memory
from sansref.scan import Scan, ScanMeta

Array = npt.NDArray[Any]

#: Bytes that are read at once where a part lies in many small pieces.
BLOCK = 1 << 24


class Stored(Protocol):
    """An array in an open file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        ...

    def piece(self, axis: int, start: int, stop: int) -> Array:
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

    def piece(self, axis: int, start: int, stop: int) -> Array:
        """Give a view of ``start:stop`` of one axis."""
        return self.array[(*[slice(None)] * axis, slice(start, stop))]


@dataclass(frozen=True, slots=True)
class FlatFile:
    """Numbers in an open file, from ``offset`` bytes on; with ``fortran``, the first axis runs fastest.

    It is not memory-mapped: a file that is cut meanwhile, or a network drive that fails, would kill the process.
    """

    path: Path
    file: BinaryIO
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    def piece(self, axis: int, start: int, stop: int) -> Array:
        """Read ``start:stop`` of one axis."""
        sizes = self.shape[::-1] if self.fortran else self.shape
        axis = len(sizes) - 1 - axis if self.fortran else axis
        outer, count, inner = math.prod(sizes[:axis]), sizes[axis], math.prod(sizes[axis + 1 :])
        piece = np.empty((outer, (stop - start) * inner), self.dtype)
        row = count * inner
        # Long pieces are read one by one; short ones together with what lies between them.
        step = 1 if piece[:1].nbytes > BLOCK // 256 else max(1, BLOCK // (row * self.dtype.itemsize))
        for first in range(0, outer, step):
            if step == 1:
                piece[first] = self._numbers(first * row + start * inner, (stop - start) * inner)
            else:
                rows = min(step, outer - first)
                block = self._numbers(first * row, rows * row).reshape(rows, row)
                piece[first : first + rows] = block[:, start * inner : stop * inner]
        piece = piece.reshape(*sizes[:axis], stop - start, *sizes[axis + 1 :])
        return piece.transpose() if self.fortran else piece

    def _numbers(self, first: int, count: int) -> Array:
        size = self.dtype.itemsize
        try:
            self.file.seek(self.offset + first * size)
            content = self.file.read(count * size)
        except OSError as error:  # a drive that fails; who writes meanwhile would take it for his own
            problem = f"cannot be read ({error.strerror or error})"
            raise FileError(self.path, problem, "Check the drive on which it is stored") from error
        if len(content) < count * size:
            raise FileError(self.path, "became shorter while it was being read", "Copy or download it again")
        return np.frombuffer(content, self.dtype)


@dataclass(frozen=True, slots=True)
class Paired:
    """Complex numbers whose real and imaginary parts take turns along an axis, of even length, of a real array."""

    stored: Stored
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes, that of the pairs halved."""
        return paired(self.stored.shape, self.axis)

    def piece(self, axis: int, start: int, stop: int) -> Array:
        """Read ``start:stop`` of one axis."""
        twice = 2 if axis == self.axis else 1
        parts = np.moveaxis(self.stored.piece(axis, twice * start, twice * stop), self.axis, -1)
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


#: Interpolation leaves a little undershoot, as a part of the largest value; more means that it is no magnitude image.
MOST_UNDERSHOOT = 0.05
#: K-space with this many times more energy around a corner than around the center has its DC there.
CORNER_OVER_CENTER = 4.0

EXPORT = "Export it again, or leave it out"

logger = logging.getLogger(__name__)


def slice_of(stored: Stored, words: tuple[str, ...], index: int, across: str = "slice") -> Array:
    """One slice of an array whose axes are ``words``, as stored: (coils, rows, columns)."""
    return arranged(piece_of(stored, words, index, across), words, ("coil", "row", "column"))


def piece_of(stored: Stored, words: tuple[str, ...], index: int, across: str = "slice") -> Array:
    """One slice, with all axes as they are; the whole of an array without that axis."""
    if across in words:
        return stored.piece(words.index(across), index, index + 1)
    return stored.piece(0, 0, stored.shape[0])


def arranged(block: Array, words: tuple[str, ...], axes: tuple[str, ...]) -> Array:
    """These axes in this order, with one of length 1 for each that does not exist; the others have length 1."""
    order = [axis for axis, word in enumerate(words) if word not in axes]
    order += [words.index(word) for word in axes if word in words]
    return block.transpose(order).reshape([block.shape[words.index(word)] if word in words else 1 for word in axes])


def check_kspace(path: Path, kspace: Array, where: str) -> None:
    """Refuse k-space (any shape) that single precision cannot hold, and such that is all zero."""
    with np.errstate(all="ignore"):
        finite = np.isfinite(kspace.astype(np.complex64)).all()
    if not finite:
        raise FileError(path, f"holds NaN or infinite k-space in {where}", EXPORT)
    if not kspace.any():
        raise FileError(path, f"holds only zeros in the k-space of {where}", EXPORT)


def check_center(path: Path, kspace: Array) -> None:
    """Refuse k-space (coils, rows, columns) whose DC is in a corner, or in the middle of an edge."""
    energy = (np.abs(kspace).astype(np.float64) ** 2).sum(axis=0)
    rows, columns = energy.shape
    if min(rows, columns) < 8:
        return
    center = np.s_[rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4]
    for axes in ((0, 1), (0,), (1,)):
        if np.fft.fftshift(energy, axes)[center].sum() > CORNER_OVER_CENTER * energy[center].sum():
            problem = "holds k-space whose low frequencies are not in the center"
            raise FileError(path, problem, "Store it with DC in the center of every axis (fftshift)")


def scan_of(path: Path, kspace: Array, info: FileInfo, index: int) -> Scan:
    """The scan of one slice, stored as (coils, rows, columns).

    Raises ``FileError`` if it is not finite or all zero.
    """
    check_kspace(path, kspace, f"slice {index}")
    acquired = torch.from_numpy(acquired_samples(kspace))
    samples = torch.from_numpy(np.ascontiguousarray(kspace, dtype=np.complex64)).masked_fill(~acquired, 0)
    scan = Scan(samples, acquired, ScanMeta(info.subject, str(path), slice=index))
    return replace(scan, reference=ifft2c(samples)[0]) if info.coils == 1 and is_full(acquired) else scan


def image_of(image: Array, info: FileInfo, index: int) -> ImageSlice:
    """One slice of magnitudes, stored as (1, rows, columns), after :func:`check_magnitude`."""
    values = torch.from_numpy(np.ascontiguousarray(image[0], dtype=np.float32)).clamp_(min=0)
    return ImageSlice(values, info.meta(index))


def check_magnitude(path: Path, stored: Stored, words: tuple[str, ...]) -> None:
    """Refuse an array of real numbers that are no magnitudes, read slice by slice."""
    count = stored.shape[words.index("slice")] if "slice" in words else 1
    check_images(path, (slice_of(stored, words, index) for index in range(count)))


def check_images(path: Path, images: Iterable[Array]) -> None:
    """Refuse real images (any shape), all those of a file, that are no magnitudes.

    Raises ``FileError`` if they hold what single precision cannot, only zeros, or more below zero than interpolation
    leaves.
    """
    least, largest = np.float32(np.inf), np.float32(-np.inf)
    with np.errstate(all="ignore"):
        for image in images:
            # NaN stays NaN in these.
            least = np.minimum(least, np.float32(image.min()))
            largest = np.maximum(largest, np.float32(image.max()))
    if not (np.isfinite(least) and np.isfinite(largest)):
        raise FileError(path, "holds NaN or infinite values", EXPORT)
    if least == largest == 0:
        raise FileError(path, "holds only zeros", EXPORT)
    if least < -MOST_UNDERSHOOT * largest:
        problem = f"holds negative values (down to {least:.4g}, the largest is {largest:.4g}), so it is no magnitude"
        cure = "Give magnitude images, or k-space as complex numbers, whose parts --axes may name complex in an array"
        raise FileError(path, problem, cure)
    if least < 0:
        logger.warning("%s: values down to %.4g are set to 0 (undershoot of an interpolation)", path, least)


#: Bytes of k-space that are transformed at once.
TRANSFORMED = 1 << 26


@contextmanager
def transformed(path: Path, stored: Stored, words: tuple[str, ...]) -> Iterator[Array]:
    """Slices of a 3-D scan, complex64 (slices, coils, rows, columns), kept in a temporary file.

    The transform along the partitions is centered and orthonormal, as that within a slice is. Raises ``FileError`` if
    some partitions were left out where others were acquired, if k-space is not finite, or if there is no room for the
    temporary file.
    """
    sizes = dict(zip(words, stored.shape, strict=True))
    shape = (sizes["partition"], sizes.get("coil", 1), sizes["row"], sizes["column"])
    step = max(1, TRANSFORMED // (8 * shape[0] * shape[1] * shape[3]))
    size = 8 * math.prod(shape)
    with ExitStack() as kept:
        try:
            file = kept.enter_context(room_on_disk(size))
        except OSError as error:
            problem = f"needs {size / 1e9:.1f} GB for a temporary file in {tempfile.gettempdir()} ({error.strerror})"
            raise FileError(path, problem, "Free some space, or set TMPDIR to another folder") from error
        volume = np.memmap(file, np.complex64, "r+", shape=shape)
        counts = np.zeros((shape[0] + 1,), dtype=np.int64)
        acquired = np.zeros(shape[0], dtype=bool)
        for first in range(0, shape[2], step):
            rows = slice(first, min(first + step, shape[2]))
            block = arranged(stored.piece(words.index("row"), rows.start, rows.stop), words, ORDER)
            there = (block != 0).any(axis=1)
            acquired |= there.any(axis=(1, 2))
            counts += np.bincount(there.sum(axis=0).ravel(), minlength=len(counts))
            if there.any():
                check_kspace(path, block, f"rows {rows.start} to {rows.stop - 1}")
            volume[:, :, rows] = ifft1c(torch.from_numpy(block.astype(np.complex64)), 0).numpy()
        _check_sampling(path, counts, acquired)
        yield volume


ORDER = ("partition", "coil", "row", "column")


def _check_sampling(path: Path, counts: Array, acquired: Array) -> None:
    """Refuse undersampling along the partitions.

    ``counts`` tells of how many places of a slice had 0, 1, ... partitions. Outer partitions may be missing
    everywhere, but no more than half of them.
    """
    there = np.flatnonzero(acquired)
    whole = len(there)
    gaps = whole == 0 or whole < there[-1] - there[0] + 1 or 2 * whole <= len(acquired)
    partly = counts[1:whole].sum()
    if gaps or partly > MOST_LONE_ZEROS * counts[1:].sum():
        problem = "is undersampled along the axis named partition"
        raise FileError(path, problem, "Name a fully sampled k-space axis partition (the readout always is), as --axes")
