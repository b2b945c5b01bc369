from __future__ import annotations

import shutil
from dataclasses import replace

import h5py
import nibabel
import numpy as np
import pytest
import torch
from rich.console import Console

from helpers.scans import full_head, undersampled_head
from sansref.api import load
from sansref.commands.denoised import Denoised, denoised, shown_slice, told, too_good, warned, worth
from sansref.commands.reconstruct import Job, reconstruct_files, scans_of, whole_files, with_file_noise
from sansref.data.prepare import Preparation
from sansref.data.scan_store import with_noise
from sansref.data.simulate import Sampling, Simulation
from sansref.errors import FileError, SettingError
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import estimate_noise, white_noise
from sansref.metrics.error_maps import ErrorMapOptions
from sansref.metrics.sure import Sure
from sansref.randomness import seeded
from sansref.training.run import RunDirectory
from sansref.training.train import train

QUIET = Console(quiet=True)
SIGMA = 0.02


@pytest.fixture(scope="module")
def denoiser(tiny, heads, tmp_path_factory):
    """A run that was trained to denoise full scans."""
    settings = {"denoise": True, "acceleration": 1.0, "epochs": 12, "learning_rate": 0.003, "snr": 5.0}
    return train(tiny("ssdu", **settings), heads, tmp_path_factory.mktemp("runs") / "denoiser", console=QUIET).run


@pytest.fixture(scope="module")
def noisy_file(heads, tmp_path_factory):
    """Noisy full k-space of a head, as a measurement, and the images without noise."""
    volume = torch.from_numpy(np.asarray(nibabel.load(heads / "sub-01_T1w.nii.gz").dataobj, dtype=np.float32))
    truth = volume.permute(2, 0, 1) / volume.max()
    kspace = fft2c(truth.to(torch.complex64))
    kspace = kspace + white_noise(kspace, SIGMA, seeded("noise"))
    path = tmp_path_factory.mktemp("scans") / "low-field.npy"
    np.save(path, kspace.numpy())
    return path, truth.numpy()


def play(run, file, out, *formats):
    return list(reconstruct_files(Job(run, out, formats or ("hdf5",), axes="slice,row,column"), [file], console=QUIET))


def test_python_gives_the_denoised_image_of_the_command(denoiser, noisy_file, tmp_path):
    file, _ = noisy_file
    play(denoiser, file, tmp_path)
    images, metas = load(denoiser.path, "cpu").reconstruct(file, axes="slice,row,column")
    assert [meta.slice for meta in metas] == list(range(len(images)))
    with h5py.File(tmp_path / "low-field_denoised.h5") as written:
        np.testing.assert_allclose(images.numpy(), written["reconstruction"], rtol=1e-5, atol=1e-7)
    with h5py.File(tmp_path / "low-field.h5") as written:  # the one with its noise
        assert not np.allclose(images.numpy(), written["reconstruction"], rtol=1e-2)


def test_both_images_of_a_full_scan_are_written(denoiser, noisy_file, tmp_path):
    file, truth = noisy_file
    (done,) = play(denoiser, file, tmp_path)
    assert [path.name for path in done.written] == ["low-field.h5", "low-field_denoised.h5"]
    assert not done.emulated
    assert "noise kept" in done.notes[0]
    hard, clean = (h5py.File(path)["reconstruction"][:] for path in done.written)
    np.testing.assert_allclose(hard, np.abs(ifft2c(torch.from_numpy(np.load(file))).numpy()), atol=1e-4)
    assert np.linalg.norm(clean - truth) < 0.95 * np.linalg.norm(hard - truth)
    (again,) = play(denoiser, file, tmp_path)
    assert again.earlier


def test_the_images_say_what_became_of_the_noise(denoiser, noisy_file, tmp_path):
    file, _ = noisy_file
    (done,) = play(denoiser, file, tmp_path, "nifti", "dicom")
    about = [nibabel.load(path).header["descrip"].item().decode() for path in done.written if path.suffix == ".gz"]
    assert about[0] == "RESEARCH USE ONLY, sansref. The acquired samples are kept as they were measured"
    assert about[1].startswith("RESEARCH USE ONLY, sansref. Noise was taken out by what was learned")
    pydicom = pytest.importorskip("pydicom")
    headers = [pydicom.dcmread(path) for path in done.written if path.name.endswith("0.dcm")]
    hard, clean = (header for header in headers if header.InstanceNumber == 1)
    assert "with their noise" in hard.DerivationDescription
    assert "faint structure may be lost" in clean.DerivationDescription
    assert hard.SeriesInstanceUID != clean.SeriesInstanceUID


