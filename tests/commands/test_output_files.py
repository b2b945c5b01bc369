from __future__ import annotations

import json
import os
import shutil

import h5py
import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest
from rich.console import Console

from sansref.commands.output_files import made_by, output_name
from sansref.commands.reconstruct import Job, reconstruct_files
from sansref.data.readers import find_files, open_scan_file
from sansref.errors import FileError, SettingError

QUIET = Console(quiet=True)


def play(run, files, out, *formats):
    return list(reconstruct_files(Job(run, out, formats or ("source",)), files, console=QUIET))


def names(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "reconstruction.lock")
    return sorted(str(path.relative_to(folder)) for path in files)


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
        for part in ("method idr", "synthetic", "RESEARCH USE ONLY"):
            assert part in file.attrs["provenance"]
    image = nibabel.load(tmp_path / "sub-02_T1w_recon.nii.gz")
    assert image.header["descrip"] == b"RESEARCH USE ONLY, sansref. Method idr"
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


def study(heads, folder, *places):
    """Scans of one name in several folders."""
    for number, place in enumerate(places, start=1):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(heads / f"sub-0{number}_T1w.nii.gz", folder / place)
    return folder


def test_equal_names_lie_in_folders_like_those_of_their_scans(trained, heads, tmp_path):
    data = study(heads, tmp_path / "data", "P0/a/T1.nii.gz", "P1/a/T1.nii.gz", "P1/b/T2.nii.gz")
    done = play(trained, [data], tmp_path / "out", "nifti", "png")
    nifti = [name for name in names(tmp_path / "out") if name.endswith(".gz")]
    assert nifti == ["P0/a/T1_recon.nii.gz", "P1/a/T1_recon.nii.gz", "P1/b/T2_recon.nii.gz"]
    for number, one in enumerate(done, start=1):
        (alone,) = play(trained, [heads / f"sub-0{number}_T1w.nii.gz"], tmp_path / "alone", "nifti", "png")
        images = [np.asarray(nibabel.load(path.written[0]).dataobj) for path in (one, alone)]
        assert np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1] > 0.9
        assert one.written[1].parent.name == f"T{(number + 2) // 3 if number < 3 else 2}_png"
    # Again, and by any other way to name the same files.
    globbed = sorted(data.rglob("*.nii.gz"))
    for files in ([data], globbed, [data / "P0", data / "P1"], [data / "P1", data], globbed[:1], [data, *globbed]):
        assert all(one.earlier for one in play(trained, files, tmp_path / "out", "nifti", "png"))
    assert [name for name in names(tmp_path / "out") if name.endswith(".gz")] == nifti


def test_an_archive_that_grows_keeps_the_images_that_it_has(trained, heads, tmp_path):
    data = study(heads, tmp_path / "data", "P0/T1.nii.gz")
    assert play(trained, [data], tmp_path / "out")[0].written == (tmp_path / "out" / "T1_recon.nii.gz",)
    study(heads, data, "P0/T1.nii.gz", "P1/T1.nii.gz", "P2/T1.nii.gz")
    os.utime(data / "P0" / "T1.nii.gz", (1, 1))  # has changed since
    done = play(trained, [data], tmp_path / "out")
    assert [one.written[0].relative_to(tmp_path / "out").as_posix() for one in done] == [
        *("T1_recon.nii.gz", "P1/T1_recon.nii.gz", "P2/T1_recon.nii.gz"),
    ]
    assert not any(one.earlier for one in done)


def test_a_bad_file_does_not_stop_the_others_of_its_name(trained, heads, tmp_path):
    data, bad = study(heads, tmp_path / "data", "P0/T1.nii.gz", "P1/T1.nii.gz"), []
    (data / "P0" / "T1.nii.gz").write_bytes(b"no volume")
    (done,) = reconstruct_files(Job(trained, tmp_path / "out"), [data], bad.append, console=QUIET)
    assert done.written == (tmp_path / "out" / "P1" / "T1_recon.nii.gz",)
    assert [error.path for error in bad] == [data / "P0" / "T1.nii.gz"]


def test_series_of_one_name_lie_beside_their_folders(trained, disc, tmp_path):
    for person in ("01", "02"):
        (tmp_path / "pacs" / person).mkdir(parents=True)
        shutil.move(disc / f"person{person}", tmp_path / "pacs" / person / "T1")
    done = play(trained, [tmp_path / "pacs"], tmp_path / "out")
    assert [one.written[0].parent.relative_to(tmp_path / "out").as_posix() for one in done] == [
        *("01/T1_slice-0000_dicom", "02/T1_slice-0000_dicom"),
    ]


