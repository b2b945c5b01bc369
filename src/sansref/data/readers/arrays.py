"""Formats of arrays that say nothing of MRI: what their axes are, their slices one at a time, and their coil maps.

Maps are what the coils see of each place, (coils, rows, columns) a slice, as complex numbers on any scale: BART's
``ecalib`` and ``caldir``, sigpy and others write them. What their axes are is told by the sizes of their scan.
"""

from __future__ import annotations

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sansref.data.readers.array_slices import (
    Array,
    Paired,
    Stored,
    arranged,
    check_center,
    check_kspace,
    check_magnitude,
    image_of,
    paired,
    piece_of,
    scan_of,
    slice_of,
    transformed,
)
from sansref.data.readers.reader import (
    PAIRS,
    FileInfo,
    ImageSlice,
    ReaderOptions,
    SliceChoice,
    acquired_samples,
    chosen_slices,
    fitted_axes,
    parse_axes,
    ruled_axes,
)
from sansref.data.readers.subjects import contrast_of, subject_of
from sansref.errors import FileError, printable
from sansref.kspace.coils import normalised
from sansref.scan import Scan

#: How arrays of maps are called, letters alone: ``sensitivity_map`` (DIRECT), ``sense`` (ATOMMIC), ``maps``, ``csm``...
MAPS_NAMES = re.compile(
    r"((coil|sens|sense|sensitivity|coilsens|coilsensitivity|espirit|receive|c|s)?(maps?|profiles?))"
    r"|sens|sense|csms?|coilsens|(coil)?sensitivit(y|ies)"
)

MAPS_CURE = "Give other maps, or --maps none to estimate them"

#: Axes in the orders of programs in which the last one runs fastest, and the first.
MAPS_ORDERS = (("slice", "coil", "row", "column"), ("row", "column", "coil", "slice"))
SET = "set"
"""An axis of several sets of maps, as ``ecalib`` gives them; the first is taken."""


def is_maps_name(name: str) -> bool:
    """Whether an array, at any depth of a file, is called as maps are."""
    return MAPS_NAMES.fullmatch(re.sub(r"[^a-z]", "", name.rsplit("/", 1)[-1].lower())) is not None


def map_axes(shape: Sequence[int], scan: FileInfo, known: Iterable[Sequence[str]] = ()) -> tuple[str, ...] | None:
    """What the axes of maps of this shape are, by the sizes of their scan: a word for each, ``x`` for one of length 1.

    Words that are ``known``, of the k-space or the format, are tried first. None where the sizes do not fit, or in
    several ways.
    """
    sizes = {"slice": {scan.slices}, "coil": {scan.coils}, "column": {scan.width}}
    sizes["row"] = {scan.height, scan.stored_rows[0] if scan.stored_rows else scan.height}
    for words in known:
        own = tuple("slice" if word == "partition" else word for word in words)
        if len(own) == len(shape) and _fits(own, shape, sizes):
            return own
    long = [axis for axis, size in enumerate(shape) if size > 1]
    named = [word for word in MAPS_ORDERS[0] if max(sizes[word]) > 1]
    ruled = [tuple(word for word in order if word in named) for order in MAPS_ORDERS]
    sized = [shape[axis] for axis in long]
    fitting = [order for order in ruled if _fits(order, sized, sizes)]
    fitting = fitting or [order for order in itertools.permutations(named) if _fits(order, sized, sizes)]
    if not fitting or (fitting[0] not in ruled and len(fitting) > 1):
        return None
    return tuple(fitting[0][long.index(axis)] if axis in long else "x" for axis in range(len(shape)))


def _fits(words: Sequence[str], shape: Sequence[int], sizes: dict[str, set[int]]) -> bool:
    if len(words) != len(shape):
        return False
    found = dict.fromkeys(sizes, 1) | dict(zip(words, shape, strict=True))
    return found.get("x", 1) == 1 and all(found[word] in size for word, size in sizes.items())


