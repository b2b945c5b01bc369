from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch

from sansref.errors import FileError
from sansref.outputs.writers import PutSlice, fastmri_slices, nifti_slices, png_slices, save_png
from sansref.scan import Geometry

OBLIQUE = ((0.0, -0.8, 0.3, 11.0), (1.1, 0.1, 0.0, -7.0), (0.1, 0.2, 2.0, 5.0), (0.0, 0.0, 0.0, 1.0))
SHAPE = (4, 5, 6)
VOLUME = np.arange(1, 1 + np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


def _put_all(put: PutSlice) -> None:
    for index in (2, 0, 3, 1):
        put(index, torch.from_numpy(VOLUME[index]))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_every_voxel_stays_in_its_place_in_the_patient(tmp_path: Path, slice_axis: int, ending: str) -> None:
    path = tmp_path / "new" / f"slices{ending}"
    with nifti_slices(path, SHAPE, Geometry(OBLIQUE, slice_axis)) as put:
        _put_all(put)
    written = nibabel.load(path)
    np.testing.assert_allclose(written.affine, OBLIQUE, atol=1e-6)
    assert written.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.moveaxis(np.asarray(written.dataobj), slice_axis, 0), VOLUME)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("slice_axis", [0, 2])
def test_several_volumes_are_counted_by_a_fourth_axis(tmp_path: Path, slice_axis: int) -> None:
    with nifti_slices(tmp_path / "a.nii", SHAPE, Geometry(OBLIQUE, slice_axis, stack=2)) as put:
        _put_all(put)
    written = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_allclose(written.affine, OBLIQUE, atol=1e-6)
    found = np.moveaxis(np.asarray(written.dataobj), (3, slice_axis), (0, 1))
    np.testing.assert_array_equal(found, VOLUME.reshape(2, 2, 5, 6))


def test_nifti_without_placement_has_slices_last(tmp_path: Path) -> None:
    with nifti_slices(tmp_path / "a.nii", SHAPE, spacing=(0.5, 0.75)) as put:
        _put_all(put)
    written = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_array_equal(np.moveaxis(np.asarray(written.dataobj), 2, 0), VOLUME)
    assert written.header.get_zooms() == pytest.approx((0.5, 0.75, 1.0))


def test_hdf5_is_in_the_layout_of_fastmri(tmp_path: Path) -> None:
    with fastmri_slices(tmp_path / "slices.h5", SHAPE) as put:
        _put_all(put)
    with h5py.File(tmp_path / "slices.h5") as file:
        assert list(file) == ["reconstruction"]
        assert file["reconstruction"].dtype == np.float32
        np.testing.assert_array_equal(file["reconstruction"][()], VOLUME)


def test_hdf5_says_how_it_came_about(tmp_path: Path) -> None:
    named = "RESEARCH USE ONLY, mask file caf\udce9.npy."  # as Python reads a name that is no UTF-8
    with fastmri_slices(tmp_path / "slices.h5", SHAPE, about=named) as put:
        _put_all(put)
    with h5py.File(tmp_path / "slices.h5") as file:
        assert file.attrs["provenance"] == "RESEARCH USE ONLY, mask file caf .npy."


def test_pngs_are_those_of_single_images_and_replace_others(tmp_path: Path) -> None:
    (tmp_path / "pngs").mkdir()
    (tmp_path / "pngs" / "slice-009.png").touch()
    with png_slices(tmp_path / "pngs", Geometry(OBLIQUE, 1)) as put:
        _put_all(put)
    names = sorted(path.name for path in (tmp_path / "pngs").iterdir())
    assert names == [f"slice-00{index}.png" for index in range(4)]
    save_png(tmp_path / "one.png", VOLUME[3], geometry=Geometry(OBLIQUE, 1))
    assert (tmp_path / "pngs" / names[3]).read_bytes() == (tmp_path / "one.png").read_bytes()


def test_slices_that_are_never_put_are_zero(tmp_path: Path) -> None:
    with nifti_slices(tmp_path / "a.nii", SHAPE) as put, fastmri_slices(tmp_path / "a.h5", SHAPE) as put_other:
        put(1, VOLUME[1])
        put_other(1, VOLUME[1])
    expected = np.zeros_like(VOLUME)
    expected[1] = VOLUME[1]
    np.testing.assert_array_equal(np.moveaxis(np.asarray(nibabel.load(tmp_path / "a.nii").dataobj), 2, 0), expected)
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["reconstruction"][()], expected)


def _writers(folder: Path) -> list[AbstractContextManager[PutSlice]]:
    return [
        nifti_slices(folder / "a.nii.gz", SHAPE),
        fastmri_slices(folder / "a.h5", SHAPE),
        png_slices(folder / "pngs"),
    ]


@pytest.mark.parametrize("which", range(3))
def test_a_failure_leaves_nothing_behind(tmp_path: Path, which: int) -> None:
    with pytest.raises(KeyboardInterrupt), _writers(tmp_path)[which] as put:
        put(0, VOLUME[0])
        raise KeyboardInterrupt
    for data, message in ((VOLUME, "must be real with 2 axes"), (np.full((5, 6), np.nan), "NaN or infinite")):
        with pytest.raises(ValueError, match=message), _writers(tmp_path)[which] as put:
            put(0, data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("which", range(3))
def test_a_folder_that_is_a_file_is_explained(tmp_path: Path, which: int) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(FileError, match=r"taken/(a|pngs).*: cannot be written"), _writers(tmp_path / "taken")[which]:
        pass


def test_a_full_disk_is_explained_before_a_slice_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    message = r"/a\.nii\.gz: cannot be written \(No space left on device\)"
    with pytest.raises(FileError, match=message), nifti_slices(tmp_path / "a.nii.gz", SHAPE):
        pass
    assert list(tmp_path.iterdir()) == []