def test_other_runs_say_nothing_of_noise(trained, heads, tmp_path):
    jobs = Job(trained, tmp_path, ("nifti",))
    (done,) = reconstruct_files(jobs, [heads / "sub-01_T1w.nii.gz"], console=QUIET)
    assert len(done.written) == 1
    assert done.notes == ()
    assert b"oise" not in nibabel.load(done.written[0]).header["descrip"].item()


def test_a_slice_that_would_lose_more_than_noise_is_left_alone():
    scan = full_head(0)
    scan = replace(scan, meta=replace(scan.meta, noise=(SIGMA,)))
    found = denoised(lambda given: 0 * given.physics.adjoint(given.kspace), scan)
    assert found.left_alone
    assert found.proof.lost > 1
    assert torch.equal(found.image, found.hard)
    torch.testing.assert_close(found.hard, ifft2c(scan.kspace)[0])
    scan = replace(scan, meta=replace(scan.meta, noise=(5.0,)))  # which drowns it
    half = denoised(lambda given: 0.5 * given.physics.adjoint(given.kspace), scan)
    assert not half.left_alone
    assert half.proof.kept == pytest.approx(0.25, rel=0.01)


def test_a_scan_without_noise_is_left_alone():
    scan = replace(full_head(0), kspace=torch.zeros(1, 80, 80, dtype=torch.complex64))
    assert denoised(lambda given: given.physics.adjoint(given.kspace), scan).left_alone


def test_the_acquired_samples_stand_in_the_hard_image_of_an_undersampled_scan():
    scan = undersampled_head(0)
    found = denoised(lambda given: 0.9 * given.physics.adjoint(given.kspace), scan)
    torch.testing.assert_close(fft2c(found.hard)[scan.mask], scan.kspace[0][scan.mask], rtol=1e-3, atol=1e-3)


def test_of_several_coils_the_combined_image_is_what_denoising_is_measured_by():
    """Imposed samples of four coils make an image that has only a part of the noise in them."""
    scan = full_head(0, coils=4)
    noisy = scan.kspace + white_noise(scan.kspace, 1.0, seeded("noise"))
    scan = replace(scan, kspace=noisy, meta=replace(scan.meta, noise=(1.0,) * 4))
    found = denoised(lambda given: given.physics.adjoint(given.kspace), scan)
    assert found.measured == pytest.approx(0.25, abs=0.05)
    assert found.proof.risk == pytest.approx(found.measured, rel=0.01)
    torch.testing.assert_close(found.image, found.hard)


def test_what_is_not_finite_is_named():
    with pytest.raises(FileError, match=r"head0\.nii: is reconstructed to NaN"):
        denoised(lambda given: torch.nan * given.physics.adjoint(given.kspace), full_head(0))


def test_all_slices_of_a_file_have_the_level_of_a_few(noisy_file):
    file, _ = noisy_file
    recipe = Preparation(sampling=Sampling(acceleration=1.0))
    recipe = replace(recipe, slices=replace(recipe.slices, axes="slice,row,column"))
    info = recipe.describe(file)
    levels = [scan.meta.noise[0] * scan.meta.scale for scan in with_file_noise(recipe, info)]
    assert levels == pytest.approx([levels[0]] * 4)
    assert levels[0] == pytest.approx(SIGMA, rel=0.1)
    known = [
        scan.meta.noise[0] * scan.meta.scale
        for scan in with_file_noise(replace(recipe, noise=0.5), recipe.describe(file))
    ]
    assert known == pytest.approx([0.5] * 4)


def test_scans_of_a_method_that_denoises_share_the_noise_of_their_file(denoiser, noisy_file):
    config = denoiser.config().changed(axes="slice,row,column")
    info = config.preparation.describe(noisy_file[0])
    levels = [scan.meta.noise[0] * scan.meta.scale for scan in scans_of(config, info)]
    assert levels == pytest.approx([levels[0]] * 4)
    assert all(scan.meta.noise is None for scan in scans_of(config.changed(denoise=False), info))
    (one,) = scans_of(config, info, [2])
    assert one.meta.noise[0] * one.meta.scale == pytest.approx(levels[0])


def test_the_noise_of_the_training_data_is_not_that_of_other_files(denoiser, noisy_file):
    told = replace(denoiser.config().preparation, noise=3e-6)
    (scan, *_) = whole_files(told, axes="slice,row,column").scans(noisy_file[0])
    assert scan.meta.noise is None