def read_maps(stored: Stored, words: tuple[str, ...], scan: FileInfo, index: int, name: str) -> Tensor:
    """Read the maps of a slice, complex64 (coils, height, width): sum over coils |map|^2 = 1, 0 where there are none.

    Rows that the scan's reader cuts off, as readout oversampling, are cut off here too. Raises ``FileError``, naming
    the scan, where the maps, called ``name``, are not finite or all zero.
    """
    block = piece_of(stored, words, index)
    if SET in words:
        block = block.take([0], words.index(SET))
    with np.errstate(all="ignore"):
        maps = np.ascontiguousarray(arranged(block, words, ("coil", "row", "column")), dtype=np.complex64)
    if not np.isfinite(maps).all() or not maps.any():
        problem = "only zeros" if np.isfinite(maps).all() else "NaN or infinite values"
        raise FileError(scan.path, f"has coil maps ({name}) with {problem} in slice {index}", MAPS_CURE)
    if scan.stored_rows and maps.shape[1] == scan.stored_rows[0]:
        maps = maps[:, scan.stored_rows[1] :][:, : scan.height]
    return normalised(torch.from_numpy(maps))


def inside_note(name: str) -> str:
    """What a person should know of maps in the file of their scan."""
    return f"Coil maps are those of '{printable(name)}' in the file, scaled to one (--maps none estimates them)."


