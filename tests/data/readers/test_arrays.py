from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sansref.data.readers import ReaderOptions, open_scan_file
from sansref.errors import FileError, SettingError
from sansref.kspace.fourier import ifft2c


@pytest.mark.parametrize("dtype", ["<c8", ">c8", "<c16", "complex64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_order_of_axes_gives_the_same_scans(make: Any, tmp_path: Path, dtype: str, order: str) -> None:
    kspace = make.noise(2, 3, 8, 10)
    names = ("slice", "coil", "row", "column")
    for places in itertools.permutations(range(4)):
        array = np.asarray(kspace.transpose(places), dtype=dtype, order=order)  # type: ignore[call-overload]
        found = make.scans(make.npy(tmp_path / "a.npy", array), ",".join(names[place] for place in places))
        assert [scan.meta.slice for scan in found] == [0, 1]
        assert all(np.array_equal(scan.kspace.numpy(), kspace[scan.meta.slice]) for scan in found)
        assert all(scan.reference is None and scan.mask.all() for scan in found)


def test_a_full_scan_of_one_coil_gives_its_image(make: Any, tmp_path: Path) -> None:
    kspace = make.noise(9, 10)
    path = make.npy(tmp_path / "sub-03_T1w.npy", kspace)
    info = open_scan_file(path).describe(path)
    assert (info.format, info.kind, info.subject, info.contrast) == ("NumPy .npy", "k-space", "sub-03", "T1w")
    assert (info.slices, info.coils, info.height, info.width, info.spacing) == (1, 1, 9, 10, None)
    assert info.acquired_fraction == 1
    read = "the axes of the array, 9x10, are read as row,column (--axes names them otherwise)"
    assert info.notes == (f"Complex numbers are taken for k-space; {read}.",)
    (scan,) = make.scans(path)
    assert (scan.meta.subject, scan.meta.source, scan.meta.synthetic, scan.meta.geometry) == (
        *("sub-03", str(path)),
        *(False, None),
    )
    expected = make.centered(np.fft.ifft2, kspace.astype(np.complex128))
    assert np.abs(scan.reference.numpy() - expected).max() < 1e-5


def test_undersampled_kspace_keeps_its_mask(make: Any, tmp_path: Path) -> None:
    mask = np.random.default_rng(1).random((16, 20)) < 0.4
    kspace = make.noise(3, 2, 16, 20) * mask
    path = make.npy(tmp_path / "a.npy", kspace)
    info = open_scan_file(path, ReaderOptions(axes="slice,coil,row,column")).describe(path)
    assert info.acquired_fraction == mask.mean()
    for scan in make.scans(path, "slice,coil,row,column"):
        assert np.array_equal(scan.mask.numpy(), mask)
        assert scan.reference is None
        assert not scan.kspace[:, ~scan.mask].any()


def test_zero_padded_columns_leave_a_reference(make: Any, tmp_path: Path) -> None:
    kspace = make.noise(16, 20)
    kspace[:, :2] = kspace[:, -1:] = 1e-12  # rounding errors of a transform along another axis
    (scan,) = make.scans(make.npy(tmp_path / "a.npy", kspace))
    assert scan.mask.sum() == 16 * 17
    torch.testing.assert_close(scan.reference, ifft2c(scan.kspace)[0])
    assert not scan.kspace[..., :2].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.float16, np.float32, np.float64, ">f4"])
def test_real_arrays_are_magnitude_images(make: Any, tmp_path: Path, dtype: Any) -> None:
    volume = np.random.default_rng(0).integers(0, 200, (9, 4, 11)).astype(dtype)
    path = make.npy(tmp_path / "patient07_FLAIR.npy", volume)
    info = open_scan_file(path).describe(path)
    assert (info.kind, info.slices, info.height, info.width, info.coils) == ("magnitude", 4, 9, 11, 1)
    assert (info.subject, info.contrast, info.acquired_fraction) == ("patient07", "FLAIR", None)
    read = "the axes of the array, 9x4x11, are read as row,slice,column"
    assert f"Real numbers are taken for magnitude images; {read}" in info.notes[0]
    for piece in make.scans(path, slices=[3, 1]):
        assert piece.image.dtype == torch.float32
        assert piece.meta.synthetic
        assert np.array_equal(piece.image.numpy(), volume[:, piece.meta.slice].astype(np.float32))
    assert [piece.meta.slice for piece in make.scans(path, slices=[3, 1])] == [3, 1]
    with pytest.raises(ValueError, match=r"slices must lie in 0..3, got \[4\]"):
        make.scans(path, slices=[4])