def test_links_to_one_scan_have_their_images_each(trained, heads, tmp_path):
    for place in ("P0", "P1"):
        (tmp_path / "data" / place).mkdir(parents=True)
        (tmp_path / "data" / place / "T1.nii.gz").symlink_to(heads / "sub-01_T1w.nii.gz")
    for earlier in (False, True):
        done = play(trained, [tmp_path / "data"], tmp_path / "out")
        assert [one.earlier for one in done] == [earlier, earlier]
        assert names(tmp_path / "out")[:2] == ["P0/T1_recon.nii.gz", "P1/T1_recon.nii.gz"]


def test_mirrored_folders_hit_neither_scans_nor_other_images(trained, heads, tmp_path):
    """A folder ``P0/P0`` would be mirrored into the folder of scans ``P0``; ``x`` has its pictures in ``x_png``."""
    data = study(heads, tmp_path / "P0", "P0/T1.nii.gz", "T1.nii.gz")
    before = names(tmp_path)
    with pytest.raises(SettingError, match="scans must be safe"):
        play(trained, [data], tmp_path)
    with pytest.raises(SettingError, match="is the folder of"):
        play(trained, sorted(data.rglob("*.nii.gz")), tmp_path)
    assert names(tmp_path) == before
    data = study(heads, tmp_path / "data", "x.nii.gz", "x_png/x.nii.gz")
    with pytest.raises(SettingError, match=r"x\.nii\.gz and the folder of .*x_png/x\.nii\.gz would have the same name"):
        play(trained, [data], tmp_path / "out", "png")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", ["x_denoised", "x_error_bound"])
def test_no_image_takes_the_place_of_what_another_file_may_write(trained, heads, tmp_path, other):
    """The image without noise of ``x`` is ``x_denoised_recon.nii.gz``, and so is the image of ``x_denoised``."""
    data = study(heads, tmp_path / "data", "x.nii.gz", f"{other}.nii.gz")
    with pytest.raises(SettingError, match=rf"x\.nii\.gz and .*{other}\.nii\.gz could both write {other}_recon"):
        play(trained, [data], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_is_not_replaced_by_its_image(trained, write_knee, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.h5").symlink_to(write_knee(tmp_path / "knee.h5"))
    with pytest.raises(SettingError, match=r"--out is the folder of .*a\.h5"):
        play(trained, [tmp_path / "scans" / "a.h5"], tmp_path / "scans")


@pytest.mark.parametrize("stem", ["x" * 205, "x" * 248, "ä" * 120])
def test_long_names_are_cut_but_not_mixed_up(trained, heads, tmp_path, stem):
    data = tmp_path / "data"
    data.mkdir()
    for number, end in enumerate("ab", start=1):
        shutil.copy(heads / f"sub-0{number}_T1w.nii.gz", data / f"{stem[:-1]}{end}.nii.gz")
    formats = ("dicom", "mrd", "nifti", "hdf5", "png")
    done = play(trained, [data], tmp_path / "out", *formats)
    assert len(set(names(tmp_path / "out"))) == 2 * (3 + 4 + 4) + 1
    assert all(path.name.startswith(stem[:60]) for one in done for path in one.written if path.suffix == ".mrd")
    assert [one.earlier for one in play(trained, [data], tmp_path / "out", *formats)] == [True, True]


def test_a_path_that_is_too_long_costs_one_file_only(trained, heads, tmp_path):
    deep = "/".join(["d" * 200] * 12)
    study(heads, tmp_path / "data", "T1.nii.gz", f"{deep}/T1.nii.gz")
    out, bad = tmp_path / "/".join(["o" * 200] * 9), []
    (done,) = reconstruct_files(Job(trained, out), [tmp_path / "data"], bad.append, console=QUIET)
    assert done.path == tmp_path / "data" / "T1.nii.gz"
    assert [error.path for error in bad] == [tmp_path / "data" / deep / "T1.nii.gz"]
    assert "too long" in str(bad[0])


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


@pytest.mark.parametrize("name", ["../beside", "a/../../beside", "/beside"])
def test_a_strangers_record_names_no_place_outside_its_folder(trained, heads, tmp_path, name):
    head, out = heads / "sub-02_T1w.nii.gz", tmp_path / "out"
    play(trained, [head], out, "nifti")
    record = out / "reconstruction.json"
    known = json.loads(record.read_text())
    (entry,) = known["inputs"].values()
    record.write_text(json.dumps({**known, "inputs": {name: entry}}))
    with pytest.raises(FileError, match=r"reconstruction\.json: is not a record .* Choose another --out"):
        play(trained, [head], out, "nifti")
    assert names(tmp_path) == ["out/reconstruction.json", "out/sub-02_T1w_recon.nii.gz"]
