from __future__ import annotations

import shutil

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from sansref.data.prepare import Preparation, Selection
from sansref.data.readers import open_scan_file
from sansref.data.sampling import Sampling
from sansref.data.simulate import Simulation
from sansref.errors import FileError, SettingError
from sansref.experiments.reconstruct import reconstruct_files, reconstruct_volume, whole_files
from sansref.experiments.scores import zero_filled
from sansref.methods import measured, stack


class ZeroFilled:
    """Stands for a trained method."""

    def reconstruct(self, given):
        return zero_filled(given)


def play(run, files, out, *formats):
    return list(reconstruct_files(run, files, out, formats or ("source",)))


def test_nifti_comes_back_in_its_place_and_its_units(trained, heads, tmp_path):
    source = heads / "sub-02_T1w.nii.gz"
    ((info, written),) = play(trained, [source], tmp_path / "out")
    assert (info.path, written) == (source, [tmp_path / "out" / "sub-02_T1w_recon.nii.gz"])
    before, after = nibabel.load(source), nibabel.load(written[0])
    assert after.shape == before.shape == (32, 32, 4)
    np.testing.assert_allclose(after.affine, before.affine)
    truth, image = np.asarray(before.dataobj, dtype=float), np.asarray(after.dataobj)
    assert np.corrcoef(truth.ravel(), image.ravel())[0, 1] > 0.9
    assert np.vdot(truth, image) / np.vdot(truth, truth) == pytest.approx(1, abs=0.15)


def test_volume_holds_what_the_method_makes_of_every_slice(trained, heads):
    config, method = trained.config(), trained.load()
    info = open_scan_file(heads / "sub-01_T1w.nii.gz").describe(heads / "sub-01_T1w.nii.gz")
    volume, _ = reconstruct_volume(method, config.preparation, info)
    assert volume.shape == (4, 32, 32)
    for scan in config.preparation.scans(info.path):
        with torch.no_grad():
            expected = method.reconstruct(stack([measured(scan)]))[0].abs() * scan.meta.scale
        torch.testing.assert_close(volume[scan.meta.slice], expected)


def test_fully_sampled_data_come_back_in_the_units_of_the_file(heads):
    # Without undersampling, noise and phase the zero-filled image is the file's own, whatever the scaling inside.
    recipe = Preparation(simulation=Simulation(phase=0, snr=None), sampling=Sampling(acceleration=1.0))
    info = open_scan_file(heads / "sub-01_T1w.nii.gz").describe(heads / "sub-01_T1w.nii.gz")
    volume, _ = reconstruct_volume(ZeroFilled(), recipe, info)
    truth = np.moveaxis(np.asarray(nibabel.load(info.path).dataobj, dtype=float), -1, 0)
    np.testing.assert_allclose(volume.numpy(), truth, atol=0.01)


def test_recipe_takes_all_slices_at_full_size():
    recipe = Preparation(
        Selection("axial", 3, 0.5, (20, 20), (16, 16)), Simulation(snr=7.0), Sampling(mask_seed=3), True, 4
    )
    whole = whole_files(recipe)
    assert whole.selection == Selection(plane="axial")
    assert (whole.simulation, whole.sampling, whole.magnitude, whole.seed) == (
        recipe.simulation,
        recipe.sampling,
        True,
        4,
    )


@pytest.mark.parametrize("every", [1, 2])
def test_fastmri_comes_back_as_a_submission(trained, write_knee, tmp_path, every):
    source = write_knee(tmp_path / "file1000.h5", every=every)
    ((info, written),) = play(trained, [source], tmp_path / "out")
    assert (info.kind, written) == ("k-space", [tmp_path / "out" / "file1000.h5"])
    with h5py.File(written[0]) as file:
        assert list(file) == ["reconstruction"]
        image = file["reconstruction"][()]
    assert image.shape == (2, 32, 32)
    assert image.dtype == np.float32
    with h5py.File(source) as file:
        kspace = file["kspace"][()]
    full = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    shown = np.abs(full[:, 16:48, 2:34])  # the zero-filled image, without readout oversampling, in the file's units
    assert np.corrcoef(shown.ravel(), image.ravel())[0, 1] > 0.8
    assert np.vdot(shown, image) / np.vdot(shown, shown) == pytest.approx(1, abs=0.25)


def test_formats_are_written_once_each(trained, heads, tmp_path):
    ((_, written),) = play(trained, [heads / "sub-01_T1w.nii.gz"], tmp_path, "png", "source", "nifti", "hdf5", "png")
    names = [str(path.relative_to(tmp_path)) for path in written]
    pngs = [f"sub-01_T1w_png/slice-00{index}.png" for index in range(4)]
    assert names == [*pngs, "sub-01_T1w_recon.nii.gz", "sub-01_T1w.h5"]
    with Image.open(written[0]) as image:
        assert image.size == (32, 32)
    with h5py.File(written[5]) as file:
        stored = file["reconstruction"][()]
    volume = np.asarray(nibabel.load(written[4]).dataobj)
    np.testing.assert_array_equal(np.moveaxis(volume, -1, 0), stored)


def test_knee_can_come_back_as_nifti(trained, write_knee, tmp_path):
    ((_, written),) = play(trained, [write_knee(tmp_path / "knee.h5")], tmp_path / "out", "nifti")
    image = nibabel.load(written[0])
    assert image.shape == (32, 32, 2)
    np.testing.assert_allclose(image.header.get_zooms()[:2], (280 / 64, 160 / 36))


def test_blank_slices_stay_zero(trained, tmp_path):
    volume = np.zeros((32, 32, 4), dtype=np.int16)
    volume[8:24, 8:24, 1:3] = 100
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "sub-90_T1w.nii.gz")
    ((_, written),) = play(trained, [tmp_path / "sub-90_T1w.nii.gz"], tmp_path / "out")
    image = np.asarray(nibabel.load(written[0]).dataobj)
    assert not image[..., [0, 3]].any()
    assert image[..., [1, 2]].any()


def test_folders_are_looked_into(trained, heads, tmp_path):
    data = tmp_path / "data"
    for number in (1, 2):
        (data / f"sub-0{number}").mkdir(parents=True)
        shutil.copy(heads / f"sub-0{number}_T1w.nii.gz", data / f"sub-0{number}")
    found = play(trained, [data], tmp_path / "out")
    assert [info.path.name for info, _ in found] == ["sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz"]


def test_files_before_a_bad_one_are_written(trained, heads, tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"no volume")
    with pytest.raises(FileError, match=r"bad\.nii\.gz: is in no format that is read here"):
        play(trained, [heads / "sub-01_T1w.nii.gz", tmp_path / "bad.nii.gz"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sub-01_T1w_recon.nii.gz"]


def test_no_scan_is_replaced(trained, write_knee, tmp_path):
    source = write_knee(tmp_path / "file1000.h5")
    before = source.read_bytes()
    with pytest.raises(SettingError, match=r"--out is the folder of .*file1000\.h5: choose another"):
        play(trained, [source], tmp_path / "sub" / "..")
    assert source.read_bytes() == before


def test_no_reconstruction_is_replaced_by_the_next(trained, heads, tmp_path):
    for visit in ("a", "b"):
        (tmp_path / visit).mkdir()
        shutil.copy(heads / "sub-01_T1w.nii.gz", tmp_path / visit / "T1w.nii.gz")
    with pytest.raises(SettingError, match=r"a/T1w\.nii\.gz and .*b/T1w\.nii\.gz have one name"):
        play(trained, [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
