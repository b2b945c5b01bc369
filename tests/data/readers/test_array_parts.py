from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.data.readers import array_slices as stored
from sansref.data.readers.array_slices import FlatFile, InMemory, check_fits
from sansref.errors import FileError


@settings(max_examples=80, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    fortran=st.booleans(),
    dtype=st.sampled_from(["<c8", ">f8", "u1"]),
    block=st.sampled_from([1, 256 * 16, 1 << 24]),
    data=st.data(),
)
def test_parts_are_those_of_numpy(
    tmp_path_factory: pytest.TempPathFactory,
    shape: list[int],
    fortran: bool,
    dtype: str,
    block: int,
    data: st.DataObject,
) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    path = tmp_path_factory.getbasetemp() / "flat"
    path.write_bytes(b"head" + array.tobytes("F" if fortran else "C"))
    axis = data.draw(st.integers(0, len(shape) - 1))
    start = data.draw(st.integers(0, shape[axis] - 1))
    stop = data.draw(st.integers(start + 1, shape[axis]))
    expected = np.take(array, range(start, stop), axis)
    with path.open("rb") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "BLOCK", block)
        part = FlatFile(path, file, 4, tuple(shape), array.dtype, fortran).piece(axis, start, stop)
    assert part.dtype == array.dtype
    assert np.array_equal(part, expected)
    assert np.array_equal(InMemory(array).piece(axis, start, stop), expected)


def test_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    path = tmp_path / "flat"
    path.write_bytes(bytes(40))
    with path.open("rb") as file, pytest.raises(FileError, match="became shorter while it was being read"):
        FlatFile(path, file, 0, (3, 4), np.dtype("f4"), False).piece(0, 2, 3)


def test_an_array_larger_than_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a file of holes
    with pytest.raises(FileError, match=r"array of 8796.1 GB, read as a whole, and .* GB of memory are free"):
        check_fits(path, (1 << 20, 1 << 20), 8)
    with pytest.raises(FileError, match=r"declares .* bytes of data, more than its"):
        check_fits(path, (1 << 40, 1 << 40), 8)
    check_fits(path, (10, 10), 8)
