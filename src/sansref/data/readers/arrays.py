"""Scans from files of named arrays that say nothing of MRI: the array and its axes chosen, then slices one at a time.

Complex numbers are k-space, real ones magnitude images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sansref.data.readers.acquired import acquired_samples
from sansref.data.readers.axes import fitted_axes, parse_axes, ruled_axes
from sansref.data.readers.names import contrast_of, subject_of
from sansref.data.readers.partitions import transformed
from sansref.data.readers.planes import check_centre, check_kspace, check_magnitude, image_of, plane, scan_of
from sansref.data.readers.record import FileInfo, ImageSlice, ReaderOptions, chosen_slices
from sansref.data.readers.stored import Array, Stored
from sansref.errors import FileError, printable
from sansref.scan import Scan


@dataclass(frozen=True, slots=True)
class Entry:
    """An array of a file, as told by its header.

    Attributes
    ----------
    name
        Empty where the file holds one array alone.
    shape, dtype
        Of the array; the dtype of HDF5's complex compounds is that of the complex numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.name} ({'x'.join(map(str, self.shape))}, {self.dtype})".lstrip()


class ArrayReader(ABC):
    """Reader of a format of arrays.

    K-space of one coil that was fully sampled also gives its image as ``reference``. Which samples were acquired is
    found from the data, see :func:`sansref.data.readers.acquired.acquired_samples`. The scale is that of the file.

    Parameters
    ----------
    options
        Which array, and what its axes are.
    """

    format: str
    note: str | None = None
    pads_axes = False
    """Whether axes of length 1 at the end are not stored."""

    def __init__(self, options: ReaderOptions | None = None) -> None:
        self.options = options or ReaderOptions()

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether the content of a file is of this format."""

    @abstractmethod
    def entries(self, path: Path) -> list[Entry]:
        """List the numeric arrays of a file."""

    @abstractmethod
    def opened(self, path: Path, entry: Entry) -> AbstractContextManager[Stored]:
        """Open one array for reading."""

    def axes(self, path: Path, entry: Entry) -> tuple[str, ...]:
        """Words for the axes of an array, as many as :meth:`opened` gives."""
        if self.options.axes is None:
            return ruled_axes(path, entry.shape, entry.dtype)
        return fitted_axes(path, entry.shape, parse_axes(self.options.axes))

    def describe(self, path: Path) -> FileInfo:
        """Read the headers and, of k-space, the slice in the middle to see which samples were acquired."""
        entry, words = self._chosen(path)
        fraction = None
        if entry.dtype.kind == "c":
            with self.opened(path, entry) as stored:
                fraction = float(acquired_samples(_middle(path, stored, words)).mean())
        return self._info(path, entry, words, fraction)

    def read(self, path: Path, slices: Sequence[int] | None = None) -> Iterator[Scan | ImageSlice]:
        """Yield one ``Scan`` per slice of k-space, or one ``ImageSlice`` per image; the file is open meanwhile.

        K-space with partitions is transformed along them first, into a temporary file.
        """
        entry, words = self._chosen(path)
        info = self._info(path, entry, words, None)
        chosen = chosen_slices(slices, info.slices)
        with self.opened(path, entry) as stored:
            if info.kind == "magnitude":
                check_magnitude(path, stored, words)
                for index in chosen:
                    yield image_of(plane(stored, words, index), info, index)
                return
            _middle(path, stored, words)
            if "partition" not in words:
                for index in chosen:
                    yield scan_of(path, plane(stored, words, index), info, index)
                return
            with transformed(path, stored, words) as volume:
                for index in chosen:
                    yield scan_of(path, volume[index], info, index)

    def _chosen(self, path: Path) -> tuple[Entry, tuple[str, ...]]:
        entry = _choose(path, self.entries(path), self.options.array)
        if self.pads_axes and self.options.axes is not None:
            missing = len(parse_axes(self.options.axes)) - len(entry.shape)
            entry = Entry(entry.name, (*entry.shape, *[1] * missing), entry.dtype)
        words = self.axes(path, entry)
        if entry.dtype.kind != "c" and {"coil", "partition"} & set(words):
            problem = f"holds real numbers, {printable(str(entry))}, which are images without coils or partitions"
            raise FileError(path, problem, "Give complex k-space, or name the axes slice, row and column")
        return entry, words

    def _info(self, path: Path, entry: Entry, words: tuple[str, ...], fraction: float | None) -> FileInfo:
        sizes = dict(zip(words, entry.shape, strict=True))
        if min(sizes["row"], sizes["column"]) < 2:
            problem = f"holds {printable(str(entry))}, which is no image"
            raise FileError(path, problem, "Name two longer axes row and column")
        real = entry.dtype.kind != "c"
        what = "Real numbers are taken for magnitude images" if real else "Complex numbers are taken for k-space"
        name = f"array '{printable(entry.name)}'" if entry.name else "the array"
        shape = "x".join(map(str, entry.shape))
        read = f"the axes of {name}, {shape}, are read as {','.join(words)} (--axes names them otherwise)"
        notes = [f"{what}; {read}.", self.note]
        return FileInfo(
            path=path,
            format=self.format,
            kind="magnitude" if real else "k-space",
            slices=sizes.get("slice", sizes.get("partition", 1)),
            height=sizes["row"],
            width=sizes["column"],
            coils=sizes.get("coil", 1),
            subject=subject_of(path),
            contrast=contrast_of(path),
            spacing=None,
            acquired_fraction=fraction,
            notes=tuple(note for note in notes if note),
        )


def _choose(path: Path, entries: Sequence[Entry], name: str | None) -> Entry:
    """Find the array that is meant: the one of that name, the only complex one, or the only one that can be images."""
    if len(entries) == 1 and not entries[0].name:
        return entries[0]
    listed = printable(", ".join(map(str, entries[:20]))) or "nothing"
    if name is not None:
        for entry in entries:
            if entry.name == name:
                return entry
        raise FileError(path, f"holds no array '{name}' (it holds {listed})", "Choose another --array")
    usable = [entry for entry in entries if 2 <= sum(size > 1 for size in entry.shape) <= 5 and 0 not in entry.shape]
    candidates = [entry for entry in usable if entry.dtype.kind == "c"] or usable
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise FileError(path, f"holds no array of images or k-space (it holds {listed})", "Give another file")
    several = printable(", ".join(map(str, candidates[:20])))
    example = printable(candidates[0].name)
    raise FileError(path, f"holds several arrays: {several}", f"Choose one, for example --array {example}")


def _middle(path: Path, stored: Stored, words: tuple[str, ...]) -> Array:
    """K-space of the slice (or partition) in the middle, (coils, rows, columns), looked at for DC in its centre."""
    across = "partition" if "partition" in words else "slice"
    index = stored.shape[words.index(across)] // 2 if across in words else 0
    kspace = plane(stored, words, index, across)
    check_kspace(path, kspace, f"{across} {index}")
    check_centre(path, kspace)
    return kspace
