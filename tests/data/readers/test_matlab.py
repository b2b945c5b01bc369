from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from sansref.data.readers import ReaderOptions, open_scan_file
from sansref.data.readers.damage import ChildLimits
from sansref.data.readers.matlab import MatlabReader
from sansref.errors import FileError


def mat(path: Path, compressed: bool = True, **arrays: Any) -> Path:
    savemat(path, arrays, do_compression=compressed)
    return path


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_kspace_of_several_slices(make: Any, tmp_path: Path, compressed: bool, dtype: type) -> None:
    kspace = make.noise(8, 9, 4, dtype=dtype)
    others = {"mask": np.ones((8, 9)), "TE": 3.0, "text": "words", "cells": np.array([{}, 1], dtype=object)}
    path = mat(tmp_path / "case3_FLAIR.mat", compressed, kspace=kspace, logical=np.ones((8, 9), bool), **others)
    info = open_scan_file(path, ReaderOptions(axes="row,column,slice")).describe(path)
    assert (info.format, info.kind, info.subject, info.contrast) == ("MATLAB 5", "k-space", "case3", "FLAIR")
    assert (info.slices, info.height, info.width, info.coils, info.acquired_fraction) == (4, 8, 9, 1, 1.0)
    assert "the axes of array 'kspace', 8x9x4, are read as row,column,slice" in info.notes[0]
    assert "'save -v7.3' gives files that are read slice by slice" in info.notes[1]
    found = make.scans(path, "row,column,slice")
    assert all(np.array_equal(scan.kspace[0].numpy(), kspace[..., scan.meta.slice].astype("c8")) for scan in found)
    assert all(scan.reference is not None for scan in found)


@pytest.mark.parametrize("name", ["k", "ksp", "kspa", "kspac", "kspace_all", "k" * 31])
def test_names_of_any_length(make: Any, tmp_path: Path, name: str) -> None:
    path = mat(tmp_path / "a.mat", **{name: make.noise(8, 9, dtype="c16"), "other": np.ones((3, 8, 9), np.uint8)})
    entries = MatlabReader().entries(path)
    assert [(entry.name, entry.shape, entry.dtype.kind) for entry in entries] == [
        *[(name, (8, 9), "c"), ("other", (3, 8, 9), "u")]
    ]
    assert len(make.scans(path)) == 1
    assert len(make.scans(path, array="other")) == 3


@pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_types_of_images(make: Any, tmp_path: Path, dtype: str) -> None:
    volume = np.arange(1, 121).reshape(4, 5, 6).astype(dtype)
    path = mat(tmp_path / "a.mat", volume=volume)
    assert MatlabReader().entries(path)[0].dtype == dtype
    assert np.array_equal(make.scans(path)[2].image.numpy(), volume[2].astype(np.float32))


def test_an_axis_that_matlab_left_out(make: Any, tmp_path: Path) -> None:
    path = mat(tmp_path / "a.mat", kspace=make.noise(8, 9, dtype="c16"))
    assert len(make.scans(path, "row,column,slice")) == 1
    with pytest.raises(FileError, match="shape 8x9x2, which --axes row,column does not fit"):
        make.scans(mat(path, kspace=make.noise(8, 9, 2, dtype="c16")), "row,column")


def test_several_arrays_and_none(make: Any, tmp_path: Path) -> None:
    path = mat(tmp_path / "a.mat", a=make.noise(8, 9, dtype="c16"), b=make.noise(8, 9, dtype="c16"))
    with pytest.raises(FileError, match=r"holds several arrays: a \(8x9, complex128\), b .* for example --array a"):
        make.scans(path)
    assert len(make.scans(path, array="b")) == 1
    with pytest.raises(FileError, match=r"holds no array of images or k-space \(it holds t \(1x1, .*\)\)"):
        make.scans(mat(path, t=3.0))
    with pytest.raises(FileError, match=r"\(it holds nothing\)"):
        make.scans(mat(path, s={"kspace": make.noise(8, 9, dtype="c16")}))


