from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest

from sansref.commands.error_map import place
from sansref.metrics.contradiction import Region
from sansref.outputs.overlay import OVERLAYS, Overlay
from sansref.scan import Geometry, ScanMeta
from sansref.training.run import RunDirectory

Sansref = Callable[..., tuple[int, str, str]]
MAPS = ("error_bound", "contradiction")


def voxels(path: Path) -> Any:
    return nibabel.load(path).get_fdata()  # type: ignore[attr-defined]


def test_maps_lie_beside_the_images_in_every_format(
    trained: RunDirectory, heads: Path, tmp_path: Path, sansref: Sansref
) -> None:
    ismrmrd = pytest.importorskip("ismrmrd")
    pydicom = pytest.importorskip("pydicom")
    file, out = heads / "sub-01_T1w.nii.gz", tmp_path / "out"
    formats = ("nifti", "hdf5", "png", "dicom", "mrd")
    words = ("reconstruct", trained.path, file, "--out", out, "--error_map", "--format", *formats)
    code, told, heard = sansref(*words)
    assert code == 0, heard
    assert "error maps take 20 reconstructions for each of 4 slice(s)" in " ".join(heard.split())
    assert "PSNR estimated" in told
    assert told.count("Neither map can see") == 1

    plain = tmp_path / "plain"
    sansref("reconstruct", trained.path, file, "--out", plain)
    image = voxels(out / "sub-01_T1w_recon.nii.gz")
    np.testing.assert_allclose(image, voxels(plain / "sub-01_T1w_recon.nii.gz"), rtol=1e-3, atol=1e-2)
    bound = voxels(out / "sub-01_T1w_error_bound_recon.nii.gz")
    assert bound.shape == image.shape
    assert 0 < bound.mean() < image.max()
    for series, name in enumerate(MAPS, start=1):
        map_ = voxels(out / f"sub-01_T1w_{name}_recon.nii.gz")
        with h5py.File(out / "sub-01_T1w.h5") as stored:
            np.testing.assert_allclose(np.moveaxis(stored[name][:], 0, 2), map_, rtol=1e-5)
            np.testing.assert_allclose(np.moveaxis(stored["reconstruction"][:], 0, 2), image, rtol=1e-5)
            assert "not an image" in stored[name].attrs["meaning"]
            assert "Neither map can see" in stored[name].attrs["meaning"]
        with ismrmrd.Dataset(str(out / "sub-01_T1w.mrd"), "dataset", mode="r") as stored:
            for index in range(4):
                found, shown = (stored.read_image(f"image_{number}", index) for number in (series, 0))
                np.testing.assert_allclose(found.data[0, 0].T, map_[..., index], rtol=1e-5)
                np.testing.assert_allclose(shown.data[0, 0].T, image[..., index], rtol=1e-5)
                assert (found.image_series_index, shown.image_series_index) == (series, 0)
                assert any("not an image" in comment for comment in found.meta["ImageComments"])
                assert not any("not an image" in comment for comment in shown.meta["ImageComments"])
        about = nibabel.load(out / f"sub-01_T1w_{name}_recon.nii.gz").header["descrip"].item()  # type: ignore[attr-defined]
        assert about.startswith(b"RESEARCH USE ONLY, sansref. " + name[:5].title().encode())
        assert len(list((out / f"sub-01_T1w_{name}_png").iterdir())) == 4
    assert len(list(out.glob("*.h5"))) == len(list(out.glob("*.mrd"))) == 1
    shown = {
        name: pydicom.dcmread(out / f"sub-01_T1w{name}_dicom" / "slice-0001.dcm")
        for name in ("", *(f"_{map_}" for map_ in MAPS))
    }
    assert len({one.SeriesInstanceUID for one in shown.values()}) == 3
    assert len({one.StudyInstanceUID for one in shown.values()}) == 1
    assert "error bound" in shown["_error_bound"].SeriesDescription
    assert "not an image" in shown["_contradiction"].DerivationDescription
    units = [one.RealWorldValueMappingSequence[0].LUTExplanation for one in shown.values()]
    assert units == ["Units of the source file", "Units of the source file", "Standard deviations"]
    assert "Neither map can see" in shown["_contradiction"].DerivationDescription

    record = json.loads((out / "sub-01_T1w_error_maps.json").read_text())
    assert record["bound"] == 0.9
    assert "Neither map can see" in record["meaning"]
    assert [one["slice"] for one in record["slices"]] == [0, 1, 2, 3]
    assert all(one["psnr_estimated"]["low"] < one["psnr_estimated"]["high"] for one in record["slices"])

    again = sansref(*words)
    assert "1 file(s) had been reconstructed before" in again[1]
    (out / "sub-01_T1w_contradiction_recon.nii.gz").unlink()
    assert "PSNR estimated" in sansref(*words)[1]
    assert (out / "sub-01_T1w_contradiction_recon.nii.gz").exists()


def test_another_bound_needs_another_folder(
    trained: RunDirectory, heads: Path, tmp_path: Path, sansref: Sansref
) -> None:
    words = ("reconstruct", trained.path, heads / "sub-01_T1w.nii.gz", "--out", tmp_path / "out")
    assert sansref(*words)[0] == 0
    code, _, heard = sansref(*words, "--error_map")
    assert code == 2
    assert "other error_map" in heard


def test_an_impossible_bound_is_refused(trained: RunDirectory, heads: Path, tmp_path: Path, sansref: Sansref) -> None:
    code, _, heard = sansref(
        "reconstruct", trained.path, heads, "--out", tmp_path / "out", "--error_map", "--bound", "90"
    )
    assert code == 2
    assert "share of the pixels between 0 and 1" in heard


def test_a_region_lies_where_the_affine_puts_it() -> None:
    affine = ((-2.0, 0.0, 0.0, 30.0), (0.0, 2.0, 0.0, -20.0), (0.0, 0.0, 5.0, 7.0), (0.0, 0.0, 0.0, 1.0))
    meta = ScanMeta("s", "f", slice=3, geometry=Geometry(affine, slice_axis=2))
    assert place(Region(20, 4, 9, -6.0), meta) == "row 20, column 4 (L 10, P 12, S 22 mm)"
    unknown = ScanMeta("s", "f", slice=3, geometry=Geometry(affine, slice_axis=2, known=False))
    assert place(Region(20, 4, 9, -6.0), unknown) == "row 20, column 4"


def test_an_overlay_colours_what_is_strong_and_nothing_else() -> None:
    image, values = np.ones((2, 3)), np.array([[0.0, 1.9, 9.0], [-9.0, -1.9, 0.0]])
    shown = OVERLAYS["contradiction"].over(image, values)
    assert (shown[values == 0] == 255).all()
    assert (shown[np.abs(values) == 1.9] == 255).all()
    np.testing.assert_allclose(shown[0, 2], np.rint(0.3 * 255 + 0.7 * np.array([0, 190, 255])), atol=1)
    np.testing.assert_allclose(shown[1, 0], np.rint(0.3 * 255 + 0.7 * np.array([255, 40, 40])), atol=1)


def test_an_overlay_of_shares_follows_the_brightness_of_the_image() -> None:
    overlay = Overlay((255, 0, 0), (255, 0, 0), 0.0, 0.5, True, "red")
    image, values = np.full((2, 2), 100.0), np.full((2, 2), 25.0)
    np.testing.assert_array_equal(overlay.over(image, values), overlay.over(4 * image, 4 * values))
