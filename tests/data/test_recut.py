"""A slice that has been cut, or is shown in fewer pixels, still lies where it lay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sansref.data.placement import recut
from sansref.data.prepare import Preparation
from sansref.data.simulate import Simulation
from sansref.data.slices import Slices, resized_kspace
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.outputs.writers import save_nifti
from sansref.scan import Geometry, Scan, ScanMeta

AFFINE = np.array([[-2.0, 0.5, 0.0, 30.0], [0.3, 1.5, 0.1, -20.0], [0.0, 0.2, 5.0, 7.0], [0.0, 0.0, 0.0, 1.0]])
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def geometry(slice_axis: int = 2, stack: int | None = None) -> Geometry:
    return Geometry(tuple(tuple(row) for row in AFFINE.tolist()), slice_axis, stack)


def place(where: Geometry, slice_: int, row: float, column: float) -> np.ndarray:
    """Millimetres of a pixel."""
    index = [row, column]
    index.insert(where.slice_axis, slice_)
    return np.array(where.affine) @ [*index, 1.0]


@given(size=SIZES, crop=SIZES, axis=st.integers(0, 2))
def test_every_pixel_of_a_cut_stays_where_it_was(size: tuple[int, int], crop: tuple[int, int], axis: int) -> None:
    meta = ScanMeta("s", "f", spacing=(2.0, 3.0), geometry=geometry(axis, stack=4))
    cut = recut(meta, size, crop, None)
    assert (cut.spacing, cut.geometry.slice_axis, cut.geometry.stack) == ((2.0, 3.0), axis, 4)
    for row, column in ((0, 0), (crop[0] - 1, crop[1] // 2)):
        source = (row - crop[0] // 2 + size[0] // 2, column - crop[1] // 2 + size[1] // 2)
        np.testing.assert_allclose(place(cut.geometry, 3, row, column), place(meta.geometry, 3, *source), atol=1e-9)


@given(size=SIZES, matrix=SIZES, axis=st.integers(0, 2))
def test_fewer_pixels_share_the_center_and_the_field_of_view(
    size: tuple[int, int], matrix: tuple[int, int], axis: int
) -> None:
    meta = ScanMeta("s", "f", spacing=(2.0, 3.0), geometry=geometry(axis))
    seen = recut(meta, size, None, matrix)
    assert seen.spacing == pytest.approx((2 * size[0] / matrix[0], 3 * size[1] / matrix[1]))
    for part in (0.0, 0.25):
        new = (matrix[0] // 2 + part * matrix[0], matrix[1] // 2 - part * matrix[1])
        old = (size[0] // 2 + part * size[0], size[1] // 2 - part * size[1])
        np.testing.assert_allclose(place(seen.geometry, 2, *new), place(meta.geometry, 2, *old), atol=1e-9)


def test_where_nothing_is_known_nothing_is_said() -> None:
    meta = ScanMeta("s", "f")
    assert recut(meta, (20, 20), (10, 12), (5, 6)) == meta
    placed = replace(meta, spacing=(1.0, 2.0), geometry=geometry())
    assert recut(placed, (20, 20), None, None) == placed


@pytest.mark.parametrize("exported", [None, (30, 26), (31, 25)])
@pytest.mark.parametrize("crop", [(21, 20), (50, 40)])
def test_measured_kspace_that_is_cut_is_exported_to_its_place(
    tmp_path: Path, crop: tuple[int, int], exported: tuple[int, int] | None
) -> None:
    """A point of an image, whose geometry is that of the part which would be exported."""
    image = torch.zeros(1, 40, 36, dtype=torch.complex64)
    image[0, 24, 15] = 1
    meta = ScanMeta("s", "f", crop=exported, geometry=geometry())
    scan = Scan(fft2c(image), torch.ones(40, 36, dtype=torch.bool), meta)
    cut = resized_kspace(scan, Slices(crop=crop))
    save_nifti(tmp_path / "a.nii", ifft2c(cut.kspace)[0].abs()[..., None].numpy(), cut.meta.geometry, None)
    written = nibabel.load(tmp_path / "a.nii")
    (row, column, _), *others = np.argwhere(written.get_fdata() > 0.5)
    assert others == []
    height, width = exported or (40, 36)
    before = place(geometry(), 0, 24 - 20 + height // 2, 15 - 18 + width // 2)
    np.testing.assert_allclose(written.affine @ [row, column, 0, 1], before, atol=1e-4)


def test_image_slices_that_are_cut_keep_their_place(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).uniform(1, 2, (40, 36, 3)).astype(np.float32)
    volume[24, 15, 1] = 9
    nibabel.save(nibabel.Nifti1Image(volume, AFFINE), tmp_path / "a.nii")
    recipe = Preparation(Slices(slices=1, crop=(20, 22)), Simulation(phase=0.0, snr=None))
    (scan,) = recipe.scans(tmp_path / "a.nii")
    assert scan.reference is not None
    assert scan.meta.geometry is not None
    row, column = divmod(int(scan.reference.abs().argmax()), 22)
    np.testing.assert_allclose(
        place(scan.meta.geometry, 1, row, column), AFFINE @ [24.0, 15.0, 1.0, 1.0], rtol=1e-5, atol=1e-4
    )
