from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from sansref.outputs.writers import real_image, save_nifti, save_png
from sansref.scan import Geometry

VOLUME = np.arange(6 * 8 * 10, dtype=np.float32).reshape(6, 8, 10)


def grey_values(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def test_nifti_header_tells_type_codes_and_units(tmp_path: Path) -> None:
    rows = ((-0.5, 0.0, 0.0, 1.0), (0.0, 0.75, 0.0, 2.0), (0.0, 0.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0))
    save_nifti(tmp_path / "a.nii", VOLUME, Geometry(rows, 0), None)  # No shear: qform and sform can both be exact.
    image = nibabel.load(tmp_path / "a.nii")
    header = image.header
    assert header.get_data_dtype() == np.float32
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_zooms() == pytest.approx((0.5, 0.75, 2.0))
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)
    np.testing.assert_allclose(image.affine, rows)
    np.testing.assert_array_equal(image.get_fdata(), VOLUME)
    assert header.get_xyzt_units()[0] == "mm"


def test_nifti_keeps_the_space_that_its_source_lies_in(tmp_path: Path) -> None:
    rows = ((-0.5, 0.0, 0.0, 1.0), (0.0, 0.75, 0.0, 2.0), (0.0, 0.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0))
    save_nifti(tmp_path / "a.nii", VOLUME, Geometry(rows, 0, space=4), None)
    header = nibabel.load(tmp_path / "a.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 4)


@pytest.mark.parametrize(("spacing", "zooms"), [((0.5, 0.75), (0.5, 0.75, 1.0)), (None, (1.0, 1.0, 1.0))])
def test_nifti_without_placement_says_it_knows_nothing(
    tmp_path: Path, spacing: tuple[float, float] | None, zooms: tuple[float, ...]
) -> None:
    save_nifti(tmp_path / "a.nii.gz", VOLUME, None, spacing)
    header = nibabel.load(tmp_path / "a.nii.gz").header
    assert header.get_zooms() == pytest.approx(zooms)
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)


@pytest.mark.parametrize(
    ("known", "row", "sizes"),
    [
        (False, (0.0, 0.75, 0.0, 2.0), (0.5, 0.75, 2)),
        (True, (0.0, 0.0, 0.0, 0.0), (0.5, 1, 2)),
        (True, (0.0, np.nan, 0.0, 0.0), (0.5, 1, 2)),
    ],
)
def test_nifti_of_a_geometry_that_gives_no_place_keeps_its_sizes(
    tmp_path: Path, known: bool, row: tuple[float, float, float, float], sizes: tuple[float, ...]
) -> None:
    rows = ((-0.5, 0.0, 0.0, 1.0), row, (0.0, 0.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0))
    volumes = VOLUME[..., None] * np.ones(2, np.float32)
    for array in (VOLUME, volumes):
        save_nifti(tmp_path / "a.nii", array, Geometry(rows, 0, known=known), None)
        written = nibabel.load(tmp_path / "a.nii")
        assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (0, 0)
        assert written.header.get_zooms()[:3] == pytest.approx(sizes)
        np.testing.assert_array_equal(written.get_fdata(), array)


def test_a_sheared_place_has_no_qform(tmp_path: Path) -> None:
    """It cannot say the shear of a tilted stack, and would place voxels elsewhere."""
    tilted = ((1.0, 0.0, 0.5, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 2.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    for affine, code in ((tilted, 0), (tuple(map(tuple, np.diag([1.0, 1.0, 2.0, 1.0]).tolist())), 1)):
        save_nifti(tmp_path / "a.nii", VOLUME, Geometry(affine, 2), None)
        written = nibabel.load(tmp_path / "a.nii")
        assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (1, code)
        np.testing.assert_allclose(written.affine, affine)


def test_png_maps_the_window_to_grey(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", torch.tensor([[-1.0, 1.0, 2.0], [3.0, 5.0, 9.0]]), window=(1.0, 5.0))
    assert grey_values(tmp_path / "a.png").tolist() == [[0, 0, 64], [128, 255, 255]]


def test_the_default_window_ignores_a_few_bright_pixels(tmp_path: Path) -> None:
    image = np.full((40, 40), 0.5)
    image[0, 0], image[0, 1] = 1000.0, 0.0
    save_png(tmp_path / "a.png", image)
    grey = grey_values(tmp_path / "a.png")
    assert (grey[1:] == 255).all()
    assert grey[0, 1] == 0


def test_a_blank_image_is_black(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", np.zeros((3, 4)))
    assert not grey_values(tmp_path / "a.png").any()


def test_a_png_is_turned_upright(tmp_path: Path) -> None:
    """Array axes to the right, anterior and superior, as most NIfTI files of heads have them."""
    image = np.array([[0.0, 1, 2], [3, 4, 5]])  # from left to right, from posterior to anterior
    rows = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    save_png(tmp_path / "a.png", image, (0, 5), Geometry(rows, 2))
    expected = np.array([[5, 2], [4, 1], [3, 0]]) * 51  # anterior up, the right side on the left
    assert np.array_equal(grey_values(tmp_path / "a.png"), expected)


def test_an_empty_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"window must rise, got \(1.0, 1.0\)"):
        save_png(tmp_path / "a.png", np.ones((2, 2)), window=(1.0, 1.0))


@pytest.mark.parametrize("data", [np.ones((2, 2, 2)), 1j * np.ones((2, 2)), np.ones(3)])
def test_unsuitable_arrays_are_refused(data: npt.NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="image must be real with 2 axes"):
        real_image(data)


def test_numbers_that_are_not_finite_are_refused() -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="image has NaN or infinite values"):
            real_image(np.full((2, 2), value))


def test_tensors_with_gradients_are_taken() -> None:
    assert real_image(torch.ones(2, 3, dtype=torch.float64, requires_grad=True)).dtype == np.float32
