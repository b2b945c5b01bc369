"""Coil sensitivity maps that come with scans: in their file, or in files of their own.

Maps are what the coils see of each place, (coils, rows, columns) a slice, as complex numbers on any scale: BART's
``ecalib`` and ``caldir``, sigpy and others write them. What their axes are is told by the sizes of their scan.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from sansref.data.readers.array_parts import Stored
from sansref.data.readers.checked_slice import arranged
from sansref.data.readers.reader import FileInfo
from sansref.errors import FileError, printable
from sansref.kspace.coils import normalised

#: How arrays of maps are called, letters alone: ``sensitivity_map`` (DIRECT), ``sense`` (ATOMMIC), ``maps``, ``csm``...
NAMES = re.compile(
    r"((coil|sens|sense|sensitivity|coilsens|coilsensitivity|espirit|receive|c|s)?(maps?|profiles?))"
    r"|sens|sense|csms?|coilsens|(coil)?sensitivit(y|ies)"
)

CURE = "Give other maps, or --maps none to estimate them"

#: Axes in the orders of programs in which the last one runs fastest, and the first.
ORDERS = (("slice", "coil", "row", "column"), ("row", "column", "coil", "slice"))
SET = "set"
"""An axis of several sets of maps, as ``ecalib`` gives them; the first is taken."""


def is_maps_name(name: str) -> bool:
    """Whether an array, at any depth of a file, is called as maps are."""
    return NAMES.fullmatch(re.sub(r"[^a-z]", "", name.rsplit("/", 1)[-1].lower())) is not None


def map_axes(shape: Sequence[int], scan: FileInfo, known: Iterable[Sequence[str]] = ()) -> tuple[str, ...] | None:
    """What the axes of maps are, by the sizes of their scan.

    Parameters
    ----------
    shape
        Shape of the maps.
    scan
        Scan that the maps belong to.
    known
        Words for the axes that are tried first: those of the k-space, or of the format.

    Returns
    -------
    tuple or None
        One word for each axis, ``x`` for one of length 1; None where the sizes do not fit, or in several ways.
    """
    sizes = {"slice": {scan.slices}, "coil": {scan.coils}, "column": {scan.width}}
    sizes["row"] = {scan.height, scan.stored_rows[0] if scan.stored_rows else scan.height}
    for words in known:
        own = tuple("slice" if word == "partition" else word for word in words)
        if len(own) == len(shape) and _fits(own, shape, sizes):
            return own
    long = [axis for axis, size in enumerate(shape) if size > 1]
    named = [word for word in ORDERS[0] if max(sizes[word]) > 1]
    ruled = [tuple(word for word in order if word in named) for order in ORDERS]
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
    """Read the maps of a slice.

    Parameters
    ----------
    stored, words
        The array, and what its axes are.
    scan
        Scan that the maps belong to. Rows that its reader cuts off, as readout oversampling, are cut off here too.
    index
        Index of the slice.
    name
        Name of the maps, for people.

    Returns
    -------
    Tensor
        complex64 (coils, height, width), with sum over coils |map|^2 = 1, or 0 where there are none.

    Raises
    ------
    FileError
        Naming the scan, where the maps are not finite or all zero.
    """
    across, start, stop = (words.index("slice"), index, index + 1) if "slice" in words else (0, 0, stored.shape[0])
    block = stored.part(across, start, stop)
    if SET in words:
        block = block.take([0], words.index(SET))
    with np.errstate(all="ignore"):
        found = np.ascontiguousarray(arranged(block, words, ("coil", "row", "column")), dtype=np.complex64)
    if not np.isfinite(found).all() or not found.any():
        problem = "only zeros" if np.isfinite(found).all() else "NaN or infinite values"
        raise FileError(scan.path, f"has coil maps ({name}) with {problem} in slice {index}", CURE)
    if scan.stored_rows and found.shape[1] == scan.stored_rows[0]:
        found = found[:, scan.stored_rows[1] :][:, : scan.height]
    return normalised(torch.from_numpy(found))


def inside_note(name: str) -> str:
    """What a person should know of maps in the file of their scan."""
    return f"Coil maps are those of '{printable(name)}' in the file, scaled to one (--maps none estimates them)."