def test_big_endian(make: Any, tmp_path: Path) -> None:
    flags = struct.pack(">4I", 6, 8, 0x0806, 0)
    sizes = struct.pack(">2I2i", 5, 8, 2, 3)
    name = struct.pack(">2I", 1, 8) + b"abcdefgh"
    real, imaginary = (struct.pack(">2I6d", 9, 48, *range(first, first + 6)) for first in (1, 7))
    matrix = flags + sizes + name + real + imaginary
    path = tmp_path / "a.mat"
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + struct.pack(">2I", 14, len(matrix)) + matrix)
    assert np.array_equal(make.scans(path)[0].kspace[0].numpy(), loadmat(path)["abcdefgh"])


def test_sizes_that_are_not_there(make: Any, tmp_path: Path) -> None:
    path = mat(tmp_path / "a.mat", compressed=False, kspace=make.noise(8, 9, dtype="c16"))
    content = bytearray(path.read_bytes())
    sizes = content.index(struct.pack("<2i", 8, 9))
    for wrong in ((1 << 30, 1 << 30), (80, 90), (9, 9)):
        content[sizes : sizes + 8] = struct.pack("<2i", *wrong)
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"declares .* bytes|cannot be read as MATLAB 5|unlike its header"):
            make.scans(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match=r"is truncated: it has .* bytes of"):
        make.scans(path)


def compressed(path: Path, *parts: bytes) -> Path:
    packed = zlib.compress(struct.pack("<2I", 14, sum(map(len, parts))) + b"".join(parts), 9)
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<2I", 15, len(packed)) + packed)
    return path


@pytest.mark.parametrize("part", ["real", "imaginary"])
def test_a_bomb_in_an_array_is_one_line(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """A compressed array of 8 x 9 whose numbers claim to fill a gigabyte, and would."""
    monkeypatch.setattr("sansref.data.readers.damage.LIMITS", ChildLimits(memory=1 << 28))
    start = struct.pack("<4I2I2i2I8s", 6, 8, 0x0806, 0, 5, 8, 8, 9, 1, 8, b"abcdefgh")
    numbers = struct.pack("<2I", 9, 576) + np.ones(72).tobytes()
    bomb = struct.pack("<2I", 9, 1 << 30) + bytes(1 << 30)
    path = compressed(tmp_path / "a.mat", start, *([bomb, numbers] if part == "real" else [numbers, bomb]))
    message = (
        "1073741824 bytes, which are not those of its shape"
        if part == "real"
        else "needs more memory to be read|damaged"
    )
    with make.refused(path, message):
        make.scans(path)


@pytest.fixture(scope="module")
def files(make: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A file to write to, and what valid files hold."""
    path = tmp_path_factory.mktemp("fuzz") / "a.mat"
    kspace = make.noise(8, 9, 2, dtype="c16")
    arrays = {"kspace": kspace, "m": np.ones((4, 4)), "s": {"a": 1.0, "b": "text"}}
    images = {"volume": np.arange(60).reshape(3, 4, 5)}
    kinds = [(True, arrays), (False, arrays), (True, images), (False, images)]
    return path, {str(i): mat(path, packed, **what).read_bytes() for i, (packed, what) in enumerate(kinds)}


@settings(max_examples=30, deadline=3000)
@given(data=st.data(), kind=st.sampled_from("0123"))
def test_damage_gives_a_file_error_or_valid_slices(
    make: Any, files: tuple[Path, dict[str, bytes]], data: st.DataObject, kind: str
) -> None:
    path, content = files[0], files[1][kind]
    place = st.integers(100, min(len(content), 240) - 1) | st.integers(0, len(content) - 1)
    path.write_bytes(make.damaged(data, content, place))
    make.read_or_refuse(path, options=ReaderOptions(axes=data.draw(st.sampled_from([None, "row,column,slice"]))))