def test_simulated_slices_keep_the_noise_that_each_was_given(heads):
    """It is in proportion to the signal of each: one level for all would be far off in most of them."""
    recipe = Preparation(simulation=Simulation(snr=5.0), sampling=Sampling(acceleration=1.0))
    file = heads / "sub-01_T1w.nii.gz"
    scans = list(recipe.scans(file))
    assert all(scan.meta.noise is None for scan in with_file_noise(recipe, recipe.describe(file)))
    found = [estimate_noise(scan.kspace, scan.mask) for scan in scans]
    metas = with_noise([scan.meta for scan in scans], found)
    for scan, meta in zip(scans, metas, strict=True):
        noise = scan.kspace - scan.batch().physics.transform(scan.reference[None])[0]
        assert meta.noise[0] == pytest.approx(float(noise.abs().square().mean() / 2) ** 0.5, rel=0.25)
    real = [replace(scan.meta, synthetic=False) for scan in scans]
    shared = [meta.noise[0] * meta.scale for meta in with_noise(real, found)]
    assert shared == pytest.approx([shared[0]] * len(shared))


def test_scans_whose_noise_is_not_known_are_learned_from_beside_others():
    known = replace(full_head(0), meta=replace(full_head(0).meta, noise=(SIGMA,))).measurement
    unknown = full_head(1).measurement
    assert Measurement.stacked([known, unknown]).noise is None
    assert Measurement.stacked([known, known]).noise.shape == (2, 1, 1, 1)


def test_it_is_told_in_one_line():
    def slice_of(kept: float, lost: float, alone: bool) -> Denoised:
        empty = torch.empty(0)
        return Denoised(empty, empty, alone, Sure(kept + lost, kept, lost, 0.0, empty, empty, torch.zeros(1)))

    line = told([slice_of(0.2, 0.1, False), slice_of(0.4, 0.9, True)])
    assert line.startswith("noise kept 0.30, structure lost 0.50, of 1 as measured; 1 of 2 slices left alone")
    assert told([slice_of(0.2, -0.1, False)]) == "noise kept 0.10, structure lost 0.00, of 1 as measured"


def smoothing(given):
    window = torch.exp(-(torch.linspace(-1, 1, given.kspace.shape[-1]) ** 2) / 0.02)
    return given.physics.adjoint(window * given.kspace)


def test_structure_that_shows_in_the_difference_is_warned_of():
    scan = full_head(0)
    scan = replace(
        scan,
        kspace=scan.kspace + white_noise(scan.kspace, SIGMA, seeded("noise")),
        meta=replace(scan.meta, noise=(SIGMA,)),
    )
    blurred = denoised(smoothing, scan)
    assert blurred.proof.shows_structure
    found = [(scan.meta, replace(blurred, left_alone=False).numbers())]
    assert warned(found) == "warning: structure shows in what was taken away, in 1 of 1 slices (0)"
    assert not warned([(scan.meta, replace(blurred, left_alone=True).numbers())])
    empty = replace(scan, kspace=white_noise(scan.kspace, SIGMA, seeded("noise")))  # there is nothing to lose
    air = denoised(smoothing, empty)
    assert not air.proof.shows_structure
    assert not air.left_alone
    assert not warned([(scan.meta, air.numbers())])


@pytest.mark.parametrize(("over", "warned_of"), [(1.0, False), (1.5, True)])
def test_a_level_of_noise_that_is_too_high_shows_in_a_negative_error(over, warned_of):
    scan = full_head(0)
    truth = scan.batch().physics.adjoint(scan.kspace[None])
    noisy = scan.kspace + white_noise(scan.kspace, SIGMA, seeded("noise"))
    scan = replace(scan, kspace=noisy, meta=replace(scan.meta, noise=(over * SIGMA,)))
    line = too_good([denoised(lambda given: truth, scan)])
    assert bool(line) == warned_of
    assert ("the noise is weaker than was estimated" in line) == warned_of


def test_where_all_errors_are_below_0_a_slice_is_left_alone_and_nothing_is_claimed():
    """Images of several coils pass on less noise than the samples have: a level that is too high makes it negative."""
    scan, image = full_head(0), full_head(0).kspace
    ones = torch.ones_like(image) / 8**0.5
    noise = white_noise(image.expand(8, -1, -1), SIGMA, seeded("noise"))
    maps, kspace = ones.expand(8, -1, -1), image / 8**0.5 + noise
    coils = replace(scan, kspace=kspace, maps=maps, meta=replace(scan.meta, noise=(1.2 * SIGMA,) * 8))
    found = denoised(smoothing, coils)
    assert found.measured < 0
    assert found.left_alone
    assert (found.kept, found.lost) == (1.0, 0.0)


def test_the_page_shows_the_difference_and_where_structure_was_lost():
    scan = full_head(0)
    scan = replace(scan, meta=replace(scan.meta, noise=(SIGMA,)))
    found = replace(denoised(smoothing, scan), left_alone=False)
    found = replace(found, image=smoothing(scan.batch())[0])
    shown = shown_slice(found, scan)
    assert list(shown.images) == ["denoised", "5 times the difference", "with its noise"]
    difference = 5 * (found.image - found.hard).abs().numpy()
    np.testing.assert_allclose(shown.images["5 times the difference"], np.rot90(difference, 0), atol=1e-5)
    assert shown.maps["denoised"]["structure_lost"].max() > 5
    assert shown.details["denoised"]["structure in the difference"] == "yes"


