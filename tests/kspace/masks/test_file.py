from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from numpy.typing import NDArray
from PIL import Image

from sansref.errors import FileError
from sansref.kspace.masks.file import read_mask
from sansref.kspace.masks.laws import draw_mask

Array = NDArray[Any]


@pytest.fixture
def centered() -> Array:
    return draw_mask("variable_density", (48, 64), 4, torch.Generator().manual_seed(1)).array.numpy()


def radial(size: int, spokes: int) -> Array:
    """A pseudo-radial mask, DC-centered, as those of ISTA-Net are before their shift."""
    mask = np.zeros((size, size), dtype=np.uint8)
    for angle in np.pi * np.arange(spokes) / spokes:
        step = np.linspace(-size / 2, size / 2 - 1, 4 * size)
        rows, columns = (np.round(size / 2 + step * f).astype(int) for f in (np.sin(angle), np.cos(angle)))
        inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
        mask[rows[inside], columns[inside]] = 1
    return mask


def save(path: Path, array: Array) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {"mask_matrix": array.astype(np.uint8)})
    else:
        Image.fromarray(array.astype(np.uint8) * 255).save(path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".mat", ".png"])
@pytest.mark.parametrize("corner", [False, True])
def test_reads_every_format_and_finds_dc(tmp_path: Path, centered: Array, suffix: str, corner: bool) -> None:
    stored = np.fft.ifftshift(centered) if corner else centered
    mask = read_mask(save(tmp_path / f"m{suffix}", stored))
    np.testing.assert_array_equal(mask.array.numpy(), centered)
    assert mask.density[mask.array].min() > 0
    assert (mask.density[22:27, 30:35] == 1).all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("level", [1, 255])
def test_accepts_the_usual_values(tmp_path: Path, centered: Array, dtype: Any, level: int) -> None:
    path = save(tmp_path / "m.npy", (centered * level).astype(dtype))
    np.testing.assert_array_equal(read_mask(path).array.numpy(), centered)


@pytest.mark.parametrize("spokes", [10, 25, 60])
def test_finds_the_corner_of_radial_masks(tmp_path: Path, spokes: int) -> None:
    centered = radial(128, spokes)
    mask = read_mask(save(tmp_path / "m.mat", np.fft.ifftshift(centered)))
    np.testing.assert_array_equal(mask.array.numpy(), centered.astype(bool))


@pytest.mark.parametrize(("dc", "shifted"), [("center", False), ("corner", True)])
def test_dc_can_be_told(tmp_path: Path, dc: Literal["center", "corner"], shifted: bool) -> None:
    array = np.random.default_rng(0).random((31, 40)) < 0.3
    path = save(tmp_path / "m.npy", array)
    expected = np.fft.fftshift(array) if shifted else array
    np.testing.assert_array_equal(read_mask(path, dc=dc).array.numpy(), expected)


def test_ambiguous_dc_is_refused(tmp_path: Path) -> None:
    nowhere = np.random.default_rng(0).random((31, 40)) < 0.3
    both = np.zeros((32, 32), dtype=bool)
    both[12:20, 12:20] = True
    both |= np.fft.fftshift(both)
    for array in (nowhere, both):
        with pytest.raises(FileError, match=r"does not show whether DC .* --mask-dc corner"):
            read_mask(save(tmp_path / "m.npy", array))


def test_a_full_mask_needs_no_dc(tmp_path: Path) -> None:
    assert read_mask(save(tmp_path / "m.npy", np.ones((8, 9)))).array.all()


@pytest.mark.parametrize("corner", [False, True])
@pytest.mark.parametrize("stored_shape", [(96,), (1, 96), (96, 1), (1, 1, 96, 1)])
def test_a_line_of_columns(tmp_path: Path, corner: bool, stored_shape: tuple[int, ...]) -> None:
    drawn = draw_mask("random_columns", (20, 96), 4, torch.Generator().manual_seed(0))
    line = drawn.array[0].numpy()
    path = save(tmp_path / "m.npy", (np.fft.ifftshift(line) if corner else line).reshape(stored_shape))
    mask = read_mask(path, height=20)
    assert torch.equal(mask.array, drawn.array)
    assert torch.equal(mask.density, mask.density[:1].expand(20, 96))
    assert (mask.density[mask.array] > 0).all()
    with pytest.raises(FileError, match=r"a single line of 96 columns\. Give the height of the grid"):
        read_mask(path)


