"""BART's pairs of ``.hdr`` and ``.cfl``: sixteen sizes as text, and complex single-precision numbers.

Format and order of dimensions: the BART toolbox (Uecker et al., https://mrirecon.github.io/bart), ``src/misc/io.c``
and ``src/misc/mri.h``. BART's ``fft`` is centered like the transforms here; without ``-u`` it differs by a scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sansref.data.readers.array_slices import FlatFile, slice_of
from sansref.data.readers.arrays import ArrayReader, Entry
from sansref.data.readers.damage import head_of, reading
from sansref.data.readers.reader import fitted_axes, parse_axes
from sansref.errors import FileError, printable

FIRST_LINE = "# Dimensions"
LONGEST_HEADER = 1 << 20
NAMES = (
    *("READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2"),
    *("ITER", "CSHIFT", "TIME", "TIME2", "LEVEL", "SLICE", "AVG", "BATCH"),
)
ENCODED = NAMES[:3]
OTHERS = {"COIL": "coil", "SLICE": "slice"}
#: Energy of the middle of spokes over that of their median sample, and of the strongest one over the median spoke.
PEAKED, EVEN = 30.0, 3.0
SAMPLE = np.dtype("<c8")


class BartReader(ArrayReader):
    """Reader of BART's k-space; either file of the pair may be given.

    The readout gives the rows, the first phase encoding the columns; a second one is taken for a fully sampled
    partition axis. Without a readout, the two phase encodings are rows and columns: BART's own layout of 2-D scans.
    ``axes`` names the dimensions otherwise, the first of them first.
    """

    format = "BART"
    sets = NAMES.index("MAPS")

    def recognises(self, path: Path) -> bool:
        """Whether it is a ``.cfl``, which has no mark of its own, or a ``.hdr`` with BART's first line."""
        if path.suffix == ".cfl":
            return True
        if path.suffix != ".hdr":
            return False
        return head_of(path, len(FIRST_LINE)) == FIRST_LINE.encode()

    def entries(self, path: Path) -> list[Entry]:
        """Read the header and compare it with the size of the data."""
        data, header = path.with_suffix(".cfl"), path.with_suffix(".hdr")
        for file in (data, header):
            if not file.is_file():
                raise FileError(path, f"has no {file.suffix} beside it", "Keep both files of the pair in one folder")
        sizes = _sizes(path, header)
        promised, size = math.prod(sizes) * SAMPLE.itemsize, data.stat().st_size
        if size != promised:
            problem = f"has {size} bytes in its .cfl, its .hdr promises {promised} ({'x'.join(map(str, sizes))})"
            raise FileError(path, problem, "Copy both files of the pair again")
        return [Entry("", sizes, SAMPLE)]

    def axes(self, path: Path, entry: Entry) -> tuple[str, ...]:
        """By BART's order of dimensions, or by the user's words for the first of them."""
        if self.options.axes is not None:
            words = parse_axes(self.options.axes)
            return fitted_axes(path, entry.shape, words + ("x",) * (len(entry.shape) - len(words)))
        words = self.known_axes(entry.shape)
        long = {name: size for name, size in zip(NAMES, entry.shape, strict=True) if size > 1}
        if not {"row", "column"} <= set(words):
            problem = f"has no plane of READ, PHS1 and PHS2 ({_listed(long)}), so it is no Cartesian k-space"
            raise FileError(path, problem, "Give Cartesian k-space, or name its dimensions with --axes")
        if unknown := [name for name in long if name not in (*ENCODED, *OTHERS)]:
            name, number = unknown[0], NAMES.index(unknown[0])
            problem = f"has {long[name]} entries in dimension {number} ({name}), of which one can be read"
            raise FileError(path, problem, f"Select one with 'bart slice {number} INDEX', or average with 'bart avg'")
        if {"slice", "partition"} <= set(words):
            raise FileError(path, f"has several slabs ({_listed(long)})", "Take one of them with 'bart slice 13'")
        if "READ" not in long:
            self._check_spokes(path, entry, words)
        return words

    def known_axes(self, shape: Sequence[int]) -> tuple[str, ...]:
        """By BART's order of dimensions."""
        encoded = (name for name, size in zip(ENCODED, shape, strict=False) if size > 1)
        words = OTHERS | dict(zip(encoded, ("row", "column", "partition"), strict=False))
        return tuple(words.get(name, "x") if size > 1 else "x" for name, size in zip(NAMES, shape, strict=True))

    def _check_spokes(self, path: Path, entry: Entry, words: tuple[str, ...]) -> None:
        """Refuse spokes through the center, which BART stores in the dimensions of a 2-D scan.

        Each of them holds the center in its middle, so that all have about the same energy; lines of a grid do not.
        """
        with self.opened(path, entry) as stored:
            samples = slice_of(stored, words, entry.shape[words.index("slice")] // 2 if "slice" in words else 0)
        with np.errstate(all="ignore"):
            energy = (np.abs(samples).astype(np.float64) ** 2).sum(axis=0)
        along, across = energy.sum(axis=1), energy.sum(axis=0)
        across = across[across > 0]
        middle = along[len(along) // 2 - 1 : len(along) // 2 + 2].max()
        if len(across) and middle > PEAKED * np.median(along) and across.max() < EVEN * np.median(across):
            problem = "looks like spokes through the center of k-space (radial): all its columns have the same energy"
            raise FileError(path, problem, "Give Cartesian k-space, or name its dimensions with --axes")

    @contextmanager
    def opened(self, path: Path, entry: Entry) -> Iterator[FlatFile]:
        """Open the data, in which the first dimension runs fastest."""
        with path.with_suffix(".cfl").open("rb") as file:
            yield FlatFile(path, file, 0, entry.shape, SAMPLE, fortran=True)


def _sizes(path: Path, header: Path) -> tuple[int, ...]:
    """Sixteen sizes; a header may leave out ones at the end."""
    with reading(path, "BART"):
        lines = head_of(header, LONGEST_HEADER).decode("ascii", "replace").splitlines()
    line = lines[1] if len(lines) > 1 and lines[0].strip() == FIRST_LINE else ""
    words = line.split()
    usable = all(word.isdecimal() and len(word) < 19 and int(word) > 0 for word in words)
    if not 0 < len(words) <= len(NAMES) or not usable:
        problem = f"has a .hdr whose dimensions are {printable(line)[:60]!r}"
        raise FileError(path, problem, f"It must begin with '{FIRST_LINE}' and a line of up to {len(NAMES)} sizes")
    return tuple(int(word) for word in words) + (1,) * (len(NAMES) - len(words))


def _listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "all of length 1"
