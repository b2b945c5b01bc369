"""Files as BART's documentation describes them: sixteen sizes in text, then complex floats, the first size fastest."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.data.readers import ReaderOptions, find_files, open_scan_file, scan_folder
from sansref.errors import FileError
from sansref.kspace.coils import combine
from sansref.kspace.fourier import ifft2c
from sansref.scan import Scan

READ, PHS1, PHS2, COIL, SLICE = 0, 1, 2, 3, 13


def cfl(path: Path, array: Any, *dimensions: int, sizes: str | None = None) -> Path:
    """Write an array whose axes are BART's ``dimensions``; gives the name of the data."""
    full = [1] * 16
    for dimension, size in zip(dimensions, array.shape, strict=True):
        full[dimension] = size
    line = sizes if sizes is not None else " ".join(map(str, full))
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{line} \n# Command\nphantom -k a \n# Creator\nBART v0.9.00\n")
    order = np.argsort(dimensions)
    path.with_suffix(".cfl").write_bytes(np.transpose(array, order).astype("<c8").tobytes("F"))
    return path.with_suffix(".cfl")


@pytest.mark.parametrize("ending", [".cfl", ".hdr"])
def test_slices_and_coils(make: Any, tmp_path: Path, ending: str) -> None:
    kspace = make.noise(3, 4, 8, 10)  # slices, coils, readout, phase encoding
    path = cfl(tmp_path / "patient04_T2", kspace, SLICE, COIL, READ, PHS1).with_suffix(ending)
    info = open_scan_file(path).describe(path)
    assert (info.path, info.format, info.kind, info.subject) == (path, "BART", "k-space", "patient04")
    assert (info.slices, info.coils, info.height, info.width) == (3, 4, 8, 10)
    assert info.acquired_fraction == 1
    found = make.scans(path)
    assert len(found) == 3
    assert all(np.array_equal(scan.kspace.numpy(), kspace[scan.meta.slice]) for scan in found)
    assert all(scan.meta.source == str(path) for scan in found)


def test_one_coil_gives_the_image_of_barts_transform(make: Any, tmp_path: Path) -> None:
    image = make.noise(8, 11)
    # As 'bart fft -u 3': centered and unitary. Without -u the scale is another.
    (scan,) = make.scans(cfl(tmp_path / "a", make.centered(np.fft.fft2, image), READ, PHS1))
    assert np.abs(scan.reference.numpy() - image).max() < 1e-5
    assert np.abs(ifft2c(scan.kspace)[0].numpy() - image).max() < 1e-5


def test_an_undersampled_scan_keeps_its_mask(make: Any, tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((8, 10)) < 0.5
    path = cfl(tmp_path / "a", make.noise(2, 8, 10) * mask, COIL, READ, PHS1)
    (scan,) = make.scans(path)
    assert np.array_equal(scan.mask.numpy(), mask)
    assert open_scan_file(path).describe(path).acquired_fraction == mask.mean()


def test_partitions_and_other_axes(make: Any, tmp_path: Path) -> None:
    volume = make.noise(2, 6, 8, 10)
    kspace = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume, (1, 2, 3)), axes=(1, 2, 3), norm="ortho"), (1, 2, 3))
    path = cfl(tmp_path / "a", kspace, COIL, PHS2, READ, PHS1)
    found = make.scans(path)
    assert len(found) == 6
    for scan in found:
        assert np.abs(ifft2c(scan.kspace).numpy() - volume[:, scan.meta.slice]).max() < 1e-5
    # Undersampled in both phase encodings, as 3-D scans are: the readout is the axis to transform along.
    mask = np.random.default_rng(0).random((6, 1, 10)) < 0.5
    path = cfl(tmp_path / "b", kspace * mask, COIL, PHS2, READ, PHS1)
    with pytest.raises(FileError, match=r"undersampled along the axis named partition. Name a fully sampled k-space"):
        make.scans(path)
    found = make.scans(path, "partition,row,column,coil")
    assert len(found) == 8
    assert all(np.array_equal(scan.mask.numpy(), mask[:, 0].T) for scan in found)


