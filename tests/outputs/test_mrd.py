from __future__ import annotations

import builtins
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import ismrmrd
import nibabel
import numpy as np
import pytest

from sansref.data.provenance import Provenance
from sansref.data.readers import open_scan_file
from sansref.errors import FileError, SettingError
from sansref.outputs.writers import mrd_slices

MADE = Provenance("idr", "0123456789abcdef" * 4, "c" * 64, "random_columns, 4x")
AFFINE = np.array([[0.0, -0.8, 0.3, 11.0], [1.1, 0.0, 0.0, -7.0], [0.0, 0.3, 0.8, 5.0], [0, 0, 0, 1.0]])
VOLUME = np.arange(1, 121, dtype=np.float32).reshape(4, 5, 6)


def write(folder: Path, volume: Any = VOLUME, affine: Any = AFFINE, stack: int | None = None) -> Path:
    source = folder / "sub-01_T1w.nii"
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 6, 4), np.int16), affine), source)
    reader = open_scan_file(source)
    meta = next(iter(reader.read(source))).meta
    meta = replace(meta, geometry=replace(meta.geometry, stack=stack))
    with mrd_slices(folder / "out.mrd", volume.shape, reader.describe(source), meta, MADE) as put:
        for index in (2, 0, 3):
            put(index, volume[index])
    return folder / "out.mrd"


def images(path: Path) -> list[Any]:
    with ismrmrd.Dataset(path, mode="r") as file:
        assert list(file.list()) == ["image_0"]
        return [file.read_image("image_0", index) for index in range(file.number_of_images("image_0"))]


def test_pixels_and_place(tmp_path: Path) -> None:
    """Headers place every voxel where the source's affine does; slices that are never put are zero."""
    found = images(write(tmp_path))
    assert len(found) == 4
    for index, image in enumerate(found):
        assert image.data.dtype == np.float32
        assert image.data.shape == (1, 1, 6, 5)
        expected = VOLUME[index] if index != 1 else np.zeros((5, 6))
        assert np.array_equal(image.data[0, 0].T, expected)
        head = image.getHead()
        assert (head.slice, head.image_index, head.image_type) == (index, index, ismrmrd.IMTYPE_MAGNITUDE)
        spacing = np.array(head.field_of_view) / np.array(image.matrix_size)
        np.testing.assert_allclose(spacing, nibabel.affines.voxel_sizes(AFFINE), rtol=1e-6)
        directions = np.array([head.read_dir, head.phase_dir, head.slice_dir])
        np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-6)
        for row, column in ((0, 0), (4, 5), (2, 3)):
            steps = np.array([row - 5 // 2, column - 6 // 2, 0]) * spacing
            place = np.array(head.position) + steps @ directions
            truth = nibabel.affines.apply_affine(AFFINE, (row, column, index)) * [-1, -1, 1]
            np.testing.assert_allclose(place, truth, atol=1e-5)
    step = np.array(found[3].getHead().position) - np.array(found[2].getHead().position)
    assert step @ np.array(found[0].getHead().slice_dir) > 0


def test_several_volumes_are_repetitions_in_one_place(tmp_path: Path) -> None:
    heads = [image.getHead() for image in images(write(tmp_path, stack=2))]
    assert [(head.repetition, head.slice, head.image_index) for head in heads] == [
        *((0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3)),
    ]
    assert list(heads[0].position) == list(heads[2].position) != list(heads[1].position) == list(heads[3].position)


def test_attributes_say_what_it_is(tmp_path: Path) -> None:
    image = images(write(tmp_path))[0]
    assert image.meta["DataRole"] == "Image"
    assert image.meta["ImageProcessingHistory"][::2] == ["sansref", "idr"]
    assert image.meta["SequenceDescription"] == "T1w sansref idr RESEARCH USE ONLY"
    comments = " ".join(image.meta["ImageComments"])
    assert "not for diagnostic use" in comments
    assert "synthetic" in comments
    assert image.getHead().attribute_string_len == len(image.attribute_string)


def test_negative_values_are_of_a_type_that_has_them(tmp_path: Path) -> None:
    types = [image.getHead().image_type for image in images(write(tmp_path, VOLUME - 30))]
    assert types == [ismrmrd.IMTYPE_REAL, *[ismrmrd.IMTYPE_MAGNITUDE] * 3]


def test_the_field_of_view_along_the_slice_is_its_thickness(tmp_path: Path) -> None:
    write(tmp_path)
    reader = open_scan_file(tmp_path / "sub-01_T1w.nii")
    meta = next(iter(reader.read(tmp_path / "sub-01_T1w.nii"))).meta
    meta = replace(meta, geometry=replace(meta.geometry, thickness=0.5))
    info = reader.describe(tmp_path / "sub-01_T1w.nii")
    with mrd_slices(tmp_path / "out.mrd", VOLUME.shape, info, meta, MADE) as put:
        put(0, VOLUME[0])
    assert {image.getHead().field_of_view[2] for image in images(tmp_path / "out.mrd")} == {0.5}


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        write(tmp_path, np.full_like(VOLUME, np.nan))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for thing, name in ((ismrmrd.Dataset, "append_image"), (os, "posix_fallocate")):
        with monkeypatch.context() as patch:
            patch.setattr(thing, name, full)
            with pytest.raises(FileError, match=r"out\.mrd: cannot be written \(No space left on device\)"):
                write(tmp_path)
    sheared = np.diag([1.0, 1, 1, 1])
    sheared[0, 1] = 0.2
    with pytest.raises(FileError, match=r"T1w\.nii: has an affine whose rows and columns are not at right angles"):
        write(tmp_path, affine=sheared)
    assert [path.name for path in tmp_path.iterdir()] == ["sub-01_T1w.nii"]


def test_a_package_that_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ismrmrd":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingError, match=r"writing MRD needs the package ismrmrd: pip install "):
        write(tmp_path)
