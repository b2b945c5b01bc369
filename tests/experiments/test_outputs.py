from __future__ import annotations

import os
import shutil

import h5py
import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest
from rich.console import Console

from sansref.data.readers import find_files, open_scan_file
from sansref.errors import SettingError
from sansref.experiments.outputs import made_by, output_name
from sansref.experiments.reconstruct import Job, reconstruct_files

QUIET = Console(quiet=True)


def play(run, files, out, *formats):
    return list(reconstruct_files(Job(run, out, formats or ("source",)), files, console=QUIET))


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def disc(heads, trained, tmp_path):
    """Two people's DICOM series, both with files of the same names."""
    for person in ("01", "02"):
        play(trained, [heads / f"sub-{person}_T1w.nii.gz"], tmp_path / "made", "dicom")
        shutil.move(tmp_path / "made" / f"sub-{person}_T1w_dicom", tmp_path / "disc" / f"person{person}")
    shutil.rmtree(tmp_path / "made")
    return tmp_path / "disc"


def test_all_formats_hold_the_same_images(trained, heads, tmp_path):
    (done,) = play(trained, [heads / "sub-02_T1w.nii.gz"], tmp_path, "dicom", "mrd", "nifti", "hdf5", "png")
    slices = [f"sub-02_T1w_{kind}/slice-{index}" for kind, index in (("dicom", "0003.dcm"), ("png", "003.png"))]
    assert {"sub-02_T1w.h5", "sub-02_T1w.mrd", "sub-02_T1w_recon.nii.gz", *slices} < set(names(tmp_path))
    assert sorted(str(path.relative_to(tmp_path)) for path in done.written) == [
        name for name in names(tmp_path) if name != "reconstruction.json"
    ]
    with h5py.File(tmp_path / "sub-02_T1w.h5") as file:
        truth = file["reconstruction"][()]
    image = nibabel.load(tmp_path / "sub-02_T1w_recon.nii.gz")
    np.testing.assert_array_equal(np.moveaxis(np.asarray(image.dataobj), -1, 0), truth)
    with ismrmrd.Dataset(tmp_path / "sub-02_T1w.mrd", mode="r") as file:
        stored = np.stack([file.read_image("image_0", index).data[0, 0].T for index in range(4)])
    np.testing.assert_array_equal(stored, truth)
    # DICOM as this package reads it: turned, but with each voxel in its place.
    (path,) = find_files(tmp_path / "sub-02_T1w_dicom")
    pieces = list(open_scan_file(path).read(path))
    there = np.linalg.inv(image.affine) @ np.array(pieces[0].meta.geometry.affine)
    grid = np.stack(np.meshgrid(*map(np.arange, (32, 32, 4)), indexing="ij"), axis=-1)
    voxels = np.rint(nibabel.affines.apply_affine(there, grid)).astype(int)
    found = np.stack([piece.image.numpy() for piece in pieces], axis=-1)
    expected = np.asarray(image.dataobj)[tuple(np.moveaxis(voxels, -1, 0))]
    np.testing.assert_allclose(found, expected, atol=float(truth.max()) / 65535)


def test_dicom_comes_back_as_dicom(trained, disc, tmp_path):
    """Folders, or all files of a series, as a shell lists them: one reconstruction each."""
    done = play(trained, [disc], tmp_path / "out")
    assert [one.path for one in done] == [disc / f"person{person}" / "slice-0000.dcm" for person in ("01", "02")]
    assert len(done[0].written) == 4
    (image, *_) = [pydicom.dcmread(path) for path in done[0].written]
    source = pydicom.dcmread(disc / "person01" / "slice-0000.dcm")
    assert (image.StudyInstanceUID, image.PatientID) == (source.StudyInstanceUID, "sub-01")
    again = play(trained, sorted((disc / "person01").iterdir()), tmp_path / "out")
    assert [(one.path, one.earlier) for one in again] == [(disc / "person01" / "slice-0000.dcm", True)]
    assert names(tmp_path / "out")[0] == "person01_slice-0000_dicom/slice-0000.dcm"