WRONG: dict[str, tuple[float, tuple[int, ...], tuple[int, ...], str]] = {
    "averages": (1, (8, 10, 2), (READ, PHS1, 14), r"2 entries in dimension 14 \(AVG\), of which one can be read"),
    "maps": (1, (8, 10, 2), (READ, PHS1, 4), r"dimension 4 \(MAPS\)"),
    "a line": (
        1,
        (8, 3),
        (PHS1, COIL),
        r"no plane of READ, PHS1 and PHS2 \(PHS1 8, COIL 3\), so it is no Cartesian",
    ),
    "slabs": (1, (8, 10, 2, 3), (READ, PHS1, PHS2, SLICE), "has several slabs"),
    "zero": (0, (8, 10), (READ, PHS1), "holds only zeros in the k-space of slice 0"),
    "NaN": (np.nan, (8, 10), (READ, PHS1), "NaN or infinite k-space in slice 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used_is_named_in_one_line(make: Any, tmp_path: Path, case: str) -> None:
    factor, shape, dimensions, message = WRONG[case]
    path = cfl(tmp_path / "a", factor * make.noise(*shape), *dimensions)
    with make.refused(path, message):
        make.scans(path)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("8 9", r"has 640 bytes in its .cfl, its .hdr promises 576 \(8x9x1"),
        ("99999999999999 99999999999999", "has 640 bytes in its .cfl, its .hdr promises 79999"),
        ("9" * 5000 + " 10", "whose dimensions are '9999"),
        ("8 -10", "has a .hdr whose dimensions are '8 -10'. It must begin with '# Dimensions' and a line of up to 16"),
        ("8 0", "whose dimensions are"),
        ("8 ten", "whose dimensions are"),
        ("", "whose dimensions are"),
        ("1 " * 17, "whose dimensions are"),
    ],
)
def test_sizes_that_are_wrong(make: Any, tmp_path: Path, sizes: str, message: str) -> None:
    path = cfl(tmp_path / "a", make.noise(8, 10), READ, PHS1, sizes=sizes)
    with pytest.raises(FileError, match=message):
        make.scans(path)


def test_a_header_may_be_short(make: Any, tmp_path: Path) -> None:
    assert make.scans(cfl(tmp_path / "a", make.noise(8, 10), READ, PHS1, sizes="8 10"))[0].kspace.shape == (1, 8, 10)


def test_pairs(make: Any, tmp_path: Path) -> None:
    path = cfl(tmp_path / "a", make.noise(8, 10), READ, PHS1)
    assert find_files(tmp_path) == [path]
    assert [info.path for info in scan_folder(tmp_path)[0]] == [path]
    header = path.with_suffix(".hdr")
    content = header.read_bytes()
    header.unlink()
    with pytest.raises(FileError, match=r"a.cfl: has no .hdr beside it. Keep both files of the pair in one folder"):
        make.scans(path)
    header.write_bytes(content)
    path.unlink()
    with pytest.raises(FileError, match=r"a.hdr: has no .cfl beside it"):
        make.scans(header)
    header.write_bytes(bytes(348))
    with pytest.raises(FileError, match="is not in a format that sansref reads"):
        make.scans(header)


