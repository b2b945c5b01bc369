"""The contract of readers: a description of a file, and its slices one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sansref.errors import FileError, SettingError
from sansref.scan import Geometry, Scan, ScanMeta

Kind = Literal["k-space", "magnitude"]
Plane = Literal["native", "sagittal", "coronal", "axial"]
NO_MAPS = "none"
"""In the place of a file of coil maps: none are taken, not even those that stand in the file of a scan."""

BY_NAME, BY_PATIENT, BY_STUDY = "name of the file", "patient id in the file", "DICOM study without patient id"
"""How a file by itself says whose it is."""


PAIRS = "complex"
WORDS = ("slice", "partition", "coil", "row", "column", PAIRS, "x")
"""Names of axes; ``partition`` is a fully sampled k-space axis of a 3-D scan, ``complex`` one along which real and
imaginary parts take turns (one pair, or one for each coil), ``x`` an axis of length 1."""

HELP = "slice, partition, coil, row, column, complex (real and imaginary parts in turn), or x for an axis of length 1"


def parse_axes(text: str) -> tuple[str, ...]:
    """Words of a setting such as ``coil,row,column``, one for each axis of the array.

    Raises ``SettingError`` for an unknown or repeated word, without a row and a column, or with both slices and
    partitions.
    """
    words = tuple("x" if word.strip() == "-" else word.strip().lower() for word in text.split(","))
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise SettingError(f"axes {text!r}: {unknown[0]!r} is not an axis; use {HELP}, with commas between")
    named = [word for word in words if word != "x"]
    if len(set(named)) < len(named):
        raise SettingError(f"axes {text!r}: a word occurs twice; name every axis once")
    if not {"row", "column"} <= set(named):
        raise SettingError(f"axes {text!r}: both row and column are needed")
    if {"slice", "partition"} <= set(named):
        raise SettingError(f"axes {text!r}: give slice or partition, not both; split the file into its slabs")
    return words


def fitted_axes(path: Path, shape: Sequence[int], words: tuple[str, ...]) -> tuple[str, ...]:
    """The user's words for an array of ``shape``, checked against it.

    Raises ``FileError`` if there are not as many words as axes, or an axis named ``x`` is longer than 1.
    """
    text = ",".join(words)
    cure = f"Give --axes with one word for each axis: {HELP}"
    if len(words) != len(shape):
        raise FileError(path, f"holds an array of shape {_size(shape)}, which --axes {text} does not fit", cure)
    long = [size for word, size in zip(words, shape, strict=True) if word == "x" and size != 1]
    if long:
        problem = f"holds an array of shape {_size(shape)}, where --axes {text} passes over an axis of length {long[0]}"
        raise FileError(path, problem, cure)
    return words


def ruled_axes(path: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> tuple[str, ...]:
    """What the axes of an array of ``shape`` are, where only one reading is sensible.

    Axes of length 1 count for nothing. Two others are row and column. Of a real volume, the shortest axis (the last of
    equals) runs across the slices: another choice would give images just as true. The axes of k-space are not guessed:
    coils taken for slices, or slices for coils, would give wrong images without a word. Raises ``FileError`` if the
    array is no image, or the user must say what its axes are.
    """
    long = [axis for axis, size in enumerate(shape) if size > 1]
    if len(long) < 2 or 0 in shape:
        problem = f"holds an array of shape {_size(shape)}, which is no image"
        raise FileError(path, problem, "Give an array of two or more axes")
    if len(long) == 2:
        return _spread(shape, dict(zip(long, ("row", "column"), strict=True)))
    if len(long) == 3 and dtype.kind != "c":
        across = min(long, key=lambda axis: (shape[axis], -axis))
        rows, columns = (axis for axis in long if axis != across)
        return _spread(shape, {across: "slice", rows: "row", columns: "column"})
    what = "k-space" if dtype.kind == "c" else "images"
    problem = f"holds {what} of shape {_size(shape)} whose axes have no names"
    raise FileError(path, problem, f"Name them, for example {' or '.join(_examples(shape, long, dtype))}")


def _spread(shape: Sequence[int], words: dict[int, str]) -> tuple[str, ...]:
    return tuple(words.get(axis, "x") for axis in range(len(shape)))


def _examples(shape: Sequence[int], long: list[int], dtype: np.dtype[Any]) -> list[str]:
    """Settings that may be meant; the two longest axes are most often those of the image."""
    plane = sorted(sorted(long, key=lambda axis: shape[axis])[-2:])
    others = [axis for axis in long if axis not in plane]
    if dtype.kind != "c" or len(others) > 2:
        return ["--axes slice,row,column"]
    orders = [("coil",), ("slice",)] if len(others) == 1 else [("slice", "coil"), ("coil", "slice")]
    image = dict(zip(plane, ("row", "column"), strict=True))
    meant = [image | dict(zip(others, order, strict=True)) for order in orders]
    return [f"--axes {','.join(_spread(shape, words))}" for words in meant]


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape) or "a single number"


def check_rule(rule: str | None) -> None:
    """Refuse what ``--subject_from`` cannot be.

    Raises ``SettingError`` if it is neither folder, nor file, nor a regular expression with at most one group.
    """
    if rule is None or rule in ("folder", "file"):
        return
    try:
        groups = re.compile(rule).groups
    except re.error as error:
        problem = f"must be folder, file or a regular expression, {rule!r} is none of them ({error})"
        raise SettingError(f"subject_from {problem}") from None
    if groups > 1 or not rule:
        raise SettingError(f"subject_from {rule!r} must have one group, around the person's name in a path")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a file holds, as told by its headers.

    Attributes
    ----------
    path, format, kind
        The file as given, the name of its format, and whether it holds measured k-space or magnitude images.
    slices, height, width
        Number of slices, and the size of a slice as it is read (for k-space after readout oversampling has been
        removed).
    subject, recognised_by
        The person (or object) scanned, and how that was recognised, in words.
    coils
        Number of receive channels, 1 for magnitude images.
    contrast
        The sequence or weighting as the file names it, None where it does not.
    lying
        How the patient lay in the scanner, such as HFS, as DICOM has it; None where a raw file does not say.
    spacing
        Row and column spacing in millimetres, None where the file does not say.
    acquired_fraction
        For k-space, the share of the encoded grid that was measured; None for magnitude images.
    stored_rows
        How many rows the file has, and the first that is kept, where the reader cuts off oversampling of the readout.
    axes
        What the axes of an array are, where the reader was told (``--axes``); None where the file or a rule says so.
    notes
        What a person should know about how the file is read, as sentences.
    """

    path: Path
    format: str
    kind: Kind
    slices: int
    height: int
    width: int
    subject: str
    coils: int = 1
    contrast: str | None = None
    lying: str | None = None
    spacing: tuple[float, float] | None = None
    acquired_fraction: float | None = None
    stored_rows: tuple[int, int] | None = None
    axes: str | None = None
    notes: tuple[str, ...] = ()
    recognised_by: str = BY_NAME

    def meta(self, index: int, geometry: Geometry | None = None) -> ScanMeta:
        """Where a slice of magnitudes comes from, from which k-space is to be simulated."""
        source = str(self.path)
        return ScanMeta(self.subject, source, index, spacing=self.spacing, synthetic=True, geometry=geometry)