def test_a_page_stands_beside_the_images(denoiser, noisy_file, tmp_path):
    file, _ = noisy_file
    play(denoiser, file, tmp_path)
    page = (tmp_path / "low-field_denoised.html").read_text()
    assert "structure lost" in page
    assert "5 times the difference" in page


def test_what_denoising_would_be_worth_is_told_of_noisy_scans_alone():
    scan = full_head(0)
    noise = white_noise(scan.kspace, 1.0, seeded("noise"))
    peak = float(scan.batch().physics.adjoint(scan.kspace[None]).abs().max())
    noisy, quiet = (replace(scan, kspace=scan.kspace + level * peak * noise) for level in (0.05, 1e-5))
    assert worth(noisy).startswith("denoising is worth it, by SURE: non-local means leave")
    assert worth(replace(quiet, meta=replace(scan.meta, noise=(1e-5 * peak,)))) == ""


@pytest.mark.parametrize(
    ("risk", "said"),
    [
        (-1.0, "warning: what denoising is worth cannot be told"),
        (-0.01, "denoising is worth it, by SURE: non-local means leave 10%"),
    ],
)
def test_an_error_below_0_is_no_advice_beyond_chance(monkeypatch, risk, said):
    """It shows that the noise was taken for too strong, or that coils do not go with their maps."""
    scan = replace(full_head(0), meta=replace(full_head(0).meta, noise=(5.0,)))
    empty = torch.zeros_like(scan.mask, dtype=torch.float32)
    monkeypatch.setattr("sansref.commands.denoised.sure", lambda *_: Sure(risk, 0.1, risk, 0.01, empty, empty, empty))
    assert worth(scan).startswith(said)


def test_a_risk_that_is_known_better_counts():
    scan = replace(full_head(0), meta=replace(full_head(0).meta, noise=(5.0,)))
    half = denoised(lambda given: 0.5 * given.physics.adjoint(given.kspace), scan, risk=1.5)
    assert half.left_alone
    assert half.kept + half.lost == pytest.approx(1.5)


def test_error_maps_of_a_denoised_image_hold_its_error(tiny, heads, tmp_path):
    settings = {"denoise": True, "acceleration": 2.0, "epochs": 8, "learning_rate": 0.003, "snr": 8.0}
    run = train(tiny("ssdu", **settings), heads, tmp_path / "denoiser", console=QUIET).run
    file, out = heads / "sub-01_T1w.nii.gz", tmp_path / "out"
    job = Job(run, out, ("nifti",), error_map=ErrorMapOptions())
    (done,) = reconstruct_files(job, [file], console=QUIET)
    assert any(note.startswith("PSNR") for note in done.notes)
    image, bound = (
        nibabel.load(out / f"sub-01_T1w_denoised{name}_recon.nii.gz").get_fdata() for name in ("", "_error_bound")
    )
    plain = tmp_path / "plain"
    list(reconstruct_files(Job(run, plain, ("nifti",)), [file], console=QUIET))
    for name in ("sub-01_T1w_recon.nii.gz", "sub-01_T1w_denoised_recon.nii.gz"):
        same = [nibabel.load(folder / name).get_fdata() for folder in (out, plain)]
        np.testing.assert_allclose(*same, rtol=1e-3, atol=0.5)
    truth = np.asarray(nibabel.load(file).dataobj, dtype=np.float32)
    body = truth > 0.1 * truth.max()
    covered = (np.abs(image - truth) <= bound)[body].mean()
    assert 0.8 < covered < 1
    (again,) = reconstruct_files(job, [file], console=QUIET)
    assert again.earlier


def test_a_run_that_learned_from_full_scans_has_no_error_maps(denoiser, noisy_file, tmp_path):
    job = Job(denoiser, tmp_path / "out", axes="slice,row,column", error_map=ErrorMapOptions())
    with pytest.raises(SettingError, match="predicts no sample"):
        list(reconstruct_files(job, [noisy_file[0]], console=QUIET))
    assert not (tmp_path / "out").exists()


def test_two_sets_of_coil_maps_have_no_error_maps(trained, heads, tmp_path):
    config = trained.path / "config.yaml"
    copy = tmp_path / "run"
    shutil.copytree(trained.path, copy)
    (copy / "config.yaml").write_text(config.read_text().replace("map_sets: 1", "map_sets: 2"))
    job = Job(RunDirectory(copy), tmp_path / "out", error_map=ErrorMapOptions())
    with pytest.raises(SettingError, match="two components"):
        list(reconstruct_files(job, [heads], console=QUIET))
    assert not (tmp_path / "out").exists()