#: How k-space is called where a file holds several complex arrays, for the example in what is said then.
KSPACE_NAME = re.compile(r"k_?space|ksp|k_?data|raw", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Entry:
    """An array of a file, as told by its header; the name is empty where the file holds one array alone.

    The dtype of HDF5's complex compounds is that of the complex numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.name} ({'x'.join(map(str, self.shape))}, {self.dtype})".lstrip()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The array that is meant: as it is stored, what its axes are, and maps of its coils with what their axes are.

    Along the axis ``pairs``, real and imaginary parts take turns; its word is then that of coils, or of length 1.
    """

    entry: Entry
    words: tuple[str, ...]
    pairs: int | None = None
    maps: tuple[Entry, tuple[str, ...]] | None = None

    @property
    def read(self) -> Entry:
        """As it is read: of pairs, complex."""
        if self.pairs is None:
            return self.entry
        dtype = np.result_type(self.entry.dtype, np.complex64)
        return Entry(self.entry.name, paired(self.entry.shape, self.pairs), dtype)


class ArrayReader(ABC):
    """Reader of a format of arrays.

    K-space of one coil that was fully sampled also gives its image as ``reference``. Which samples were acquired is
    found from the data, see :func:`sansref.data.readers.reader.acquired_samples`. The scale is that of the file.
    """

    format: str
    note: str | None = None
    pads_axes = False
    """Whether axes of length 1 at the end are not stored."""
    sets: int | None = None
    """The axis of several sets of maps."""

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

    def known_axes(self, shape: Sequence[int]) -> tuple[str, ...] | None:
        """What the format itself says of the axes of coil maps."""
        return None

    def describe(self, path: Path) -> FileInfo:
        """Read the headers and, of k-space, the slice in the middle to see which samples were acquired."""
        chosen = self._chosen(path)
        fraction = None
        if chosen.read.dtype.kind == "c":
            with self._stored(path, chosen) as stored:
                fraction = float(acquired_samples(_middle(path, stored, chosen.words)).mean())
        return self._info(path, chosen, fraction)

    def read(self, path: Path, slices: SliceChoice = None) -> Iterator[Scan | ImageSlice]:
        """Yield one ``Scan`` per slice of k-space, or one ``ImageSlice`` per image; the file is open meanwhile.

        K-space with partitions is transformed along them first, into a temporary file.
        """
        chosen = self._chosen(path)
        info, words = self._info(path, chosen, None), chosen.words
        indices = chosen_slices(slices, info.slices)
        with ExitStack() as opened:
            stored = opened.enter_context(self._stored(path, chosen))
            if info.kind == "magnitude":
                check_magnitude(path, stored, words)
                for index in indices:
                    yield image_of(slice_of(stored, words, index), info, index)
                return
            _middle(path, stored, words)
            volume = opened.enter_context(transformed(path, stored, words)) if "partition" in words else None
            maps = opened.enter_context(self.opened(path, chosen.maps[0])) if chosen.maps else None
            for index in indices:
                scan = scan_of(path, slice_of(stored, words, index) if volume is None else volume[index], info, index)
                if maps is not None and chosen.maps is not None:
                    scan = replace(scan, maps=read_maps(maps, chosen.maps[1], info, index, chosen.maps[0].name))
                yield scan

    def maps_note(self, path: Path, scan: FileInfo) -> str:
        """Say which maps for a scan a file holds, after a look whether there are any that fit."""
        entry, words = self._maps(path, scan)
        which = f", the first of {entry.shape[words.index(SET)]} sets" if SET in words else ""
        return f"Coil maps are those of {printable(f'{path} {entry.name}').strip()}{which}, scaled to one."

    def read_maps(self, path: Path, scan: FileInfo, slices: Sequence[int]) -> Iterator[Tensor]:
        """Yield maps for the slices of a scan, complex64 (coils, height, width)."""
        entry, words = self._maps(path, scan)
        with self.opened(path, entry) as stored:
            for index in slices:
                yield read_maps(stored, words, scan, index, str(path))

    def _maps(self, path: Path, scan: FileInfo) -> tuple[Entry, tuple[str, ...]]:
        """The array of maps in a file of its own: the complex one of such a name, or the only complex one."""
        entries = self.entries(path)
        maps = [entry for entry in entries if entry.dtype.kind == "c"]
        maps = [entry for entry in maps if is_maps_name(entry.name)] or maps
        if len(maps) != 1:
            problem = f"holds {'several' if maps else 'no'} complex arrays of coil maps ({_listed(entries)})"
            raise FileError(path, problem, "Give a file in which one complex array is named sensitivity_map")
        if (words := self._maps_axes(maps[0], scan)) is None:
            size = f"{scan.slices} slices, {scan.coils} coils, {scan.height} rows and {scan.width} columns"
            problem = f"holds maps {printable(str(maps[0]))}, which do not fit {size}"
            raise FileError(path, problem, "Give maps of this scan")
        return maps[0], words

    def _maps_axes(self, entry: Entry, scan: FileInfo, own: tuple[str, ...] = ()) -> tuple[str, ...] | None:
        shape = list(entry.shape)
        sets = 1 if self.sets is None else shape[self.sets]
        if self.sets is not None:
            shape[self.sets] = 1
        named = () if self.options.axes is None else parse_axes(self.options.axes)
        known = (own, named + ("x",) * (len(shape) - len(named)), self.known_axes(shape) or ())
        words = map_axes(shape, scan, known)
        if words is None or sets == 1:
            return words
        return tuple(SET if axis == self.sets else word for axis, word in enumerate(words))

    @contextmanager
    def _stored(self, path: Path, chosen: Chosen) -> Iterator[Stored]:
        with self.opened(path, chosen.entry) as stored:
            yield stored if chosen.pairs is None else Paired(stored, chosen.pairs)

    def _chosen(self, path: Path) -> Chosen:
        entries = self.entries(path)
        named = () if self.options.axes is None else parse_axes(self.options.axes)
        entry = _choose(path, entries, self.options.array, PAIRS in named)
        if self.pads_axes and named:
            entry = Entry(entry.name, (*entry.shape, *[1] * (len(named) - len(entry.shape))), entry.dtype)
        chosen = _in_pairs(path, Chosen(entry, self.axes(path, entry)))
        if chosen.read.dtype.kind != "c" and {"coil", "partition"} & set(chosen.words):
            problem = f"holds real numbers, {printable(str(entry))}, which are images without coils or partitions"
            cure = "Give complex k-space, or name the axes slice, row, column, and complex for real and imaginary parts"
            raise FileError(path, problem, cure)
        if chosen.read.dtype.kind != "c" or self.options.maps is not None or "coil" not in chosen.words:
            return chosen
        info = self._info(path, chosen, None)
        for other in entries:
            suits = other.name != entry.name and other.dtype.kind == "c" and is_maps_name(other.name)
            if suits and (words := self._maps_axes(other, info, chosen.words)):
                return replace(chosen, maps=(other, words))
        return chosen

    def _info(self, path: Path, chosen: Chosen, fraction: float | None) -> FileInfo:
        entry, words = chosen.read, chosen.words
        sizes = dict(zip(words, entry.shape, strict=True))
        if min(sizes["row"], sizes["column"]) < 2:
            problem = f"holds {printable(str(entry))}, which is no image"
            raise FileError(path, problem, "Name two longer axes row and column")
        real = entry.dtype.kind != "c"
        what = "Real numbers are taken for magnitude images" if real else "Complex numbers are taken for k-space"
        if chosen.pairs is not None:
            what = "Real and imaginary parts in turn are taken for k-space"
        name = f"array '{printable(entry.name)}'" if entry.name else "the array"
        shape = "x".join(map(str, chosen.entry.shape))
        said = ",".join(PAIRS if axis == chosen.pairs else word for axis, word in enumerate(words))
        read = f"the axes of {name}, {shape}, are read as {said} (--axes names them otherwise)"
        notes = [f"{what}; {read}.", self.note]
        if chosen.maps is not None:
            notes.append(inside_note(chosen.maps[0].name))
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
            acquired_fraction=fraction,
            axes=self.options.axes,
            notes=tuple(note for note in notes if note),
        )