@dataclass(frozen=True, slots=True)
class ImageSlice:
    """One slice of a magnitude volume, from which k-space can be simulated.

    The image is float32 (height, width), in the units of the file, not negative; ``meta`` is marked as synthetic.
    """

    image: Tensor
    meta: ScanMeta


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """How files are read, for the formats that leave a choice: the settings of :class:`sansref.data.slices.Slices`.

    Raises ``SettingError`` if ``axes`` or ``subject_from`` cannot be understood.
    """

    plane: Plane = "native"
    array: str | None = None
    axes: str | None = None
    subject_from: str | None = None
    maps: str | None = None

    def __post_init__(self) -> None:
        check_rule(self.subject_from)
        if self.axes is not None:
            parse_axes(self.axes)


SliceChoice = Sequence[int] | Callable[[int], Sequence[int]] | None
"""Indices of slices, or what gives them for the number of slices of a file; None chooses all."""


class Reader(Protocol):
    """Reads a file."""

    def describe(self, path: Path) -> FileInfo:
        """Read the headers only; raises ``FileError`` where the file cannot be used."""
        ...

    def read(self, path: Path, slices: SliceChoice = None) -> Iterator[Scan | ImageSlice]:
        """Yield the chosen slices (all of them by default), one at a time, in the order given.

        Raises ``FileError`` where the file, or a slice when its turn comes, cannot be used, and ``ValueError`` if a
        slice index is not in the file.
        """
        ...


class FormatReader(Reader, Protocol):
    """Reads one file format."""

    def recognises(self, path: Path) -> bool:
        """Whether the content of a file, never its name alone, is of this format.

        A damaged file of the format's container counts, so that :meth:`describe` can say what is wrong with it.
        """
        ...


def chosen_slices(slices: SliceChoice, count: int) -> Sequence[int]:
    """Indices of the chosen slices of a file that has ``count``; raises ``ValueError`` if one is not among them."""
    if slices is None:
        return range(count)
    if callable(slices):
        slices = slices(count)
    outside = [index for index in slices if not 0 <= index < count]
    if outside:
        raise ValueError(f"slices must lie in 0..{count - 1}, got {outside}")
    return slices


#: Lone zeros in at most this part of the grid are values that rounding made zero, not a pattern of sampling.
MOST_LONE_ZEROS = 0.01


def acquired_samples(kspace: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """The acquired samples of finite, complex (coils, height, width), bool (height, width).

    A measured sample is never exactly zero in all coils. Values below the rounding error of the largest one count as
    zeros, because zero-padded k-space that went through a Fourier transform along another axis comes back with such
    values. Lone zeros, in whole numbers of a receiver for example, are measured: they leave no row or column empty and
    are fewer than any undersampling leaves out.
    """
    size = np.abs(kspace).max(axis=0)
    found: npt.NDArray[np.bool_] = size > np.finfo(kspace.dtype).eps * size.max()
    rows, columns = found.any(axis=1), found.any(axis=0)
    inside = np.ix_(rows, columns)
    if found.any() and np.mean(~found[inside]) <= MOST_LONE_ZEROS:
        found[inside] = True
    return found
