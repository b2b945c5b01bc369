"""Makes files in the true layouts of the formats, small and from a seeded generator, and damages and reads them."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import strategies as st

from sansref.data.readers import FileInfo, ImageSlice, Reader, ReaderOptions, open_scan_file
from sansref.errors import FileError
from sansref.scan import Scan

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{enc_x}</x><y>{enc_y}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>{fov_x}</x><y>{fov_y}</y><z>4.5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{rec_x}</x><y>{rec_y}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>140</x><y>140</y><z>4.5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>{minimum}</minimum><maximum>{maximum}</maximum>
<center>{center}</center></kspace_encoding_step_1></encodingLimits></encoding></ismrmrdHeader>"""


def ismrmrd_header(**changes: Any) -> str:
    """A header of a 64 x 37 grid (readout oversampled 2x) whose columns 3..33 were acquired."""
    values: dict[str, Any] = {"enc_x": 64, "enc_y": 37, "fov_x": 280, "fov_y": 161.875, "rec_x": 32, "rec_y": 32}
    values |= {"minimum": 0, "maximum": 30, "center": 15}
    return HEADER.format(**(values | changes))


def centered(transform: Callable[..., Any], data: Any) -> Any:
    """The centered orthonormal transform, by numpy in double precision."""
    axes = (-2, -1)
    return np.fft.fftshift(transform(np.fft.ifftshift(data, axes=axes), norm="ortho"), axes=axes)


def make_kspace(shape: tuple[int, ...], first: int = 3, stop: int = 34, seed: int = 0) -> Any:
    """Complex noise at the scale of fastMRI, zero outside the acquired columns."""
    generator = np.random.default_rng(seed)
    kspace = generator.normal(size=(*shape, 2)).view(np.complex128)[..., 0] * 1e-5
    kspace[..., :first] = 0
    kspace[..., stop:] = 0
    return kspace.astype(np.complex64)


def write_fastmri(
    path: Path,
    kspace: Any,
    header: Any = "",
    attributes: dict[str, Any] | None = None,
    **datasets: Any,
) -> Path:
    """Write a file as fastMRI does; ``header`` "" is the usual one, None leaves it out."""
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if header is not None:
            file["ismrmrd_header"] = ismrmrd_header() if isinstance(header, str) and not header else header
        for name, data in datasets.items():
            file[name] = data
        file.attrs.update({"acquisition": "CORPD_FBK", "max": 1e-3, "norm": 0.1, "patient_id": "0a1b"})
        file.attrs.update(attributes or {})
    return path


def make_volume(shape: tuple[int, ...] = (6, 5, 4), seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.int16)


def write_nifti(path: Path, volume: Any, affine: Any = None, version: int = 1, **header: Any) -> Path:
    """Write a volume, gzipped if the name ends so, then set header fields behind nibabel's back.

    The usual affine has spacings 1, 2 and 3 mm in RAS+ order.
    """
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = kind(volume, np.diag([1.0, 2, 3, 1]) if affine is None else affine)
    content = image.to_bytes()
    size = 348 if version == 1 else 540
    fields = kind.header_class(content[:size])
    for name, value in header.items():
        fields[name] = value
    content = fields.binaryblock + content[size:]
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def noise(*shape: int, seed: int = 0, dtype: Any = np.complex64) -> Any:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=shape) + 1j * generator.normal(size=shape)).astype(dtype)


def write_npy(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def read_scans(path: Path, axes: str | None = None, array: str | None = None, slices: Any = None) -> list[Any]:
    return list(open_scan_file(path, ReaderOptions(axes=axes, array=array)).read(path, slices))


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def refused(path: Path, message: str) -> Iterator[None]:
    """Expect one line that names the file, and no file left open."""
    before = open_descriptors()
    with pytest.raises(FileError, match=message) as caught:
        yield
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert open_descriptors() <= before


@contextmanager
def memory_below(most: int) -> Iterator[None]:
    """Expect that never as many bytes are in use at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


BYTE = st.integers(0, 255)


def damaged(data: st.DataObject, content: bytes, place: Any, byte: Any = BYTE) -> bytes:
    """Change up to six bytes, at places that are drawn, and cut off the end or leave it."""
    changed = bytearray(content)
    for position, value in data.draw(st.lists(st.tuples(place, byte), max_size=6)):
        changed[position] = value
    return bytes(changed[: data.draw(st.just(len(content)) | st.integers(1, len(content)))])


def read_or_refuse(path: Path, reader: Reader | None = None, options: ReaderOptions | None = None) -> FileInfo | None:
    """Read a damaged file: it gives as many valid slices as it describes, or None for one line that names it."""
    try:
        reader = reader or open_scan_file(path, options)
        info = reader.describe(path)
        count = 0
        for piece in reader.read(path):
            count += 1
            assert isinstance(piece, ImageSlice if info.kind == "magnitude" else Scan)
            if isinstance(piece, ImageSlice):
                assert piece.image.shape == (info.height, info.width)
                assert piece.image.isfinite().all()
                assert piece.image.min() >= 0
            else:
                assert piece.kspace.isfinite().all()
                assert piece.mask.any()
        assert count == info.slices
        return info
    except FileError as error:
        assert error.path == path
        assert "\n" not in str(error)
        return None


@pytest.fixture(scope="session")
def make() -> Any:
    """The makers above, for the tests (test modules cannot import each other)."""

    class Make:
        header = staticmethod(ismrmrd_header)
        centered = staticmethod(centered)
        kspace = staticmethod(make_kspace)
        fastmri = staticmethod(write_fastmri)
        volume = staticmethod(make_volume)
        nifti = staticmethod(write_nifti)
        noise = staticmethod(noise)
        npy = staticmethod(write_npy)
        scans = staticmethod(read_scans)
        descriptors = staticmethod(open_descriptors)
        refused = staticmethod(refused)
        memory_below = staticmethod(memory_below)
        damaged = staticmethod(damaged)
        read_or_refuse = staticmethod(read_or_refuse)

    return Make