def test_smoothed_density_is_near_the_law_s(tmp_path: Path) -> None:
    drawn = draw_mask("variable_density", (256, 256), 4, torch.Generator().manual_seed(0))
    mask = read_mask(save(tmp_path / "m.npy", drawn.array.numpy()))
    assert (mask.density - drawn.density).abs().mean() < 0.02
    assert float(mask.density.mean()) == pytest.approx(0.25, abs=1e-3)


def test_matlab_73_is_transposed_back(tmp_path: Path, centered: Array) -> None:
    path = tmp_path / "m.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["sampling_mask"] = centered.T.astype(np.uint8)
        file["sampling_mask"].attrs["MATLAB_class"] = np.bytes_("logical")
        file["mask_name"] = np.array([[104], [105]], dtype=np.uint16)
        file["mask_name"].attrs["MATLAB_class"] = np.bytes_("char")
        file["kspace"] = np.ones((3, 4, 5))
        file.create_group("#refs#")
    np.testing.assert_array_equal(read_mask(path).array.numpy(), centered)


def test_matlab_takes_the_array_named_mask_or_the_only_one(tmp_path: Path, centered: Array) -> None:
    path = tmp_path / "m.mat"
    scipy.io.savemat(path, {"Mask": centered, "image": np.zeros((4, 4)), "note": "text", "stack": np.ones((2, 2, 2))})
    np.testing.assert_array_equal(read_mask(path).array.numpy(), centered)
    scipy.io.savemat(path, {"omega": centered, "note": "text", "stack": np.ones((2, 2, 2))})
    np.testing.assert_array_equal(read_mask(path).array.numpy(), centered)
    kspace = np.ones((4, 4), np.complex64)
    scipy.io.savemat(path, {"omega": centered, "kspace": kspace, "mask_k": kspace})
    np.testing.assert_array_equal(read_mask(path).array.numpy(), centered)
    scipy.io.savemat(path, {"a": centered, "b": centered})
    with pytest.raises(FileError, match=r"several arrays \(a, b\)"):
        read_mask(path)
    scipy.io.savemat(path, {"note": "text"})
    with pytest.raises(FileError, match="no 2-D numeric array"):
        read_mask(path)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((8, 8)), "acquires nothing"),
        (np.zeros((0, 8)), "acquires nothing"),
        (np.full((8, 8), np.nan), "NaN or infinite"),
        (np.full((8, 8), np.inf), "NaN or infinite"),
        (np.full((8, 8), 0.5), "values other than 0 and 1, such as 0.5"),
        (np.arange(64).reshape(8, 8), "values other than 0 and 1"),
        (-np.ones((8, 8)), "values other than 0 and 1, such as -1"),
        (np.ones((8, 8), dtype=np.complex64), "type complex64"),
        (np.full((8, 8), "x"), "type <U1"),
        (np.ones((2, 8, 8)), r"shape \(2, 8, 8\)"),
        (np.ones((1, 1)), "single line of 1 columns"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, array: Array, problem: str) -> None:
    path = save(tmp_path / "m.npy", array)
    with pytest.raises(FileError, match=problem) as caught:
        read_mask(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_grey_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    with pytest.raises(FileError, match="64 grey levels from 0 to 63"):
        read_mask(path)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_picture_modes(tmp_path: Path, centered: Array, mode: str) -> None:
    path = tmp_path / "m.png"
    Image.fromarray(centered.astype(np.uint8) * 255).convert(mode).save(path)
    np.testing.assert_array_equal(read_mask(path).array.numpy(), centered)


@pytest.mark.parametrize("suffix", [".npy", ".mat", ".png"])
def test_damaged_files_are_refused(tmp_path: Path, centered: Array, suffix: str) -> None:
    whole = save(tmp_path / f"whole{suffix}", centered).read_bytes()
    for name, content in {"short": whole[: len(whole) // 2], "empty": b"", "text": b"not a mask at all" * 20}.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(content)
        with pytest.raises(FileError, match=f"cannot be read as {suffix}"):
            read_mask(path)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "m.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FileError, match=r"cannot be read as \.npy"):
        read_mask(path)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        read_mask(tmp_path / "no.npy")
    (tmp_path / "m.txt").write_text("1 0 1")
    with pytest.raises(FileError, match=r"Save the mask as \.npy, \.mat, \.png"):
        read_mask(tmp_path / "m.txt")
    with pytest.raises(ValueError, match="dc must be"):
        read_mask(tmp_path / "m.npy", dc="middle")  # type: ignore[arg-type]