def test_a_little_undershoot_is_set_to_zero(make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = np.abs(make.noise(3, 8, 9))
    volume[0, 0, 0] = -0.1
    with caplog.at_level(logging.WARNING):
        pieces = make.scans(make.npy(tmp_path / "a.npy", volume))
    assert pieces[0].image[0, 0] == 0
    assert "values down to -0.1 are set to 0" in caplog.text


def with_value(value: Any) -> Any:
    kspace = np.ones((2, 8, 9), np.complex64)
    kspace[1, 2, 3] = value
    return kspace


def image(value: float) -> Any:
    return np.where(np.arange(72).reshape(8, 9) == 5, value, np.ones((8, 9)))


WRONG: dict[str, tuple[Any, str | None, str]] = {
    "NaN": (with_value(np.nan), "coil,row,column", "NaN or infinite k-space in slice 0"),
    "infinite": (with_value(np.inf), "slice,row,column", "NaN or infinite k-space in slice 1"),
    "too large": (np.full((8, 9), 1e200 + 1e200j), None, "NaN or infinite k-space"),
    "zero": (np.zeros((8, 9), np.complex64), None, "holds only zeros in the k-space of slice 0"),
    "image NaN": (image(np.nan), None, "NaN or infinite values"),
    "image too large": (image(1e300), None, "NaN or infinite values"),
    "image zero": (np.zeros((8, 9)), None, "holds only zeros"),
    "negative": (image(-1), None, r"holds negative values \(down to -.*\), so it is no magnitude"),
    "coils of images": (np.ones((3, 8, 9)), "coil,row,column", "holds real numbers, .* images without coils"),
    "corner": (np.fft.ifftshift(np.hanning(16)[:, None] * np.hanning(16) + 1e-3j), None, "are not in the center"),
    "edge": (np.fft.ifftshift(np.hanning(16)[:, None] * np.hanning(16) + 1e-3j, 0), None, "fftshift"),
    "line": (np.ones((1, 9), np.complex64), "row,column", r"holds \(1x9, complex64\), which is no image"),
    "empty": (np.ones((0, 9), np.complex64), None, "holds an array without values, of the shape"),
    "ambiguous": (np.ones((3, 8, 9), np.complex64), None, "whose axes have no names"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used_is_named_in_one_line(make: Any, tmp_path: Path, case: str) -> None:
    array, axes, message = WRONG[case]
    path = make.npy(tmp_path / "a.npy", array)
    with make.refused(path, message):
        make.scans(path, axes)


def parts(kspace: Any, axis: int) -> Any:
    """Real and imaginary parts along a new axis."""
    return np.stack((kspace.real, kspace.imag), axis)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_real_and_imaginary_parts_in_an_axis_of_their_own(make: Any, tmp_path: Path, dtype: Any) -> None:
    kspace = 100 * make.noise(2, 3, 8, 10)
    stored = parts(kspace, 0).astype(dtype)
    expected = (stored[0] + 1j * stored[1]).astype(np.complex64)
    words = ["slice", "coil", "row", "column"]
    for place in range(5):
        axes = ",".join([*words[:place], "complex", *words[place:]])
        path = make.npy(tmp_path / "a.npy", np.moveaxis(stored, 0, place))
        found = make.scans(path, axes)
        assert all(np.array_equal(scan.kspace.numpy(), expected[scan.meta.slice]) for scan in found)
        info = open_scan_file(path, ReaderOptions(axes=axes)).describe(path)
        assert (info.kind, info.slices, info.coils, info.height, info.width) == ("k-space", 2, 3, 8, 10)
        assert f"are read as {axes} (" in info.notes[0]


def test_parts_of_all_coils_take_turns_as_in_calgary_campinas(make: Any, tmp_path: Path) -> None:
    """Its files hold a real array ``kspace`` (slices, rows, columns, 2 x coils): real, imaginary, real, ..."""
    kspace = make.noise(5, 8, 10, 3)
    stored = parts(kspace, -1).reshape(5, 8, 10, 6)
    assert np.array_equal(stored[..., 2], kspace[..., 1].real)
    path = tmp_path / "e1.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = stored
    with make.refused(path, r"not as complex numbers.*--axes slice,row,column,complex"):
        make.scans(path)
    found = make.scans(path, "slice,row,column,complex", slices=[4, 0])
    assert [scan.meta.slice for scan in found] == [4, 0]
    assert all(np.array_equal(scan.kspace.numpy(), kspace[scan.meta.slice].transpose(2, 0, 1)) for scan in found)


def test_partitions_of_real_and_imaginary_parts(make: Any, tmp_path: Path) -> None:
    kspace = make.noise(4, 8, 10)
    whole = make.scans(make.npy(tmp_path / "a.npy", kspace), "partition,row,column")
    pairs = make.scans(make.npy(tmp_path / "b.npy", parts(kspace, 1)), "partition,complex,row,column")
    for one, other in zip(whole, pairs, strict=True):
        assert np.array_equal(one.kspace, other.kspace)
        assert np.array_equal(one.reference, other.reference)


PAIRS = {
    "complex": (np.ones((2, 8, 9), np.complex64), "complex,row,column", "holds complex numbers"),
    "odd": (np.ones((3, 8, 9)), "complex,row,column", "axis of length 3 is not an axis of real and imaginary parts"),
    "coils": (np.ones((4, 2, 8, 9)), "complex,coil,row,column", "axis of length 4 is not an axis"),
    "not said": (np.ones((3, 8, 9)), "coil,row,column", "complex for real and imaginary parts"),
    "twice": (np.ones((2, 2, 8, 9)), "complex,complex,row,column", "a word occurs twice"),
}


@pytest.mark.parametrize("case", PAIRS)
def test_pairs_that_are_none(make: Any, tmp_path: Path, case: str) -> None:
    array, axes, message = PAIRS[case]
    path = make.npy(tmp_path / "a.npy", array)
    with pytest.raises((FileError, SettingError), match=message):
        make.scans(path, axes)


def test_negative_numbers_lead_to_the_word_for_pairs(make: Any, tmp_path: Path) -> None:
    path = make.npy(tmp_path / "a.npy", parts(make.noise(8, 9), 0))
    with make.refused(path, "no magnitude.*--axes may name complex"):
        make.scans(path)


def test_coil_maps_are_not_kspace(make: Any, tmp_path: Path) -> None:
    maps = make.noise(4, 8, 9)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    maps[:, :2] = 0
    path = make.npy(tmp_path / "a.npy", maps)
    with make.refused(path, "holds coil maps, not k-space.*--maps"):
        make.scans(path, "coil,row,column")