def _in_pairs(path: Path, chosen: Chosen) -> Chosen:
    """An array with an axis named ``complex``: its pairs are those of coils where no other axis is theirs."""
    if PAIRS not in chosen.words:
        return chosen
    axis, entry = chosen.words.index(PAIRS), chosen.entry
    length = entry.shape[axis]
    if entry.dtype.kind == "c":
        problem = f"holds complex numbers, {printable(str(entry))}"
        raise FileError(path, problem, f"Leave the word {PAIRS} out of --axes")
    if length % 2 or (length > 2 and "coil" in chosen.words):
        problem = (
            f"holds {printable(str(entry))}, whose axis of length {length} is not an axis of real and imaginary parts"
        )
        raise FileError(path, problem, f"Name an axis of length 2 {PAIRS}, or one in which all coils' parts take turns")
    words = tuple(("coil" if length > 2 else "x") if word == PAIRS else word for word in chosen.words)
    return Chosen(entry, words, axis)


def _choose(path: Path, entries: Sequence[Entry], name: str | None, pairs: bool) -> Entry:
    """Find the array that is meant: the one of that name, the only complex one, or the only one that can be images.

    Maps are meant only where there is nothing else; with ``pairs``, complex numbers are looked for in real arrays.
    """
    if len(entries) == 1 and not entries[0].name:
        return entries[0]
    if name is not None:
        for entry in entries:
            if entry.name == name:
                return entry
        raise FileError(path, f"holds no array '{name}' (it holds {_listed(entries)})", "Choose another --array")
    usable = [entry for entry in entries if 2 <= sum(size > 1 for size in entry.shape) <= 5 and 0 not in entry.shape]
    candidates = [entry for entry in usable if (entry.dtype.kind == "c") != pairs] or usable
    candidates = [entry for entry in candidates if not is_maps_name(entry.name)] or candidates
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise FileError(path, f"holds no array of images or k-space (it holds {_listed(entries)})", "Give another file")
    candidates.sort(key=lambda entry: KSPACE_NAME.search(entry.name) is None)
    cure = f"Choose one, for example --array {printable(candidates[0].name)}"
    raise FileError(path, f"holds several arrays: {_listed(candidates)}", cure)


def _listed(entries: Sequence[Entry]) -> str:
    return printable(", ".join(map(str, entries[:20]))) or "nothing"


def _middle(path: Path, stored: Stored, words: tuple[str, ...]) -> Array:
    """K-space of the slice (or partition) in the middle, (coils, rows, columns), looked at for DC in its center."""
    across = "partition" if "partition" in words else "slice"
    index = stored.shape[words.index(across)] // 2 if across in words else 0
    kspace = slice_of(stored, words, index, across)
    check_kspace(path, kspace, f"{across} {index}")
    check_center(path, kspace)
    size = np.sqrt((np.abs(kspace).astype(np.float64) ** 2).sum(axis=0))
    if len(kspace) > 1 and (np.isclose(size, 1, rtol=1e-3) | (size == 0)).all():
        problem = "holds coil maps, not k-space: the sum of squares of its coils is 1 everywhere"
        raise FileError(path, problem, "Give k-space, and this file by --maps")
    return kspace
