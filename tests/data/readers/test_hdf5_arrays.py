"""Files as MATLAB 7.3 writes them: a title, axes in reverse, ``MATLAB_class``, complex numbers as (real, imag)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sansref.data.readers import ReaderOptions, open_scan_file
from sansref.data.readers.hdf5_arrays import Hdf5ArraysReader, Matlab73Reader
from sansref.errors import FileError
from sansref.hdf5 import is_hdf5

CLASSES = {"f4": "single", "f8": "double", "i2": "int16", "u1": "uint8", "c8": "single", "c16": "double"}


def matlab(path: Path, title: bool = True, **arrays: Any) -> Path:
    with h5py.File(path, "w", userblock_size=512 if title else 0) as file:
        for name, array in arrays.items():
            stored = np.asarray(array).T
            if stored.dtype.kind == "c":
                part = np.dtype(f"f{stored.dtype.itemsize // 2}")
                pairs = np.empty(stored.shape, [("real", part), ("imag", part)])
                pairs["real"], pairs["imag"] = stored.real, stored.imag
                stored = pairs
            chunks = tuple(min(size, 5) for size in stored.shape)
            file.create_dataset(name, data=stored, chunks=chunks, compression="gzip")
            file[name].attrs["MATLAB_class"] = np.bytes_(CLASSES[np.asarray(array).dtype.str[1:]])
        text = file.create_dataset("text", data=np.frombuffer(b"words", np.uint8).astype(np.uint16)[:, None])
        text.attrs["MATLAB_class"] = np.bytes_(b"char")
        flags = file.create_dataset("flags", data=np.ones((9, 8), np.uint8))
        flags.attrs["MATLAB_class"] = np.bytes_(b"logical")
        empty = file.create_dataset("empty", data=np.array([0, 0], np.uint64))
        empty.attrs.update({"MATLAB_class": np.bytes_(b"double"), "MATLAB_empty": np.uint8(1)})
        file.create_dataset("#refs#/a", data=np.ones((9, 8), complex))
    if title:
        with path.open("r+b") as raw:
            raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


@pytest.mark.parametrize("title", [True, False])
@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_axes_are_named_as_in_matlab(make: Any, tmp_path: Path, title: bool, dtype: str) -> None:
    kspace = make.noise(8, 9, 3, 2, dtype=dtype)
    path = matlab(tmp_path / "person5_T1.mat", title, kspace=kspace)  # a name that fastMRI has, too
    info = open_scan_file(path, ReaderOptions(axes="row,column,coil,slice")).describe(path)
    assert (info.format, info.kind, info.subject) == ("MATLAB 7.3", "k-space", "person5")
    assert (info.slices, info.coils, info.height, info.width, info.acquired_fraction) == (2, 3, 8, 9, 1.0)
    assert "the axes of array 'kspace', 8x9x3x2, are read as row,column,coil,slice" in info.notes[0]
    for scan in make.scans(path, "row,column,coil,slice"):
        expected = kspace[..., scan.meta.slice].transpose(2, 0, 1).astype(np.complex64)
        assert np.array_equal(scan.kspace.numpy(), expected)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u1"])
def test_images_and_a_choice(make: Any, tmp_path: Path, dtype: str) -> None:
    volume = np.arange(1, 121).reshape(5, 6, 4).astype(dtype)
    path = matlab(tmp_path / "a.mat", volume=volume)
    pieces = make.scans(path, slices=[3, 0])
    assert [piece.meta.slice for piece in pieces] == [3, 0]
    assert all(np.array_equal(piece.image.numpy(), volume[..., piece.meta.slice]) for piece in pieces)
    path = matlab(tmp_path / "b.mat", volume=volume, other=volume)
    with pytest.raises(FileError, match=r"holds several arrays: other \(5x6x4, .*\), volume \(5x6x4, .*\)"):
        make.scans(path)
    assert len(make.scans(path, array="volume")) == 4
    with pytest.raises(FileError, match=r"holds no array of images or k-space \(it holds nothing\)"):
        make.scans(matlab(tmp_path / "c.mat"))


def test_an_axis_that_matlab_left_out(make: Any, tmp_path: Path) -> None:
    path = matlab(tmp_path / "a.mat", ksp=make.noise(8, 9, dtype="c16"))
    (scan,) = make.scans(path, "row,column,slice,coil")
    assert scan.kspace.shape == (1, 8, 9)
    assert scan.reference is not None


def test_partitions(make: Any, tmp_path: Path) -> None:
    kspace = make.noise(8, 9, 4, dtype="c16")
    found = make.scans(matlab(tmp_path / "a.mat", ksp=kspace), "row,column,partition")
    axes = (2,)
    expected = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axes), axis=2, norm="ortho"), axes)
    for scan in found:
        assert np.abs(scan.kspace[0].numpy() - expected[..., scan.meta.slice]).max() < 1e-5


def test_arrays_of_other_programs_keep_their_order(make: Any, tmp_path: Path) -> None:
    volume, kspace = np.random.default_rng(0).random((3, 8, 9)).astype(np.float32), make.noise(2, 8, 9, dtype="c16")
    path = tmp_path / "a.mat"
    with h5py.File(path, "w") as file:
        file["data_fs"] = volume
    info = open_scan_file(path).describe(path)
    assert (info.format, info.kind, info.slices) == ("HDF5 arrays", "magnitude", 3)
    assert torch.equal(torch.stack([piece.image for piece in make.scans(path)]), torch.from_numpy(volume))
    with h5py.File(path, "a") as file:
        file["raw/ksp"] = kspace
        file["link"] = h5py.SoftLink("/nowhere")
    (scan,) = make.scans(path, "coil,row,column")
    assert np.array_equal(scan.kspace.numpy(), kspace.astype(np.complex64))
    assert len(make.scans(path, array="data_fs")) == 3
    with pytest.raises(FileError, match=r"holds no array 'ksp' \(it holds data_fs \(3x8x9, float32\), raw/ksp \("):
        make.scans(path, array="ksp")


def test_who_recognises_what(make: Any, tmp_path: Path) -> None:
    fastmri = make.fastmri(tmp_path / "a.h5", make.kspace((1, 64, 37)))
    assert open_scan_file(fastmri).reader.format == "fastMRI HDF5"
    assert Hdf5ArraysReader().recognises(fastmri)
    assert not Matlab73Reader().recognises(fastmri)
    path = tmp_path / "b.h5"
    with h5py.File(path, "w") as file:
        file["text"] = "words"
    with pytest.raises(FileError, match=r"is HDF5 without an array of numbers. Give fastMRI HDF5"):
        open_scan_file(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    assert is_hdf5(path)
    assert not Hdf5ArraysReader().recognises(path)
    assert not Matlab73Reader().recognises(path)
    path.write_bytes(bytes(4096) + b"\x89HDF\r\n\x1a\n")
    assert is_hdf5(path)
    path.write_bytes(bytes(100) + b"\x89HDF\r\n\x1a\n")
    assert not is_hdf5(path)


def test_a_size_that_no_file_could_hold_is_refused(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "huge.mat"
    with h5py.File(path, "w") as file:
        file.create_dataset("volume", (10**3, 10**4, 10**4), np.float32, chunks=(1, 100, 100), compression="gzip")
    with pytest.raises(FileError, match="declares 400000000000 bytes of data"):
        make.scans(path)


@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_a_truncated_file(make: Any, tmp_path: Path, part: float) -> None:
    path = matlab(tmp_path / "a.mat", ksp=make.noise(8, 9, dtype="c16"))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(FileError, match=r"cannot be read as MATLAB 7.3; it is truncated or damaged"):
        make.scans(path)


def test_named_axes_make_no_fastmri_of_a_file_without_its_header(make: Any, tmp_path: Path) -> None:
    kspace = make.noise(4, 9, 8)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = kspace
    assert open_scan_file(tmp_path / "scan.h5").reader.format == "fastMRI HDF5"
    (scan,) = open_scan_file(tmp_path / "scan.h5", ReaderOptions(axes="coil,row,column")).read(tmp_path / "scan.h5")
    assert np.array_equal(scan.kspace.numpy(), kspace)
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        file["ismrmrd_header"] = b"<ismrmrdHeader/>"
    assert open_scan_file(tmp_path / "scan.h5", ReaderOptions(axes="coil,row,column")).reader.format == "fastMRI HDF5"


def attributed(**attributes: Any) -> Any:
    return lambda file: file.attrs.update(attributes)


def member(name: str, **attributes: Any) -> Any:
    def write(file: Any) -> None:
        file.require_group(name).attrs.update(attributes)

    return write


def scaled(name: str) -> Any:
    return lambda file: file["volume"].attrs.update({name: 2.0})


OTHERS = {
    "NetCDF-4": attributed(_NCProperties="version=2"),
    "Conventions": attributed(Conventions="CF-1.8"),
    "NeXus": member("entry", NX_class="NXentry"),
    "MINC 2": member("minc-2.0/image/0"),
    "AnnData": attributed(**{"encoding-type": "anndata"}),
    "Keras": attributed(keras_version="2.4", layer_names="a"),
    "pandas": member("frame", pandas_type="frame"),
    "ITK": member("ITKImage/0"),
    "Octave": member("x", OCTAVE_NEW_FORMAT=1),
    "OME": member("OME"),
    "file_format": attributed(file_format="OURS 3"),
    "formatVersion": attributed(formatVersion=2),
    "nwb_version": attributed(nwb_version="2.6"),
    "ImarisVersion": attributed(ImarisVersion="5.5"),
    "schema": member("entry", schema="mine"),
    "file_type": attributed(file_type="mine"),
    "scale_factor": scaled("scale_factor"),
    "add_offset": scaled("add_offset"),
    "MRD images": lambda file: [member(f"dataset/image_0/{name}")(file) for name in ("header", "data", "attributes")],
}


@pytest.mark.parametrize("name", ["volume", "kspace"])
@pytest.mark.parametrize("other", OTHERS)
def test_a_file_that_says_it_is_something_else_is_no_plain_array(
    make: Any, tmp_path: Path, other: str, name: str
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["volume"] = np.ones((3, 8, 9), np.float32)
        OTHERS[other](file)
        file.move("volume", name)
    with make.refused(path, rf"is HDF5 of .*{other}"):
        open_scan_file(path)


PLAIN = {
    "programs": attributed(software_version="1", sequence_version="2", h5py_version="3", version="1.0"),
    "words": attributed(description="brain", TR=5.0, orientation="axial", subject="s", information=1),
    "PyTables": attributed(PYTABLES_FORMAT_VERSION="2.1", CLASS="GROUP", TITLE="", VERSION="1.0"),
    "image": lambda file: file["volume"].attrs.update({"CLASS": "IMAGE", "units": "mT"}),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_attributes_that_name_no_format_are_no_hindrance(make: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["volume"] = np.ones((3, 8, 9), np.float32)
        PLAIN[kind](file)
    assert len(make.scans(path)) == 3


def test_mrd_2_is_named(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["Mrd/$yardl_schema"] = '{"protocol":{"name":"Mrd"}}'
        file["Mrd/data/ImageFloat"] = np.ones((8, 9), np.float32)
    with make.refused(path, "is MRD 2"):
        open_scan_file(path)
    for number, head in enumerate(
        (b"yardl\x01\x90", b'{"yardl":{"version":1,"schema":', b'{ "yardl": {"version": 1, ')
    ):
        for protocol, message in ((b"Mrd", "is MRD 2"), (b"Else", "yardl that is not MRD")):
            path = tmp_path / f"{number}.mrd"
            path.write_bytes(head + b'{"protocol":{"name":"' + protocol + b'","sequence":[]}}' + bytes(100))
            with make.refused(path, message):
                open_scan_file(path)


def test_complex_kspace_is_named_before_maps(make: Any, tmp_path: Path) -> None:
    path, kspace = tmp_path / "a.h5", make.noise(4, 8, 9)
    with h5py.File(path, "w") as file:
        file["Smaps"], file["ksp_b"], file["ksp_a"], file["image"] = kspace, kspace, kspace, kspace
        file["b/sensitivity"] = kspace
    with make.refused(path, r"several arrays: ksp_a \(.*ksp_b \(.*image \([^,]*, complex64\)\. Choose .*--array ksp_a"):
        make.scans(path, "coil,row,column")
    with h5py.File(path, "a") as file:
        del file["ksp_b"], file["image"]
    (scan,) = make.scans(path, "coil,row,column")
    assert np.array_equal(scan.kspace.numpy(), kspace)
    assert scan.maps is not None