def test_a_series_with_another_slice_changed_is_done_again(trained, disc, tmp_path):
    play(trained, [disc], tmp_path / "out")
    path = disc / "person02" / "slice-0002.dcm"
    os.utime(path, (1, path.stat().st_mtime + 5))
    assert [one.earlier for one in play(trained, [disc], tmp_path / "out")] == [True, False]


def test_the_same_command_gives_the_same_series(trained, heads, tmp_path):
    source = heads / "sub-03_T1w.nii.gz"
    for name in ("a", "b"):
        play(trained, [source], tmp_path / name, "dicom")
    assert names(tmp_path / "a") == names(tmp_path / "b")
    for name in names(tmp_path / "a"):
        if name.endswith(".dcm"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_header_decides_where_outputs_go(trained, disc, tmp_path):
    for path in (disc / "person01").iterdir():
        image = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            image.PatientID = image.SeriesDescription = image.ProtocolName = "../../escaped"
            image.save_as(path)
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    play(trained, [disc / "person01"], tmp_path / "deep" / "out", "dicom", "nifti", "png", "hdf5", "mrd")
    after = {path for path in tmp_path.rglob("*") if "out" not in path.parts and path != tmp_path / "deep"}
    assert {path for path in after if "deep" not in path.parts} == before
    assert {name.split("/")[0] for name in names(tmp_path / "deep" / "out")} == {
        *("person01_slice-0000_dicom", "person01_slice-0000_png", "person01_slice-0000.mrd"),
        *("person01_slice-0000_recon.nii.gz", "person01_slice-0000.h5", "reconstruction.json"),
    }


@pytest.mark.parametrize("name", ["..nii.gz", "...nii.gz", "a b;rm.nii.gz", "-x.nii.gz", "ü\n.nii.gz"])
def test_names_of_files_stay_inside_the_folder(trained, heads, tmp_path, name):
    (tmp_path / "data").mkdir()
    shutil.copy(heads / "sub-01_T1w.nii.gz", tmp_path / "data" / name)
    (done,) = play(trained, [tmp_path / "data" / name], tmp_path / "up" / "out", "nifti", "png", "dicom", "mrd", "hdf5")
    assert all(path.resolve().is_relative_to(tmp_path / "up" / "out") for path in done.written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "up"]
    assert [path.name for path in (tmp_path / "up").iterdir()] == ["out"]


def test_outputs_of_dicom_are_named_by_the_folder(disc, tmp_path, monkeypatch):
    path = disc / "person01" / "slice-0000.dcm"
    assert output_name(path) == "person01_slice-0000"
    monkeypatch.chdir(disc / "person01")
    assert output_name(path.relative_to(disc / "person01")) == "person01_slice-0000"
    monkeypatch.chdir(disc / "person02")
    (disc / "person02" / ".." / "b.nii").touch()
    assert output_name(path.__class__("../person01/slice-0000.dcm")) == "person01_slice-0000"
    assert output_name(disc / "b.nii") == "b"


def test_other_formats_in_the_same_folder_are_refused(trained, heads, tmp_path):
    play(trained, [heads / "sub-01_T1w.nii.gz"], tmp_path, "dicom")
    with pytest.raises(SettingError, match="holds a reconstruction with other formats"):
        play(trained, [heads / "sub-01_T1w.nii.gz"], tmp_path, "mrd")


def test_runs_say_what_they_are(trained):
    made = made_by(trained)
    assert (made.method, made.sampling) == ("idr", "variable_density, 4x")
    assert len(made.weights) == 64


def test_the_command_line_knows_the_formats(sansref, trained, heads, tmp_path):
    source = heads / "sub-01_T1w.nii.gz"
    words = ("reconstruct", trained.path, source, "--out", tmp_path, "--format", "dicom", "mrd", "--accelerator", "cpu")
    code, said, _ = sansref(*words)
    assert code == 0
    assert f"{source} -> 5 files in {tmp_path}" in said
    code, _, error = sansref(*words[:-2], "tiff")
    assert code == 2
    assert "dicom" in error
