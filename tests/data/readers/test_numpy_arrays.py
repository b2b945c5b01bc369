from __future__ import annotations

import gc
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.data.readers import ReaderOptions, open_scan_file
from sansref.errors import FileError
from sansref.scan import Scan


def test_memory_does_not_grow_with_the_file(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sansref.data.readers.array_slices.BLOCK", 1 << 17)
    path = make.npy(tmp_path / "a.npy", make.noise(64, 64, 64))
    reader = open_scan_file(path, ReaderOptions(axes="row,column,slice"))
    with make.memory_below(1 << 20):  # of the file's 2 MiB
        for scan in reader.read(path):
            assert isinstance(scan, Scan)


def test_the_file_is_open_while_the_iterator_lives(make: Any, tmp_path: Path) -> None:
    path = make.npy(tmp_path / "a.npy", make.noise(4, 8, 9))
    reader = open_scan_file(path, ReaderOptions(axes="slice,row,column"))
    gc.collect()
    before = make.descriptors()
    found = reader.read(path)
    next(iter(found))
    assert make.descriptors() > before
    del found
    gc.collect()
    assert make.descriptors() <= before


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(make: Any, tmp_path: Path, save: Any) -> None:
    kspace, path = make.noise(3, 8, 9), tmp_path / "a.npz"
    save(path, kspace=kspace, image=np.abs(kspace), mask=np.ones((8, 9), bool), name=np.array(["text"]), scale=2.0)
    for array in (None, "kspace"):
        assert np.array_equal(make.scans(path, "coil,row,column", array)[0].kspace.numpy(), kspace)
    assert np.array_equal(make.scans(path, array="image")[1].image.numpy(), np.abs(kspace[1]))
    assert (
        "the axes of array 'image', 3x8x9, are read"
        in (open_scan_file(path, ReaderOptions(array="image")).describe(path).notes[0])
    )
    holds = r"kspace \(3x8x9, complex64\), image \(3x8x9, float32\), scale \(, float64\)"
    with pytest.raises(FileError, match=rf"holds no array 'ksp' \(it holds {holds}\). Choose another --array"):
        make.scans(path, array="ksp")
    save(path, image=np.abs(kspace), other=np.abs(kspace))
    message = r"holds several arrays: image \(3x8x9, float32\), other .*. Choose one, for example --array image"
    with pytest.raises(FileError, match=message):
        make.scans(path)
    save(path, numbers=np.ones(3), name=np.array(["text"]))
    with pytest.raises(FileError, match="holds no array of images or k-space"):
        make.scans(path)


WRONG: dict[str, tuple[Any, str]] = {
    "objects": (np.array([{}, {}], dtype=object), "cannot be read as NumPy .npy"),
    "text": (np.array([["a", "b"], ["c", "d"]]), "holds an array of <U1, not of numbers"),
    "records": (np.zeros((8, 9), [("r", "f4"), ("i", "f4")]), "not of numbers"),
    "flags": (np.ones((8, 9), bool), "holds an array of bool, not of numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_arrays_of_other_things(make: Any, tmp_path: Path, case: str) -> None:
    array, message = WRONG[case]
    with pytest.raises(FileError, match=message):
        make.scans(make.npy(tmp_path / "a.npy", array))


def header(shape: str, dtype: str = "<c8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("shape", ["(999999999, 999999999)", "(4, -5)", "(10, 10)", "(" + "9" * 30 + ", 2)"])
def test_sizes_that_are_not_there(make: Any, tmp_path: Path, shape: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(header(shape) + bytes(100))
    with pytest.raises(FileError, match=r"cannot be read as NumPy \.npy"):
        make.scans(path)


def test_a_zip_bomb_is_not_unpacked(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        member.write(header("(300000, 400000)"))
        member.write(bytes(1 << 20))
    message = "declares 960000000000 bytes of data, more than its"
    with make.memory_below(10 << 20), pytest.raises(FileError, match=message):
        make.scans(path)


def test_a_header_without_an_end_is_not_unpacked(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        member.write(b"\x93NUMPY\x02\x00" + (100 << 20).to_bytes(4, "little") + bytes(100 << 20))
    with make.memory_below(10 << 20), make.refused(path, "cannot be read as NumPy .npz"):
        make.scans(path)


def test_what_goes_on_behind_an_array_is_not_unpacked(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        member.write(header("(8, 9)") + bytes(1 << 20))
    with make.refused(path, "it goes on behind the array 'a'"):
        make.scans(path)


def test_memory_that_runs_out_is_no_damage(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise MemoryError

    np.savez(tmp_path / "a.npz", make.noise(8, 9))
    np.save(tmp_path / "a.npy", make.noise(8, 9))
    for name, place in (("a.npz", "numpy_arrays.np.lib.format.read_array"), ("a.npy", "array_slices.np.empty")):
        with monkeypatch.context() as patch:
            patch.setattr(f"sansref.data.readers.{place}", refuse)
            with make.refused(tmp_path / name, r"needs more memory to be read than is free\. Close"):
                make.scans(tmp_path / name)


def test_npz_that_is_not_whole(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=make.noise(8, 9))
    content = path.read_bytes()
    for kept in (60, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:kept])
        with pytest.raises(FileError, match=r"cannot be read as NumPy .npz|not in a format"):
            make.scans(path)
    changed = bytearray(content)
    changed[-400] ^= 1
    path.write_bytes(changed)
    with pytest.raises(FileError, match=r"cannot be read as NumPy .npz.*CRC"):
        make.scans(path)


def saved(save: Any, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, *arrays.values()) if save is np.save else save(stream, **arrays)
    return stream.getvalue()


@pytest.fixture(scope="module")
def files(make: Any) -> dict[str, bytes]:
    kspace, images = make.noise(8, 9), np.arange(60).reshape(3, 4, 5)
    return {
        "k.npy": saved(np.save, a=kspace),
        "m.npy": saved(np.save, a=images),
        "a.npz": saved(np.savez, a=kspace),
        "b.npz": saved(np.savez_compressed, a=images, b=np.ones(3)),
    }


@settings(max_examples=150, deadline=2000)
@given(data=st.data(), name=st.sampled_from(["a.npz", "b.npz", "k.npy", "m.npy"]))
def test_damage_gives_a_file_error_or_valid_slices(
    make: Any, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    content = files[name]
    place = st.integers(0, min(len(content), 140) - 1) | st.integers(0, len(content) - 1)
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(make.damaged(data, content, place))
    with make.memory_below(20 << 20):
        make.read_or_refuse(path)


@pytest.mark.parametrize("shape", [(0, 64, 64), (4, 64, 0)])
def test_an_array_without_values_is_one_line(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.complex64))
    np.savez(tmp_path / "a.npz", kspace=np.zeros(shape, np.complex64))
    for name, told in (("a.npy", "holds an array without values"), ("a.npz", "holds no")):
        with pytest.raises(FileError, match=told):
            open_scan_file(tmp_path / name, ReaderOptions(axes="slice,row,column")).describe(tmp_path / name)
