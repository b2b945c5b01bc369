"""What the axes of an array are, where a format does not say: by the user's words, or by a rule where it is safe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sansref.errors import FileError, SettingError

PAIRS = "complex"
WORDS = ("slice", "partition", "coil", "row", "column", PAIRS, "x")
"""Names of axes; ``partition`` is a fully sampled k-space axis of a 3-D scan, ``complex`` one along which real and
imaginary parts take turns (one pair, or one for each coil), ``x`` an axis of length 1."""

HELP = "slice, partition, coil, row, column, complex (real and imaginary parts in turn), or x for an axis of length 1"


def parse_axes(text: str) -> tuple[str, ...]:
    """Words of a setting such as ``coil,row,column``, one for each axis of the array.

    Raises
    ------
    SettingError
        For an unknown or repeated word, without a row and a column, or with both slices and partitions.
    """
    words = tuple("x" if word.strip() == "-" else word.strip().lower() for word in text.split(","))
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise SettingError(f"axes {text!r}: {unknown[0]!r} is no axis; use {HELP}, with commas between")
    named = [word for word in words if word != "x"]
    if len(set(named)) < len(named):
        raise SettingError(f"axes {text!r}: a word stands twice; name every axis once")
    if not {"row", "column"} <= set(named):
        raise SettingError(f"axes {text!r}: an image has a row and a column")
    if {"slice", "partition"} <= set(named):
        raise SettingError(f"axes {text!r}: give slice or partition, not both; split the file into its slabs")
    return words


def fitted_axes(path: Path, shape: Sequence[int], words: tuple[str, ...]) -> tuple[str, ...]:
    """The user's words for an array of ``shape``, checked against it.

    Raises
    ------
    FileError
        If there are not as many words as axes, or an axis named ``x`` is longer than 1.
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
    coils taken for slices, or slices for coils, would give wrong images without a word.

    Raises
    ------
    FileError
        If the array is no image, or the user must say what its axes are.
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
    problem = f"holds {what} of shape {_size(shape)} and does not say what its axes are"
    raise FileError(path, problem, f"Say it, for example {' or '.join(_examples(shape, long, dtype))}")


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