@settings(max_examples=100, deadline=2000)
@given(data=st.data())
def test_damage_gives_a_file_error_or_valid_scans(
    make: Any, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = cfl(tmp_path_factory.getbasetemp() / "a", make.noise(2, 8, 10), SLICE, READ, PHS1)
    digit = st.integers(0, 255) | st.sampled_from(b" 0123456789")
    for file in (path.with_suffix(".hdr"), path):
        content = file.read_bytes()
        file.write_bytes(make.damaged(data, content, st.integers(0, min(60, len(content)) - 1), digit))
    with make.memory_below(20 << 20):
        make.read_or_refuse(path)


@pytest.mark.parametrize(("rows", "columns"), [(PHS1, PHS2), (READ, PHS2), (READ, PHS1)])
def test_two_encoded_dimensions_are_the_plane(make: Any, tmp_path: Path, rows: int, columns: int) -> None:
    """BART's own tools for 2-D scans put the plane into PHS1 and PHS2, beside slices."""
    kspace = make.noise(3, 4, 8, 10)
    path = cfl(tmp_path / "a", kspace, SLICE, COIL, rows, columns)
    info = open_scan_file(path).describe(path)
    assert (info.slices, info.coils, info.height, info.width) == (3, 4, 8, 10)
    assert f"are read as {','.join(open_words(rows, columns))}" in info.notes[0]
    found = make.scans(path)
    assert all(np.array_equal(scan.kspace.numpy(), kspace[scan.meta.slice]) for scan in found)
    explicit = make.scans(path, ",".join(open_words(rows, columns)))
    assert all(np.array_equal(one.kspace, other.kspace) for one, other in zip(found, explicit, strict=True))


def open_words(rows: int, columns: int) -> list[str]:
    words = ["x"] * 16
    words[rows], words[columns], words[COIL], words[SLICE] = "row", "column", "coil", "slice"
    return words


def test_spokes_in_the_dimensions_of_a_plane_are_no_plane(make: Any, tmp_path: Path) -> None:
    radius = np.abs(np.arange(64) - 32)[:, None] + 0.3
    spokes = make.noise(4, 64, 21) / radius**1.5
    path = cfl(tmp_path / "a", spokes, COIL, PHS1, PHS2)
    with make.refused(path, r"looks like spokes .*radial"):
        make.scans(path)
    grid = make.noise(4, 64, 64) / (radius + radius.T) ** 1.5
    assert len(make.scans(cfl(tmp_path / "a", grid, COIL, PHS1, PHS2))) == 1


BART = shutil.which("bart")


@pytest.mark.skipif(BART is None, reason="BART (package bart) is not installed")
def test_files_of_bart_itself(make: Any, tmp_path: Path) -> None:
    def bart(*words: str) -> None:
        subprocess.run([str(BART), *words], cwd=tmp_path, check=True, capture_output=True)

    bart("phantom", "-k", "-s", "8", "-x", "64", "readout")
    bart("transpose", "0", "2", "readout", "plane")
    bart("traj", "-x", "64", "-y", "32", "-r", "trajectory")
    bart("phantom", "-k", "-s", "8", "-t", "trajectory", "radial")
    (first,) = make.scans(tmp_path / "readout.cfl")
    (second,) = make.scans(tmp_path / "plane.cfl")
    # 1 x PHS1 x PHS2 is PHS2 x PHS1 x 1 transposed.
    assert np.array_equal(second.kspace.numpy(), first.kspace.numpy().transpose(0, 2, 1))
    with make.refused(tmp_path / "radial.cfl", "radial"):
        make.scans(tmp_path / "radial.cfl")
    # The maps of one plane and of two sets, and what they say of k-space: the same image through all coils.
    bart("ecalib", "readout", "two")
    bart("ecalib", "-m", "1", "plane", "one")
    bart("caldir", "24", "readout", "direct")
    for scan, maps in (("readout", "two"), ("readout", "direct"), ("plane", "one")):
        path, options = tmp_path / f"{scan}.cfl", ReaderOptions(maps=str(tmp_path / f"{maps}.cfl"))
        (found,) = open_scan_file(path, options).read(path)
        assert isinstance(found, Scan)
        assert found.maps is not None
        images = ifft2c(found.kspace)
        left = images - found.maps * combine(images, found.maps)
        assert float(left.norm() / images.norm()) < 0.06
        assert ("first of 2 sets" in open_scan_file(path, options).describe(path).notes[-1]) == (maps == "two")
    with make.refused(tmp_path / "one.cfl", "holds coil maps, not k-space"):
        make.scans(tmp_path / "one.cfl")
