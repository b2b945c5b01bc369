from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sansref.data.readers import ReaderOptions
from sansref.data.readers.reader import fitted_axes, parse_axes, ruled_axes
from sansref.errors import FileError, SettingError

PATH = Path("a.npy")
KSPACE, IMAGE = np.dtype(np.complex64), np.dtype(np.uint16)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("row,column", ("row", "column")),
        ("Coil, Row , column", ("coil", "row", "column")),
        ("x,slice,-,row,column", ("x", "slice", "x", "row", "column")),
        ("partition,column,row,coil", ("partition", "column", "row", "coil")),
    ],
)
def test_words(text: str, words: tuple[str, ...]) -> None:
    assert parse_axes(text) == words
    assert ReaderOptions(axes=text).axes == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row,colum", "axes 'row,colum': 'colum' is not an axis; use slice, partition, coil, row, column, complex"),
        ("", "'' is not an axis"),
        ("row,row,column", "a word occurs twice"),
        ("coil,row", "both row and column are needed"),
        ("slice,partition,row,column", "give slice or partition, not both"),
    ],
)
def test_words_that_cannot_be_understood(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ReaderOptions(axes=text)


def test_words_must_fit_the_array() -> None:
    assert fitted_axes(PATH, (1, 4, 5), ("x", "row", "column")) == ("x", "row", "column")
    with pytest.raises(FileError, match=r"shape 4x5, which --axes coil,row,column does not fit. Give --axes with one"):
        fitted_axes(PATH, (4, 5), ("coil", "row", "column"))
    with pytest.raises(FileError, match="shape 3x4x5, where --axes x,row,column passes over an axis of length 3"):
        fitted_axes(PATH, (3, 4, 5), ("x", "row", "column"))


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((5, 6), KSPACE, "row,column"),
        ((1, 5, 6, 1), KSPACE, "x,row,column,x"),
        ((5, 6), IMAGE, "row,column"),
        ((3, 5, 6), IMAGE, "slice,row,column"),
        ((5, 1, 6, 3), IMAGE, "row,x,column,slice"),
        ((5, 3, 6), IMAGE, "row,slice,column"),
        ((6, 6, 6), IMAGE, "row,column,slice"),
    ],
)
def test_what_the_rule_reads(shape: tuple[int, ...], dtype: np.dtype, words: str) -> None:
    assert ",".join(ruled_axes(PATH, shape, dtype)) == words


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((8, 9, 7), KSPACE, "k-space of shape 8x9x7 whose axes.*row,column,coil or --axes row,column,slice"),
        ((3, 8, 9), KSPACE, "--axes coil,row,column or --axes slice,row,column"),
        ((3, 1, 8, 9), KSPACE, "--axes coil,x,row,column or --axes slice,x,row,column"),
        ((3, 4, 8, 9), KSPACE, "--axes slice,coil,row,column or --axes coil,slice,row,column"),
        ((2, 3, 4, 8, 9), KSPACE, "for example --axes slice,row,column"),
        ((3, 4, 8, 9), IMAGE, "holds images of shape 3x4x8x9 whose axes have no names"),
        ((7,), KSPACE, "array of shape 7, which is no image"),
        ((), IMAGE, "array of shape a single number, which is no image"),
        ((1, 7), IMAGE, "which is no image"),
        ((0, 7, 8), IMAGE, "which is no image"),
    ],
)
def test_what_the_rule_leaves_to_the_user(shape: tuple[int, ...], dtype: np.dtype, message: str) -> None:
    with pytest.raises(FileError, match=message):
        ruled_axes(PATH, shape, dtype)
