from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import nibabel
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console

from helpers.forks import fork
from sansref import files as files_module
from sansref.commands.evaluate import evaluate
from sansref.commands.output_files import law_of, made_by
from sansref.commands.reconstruct import (
    Job,
    Worker,
    reconstruct_files,
    reconstruct_slices,
    scans_of,
    usable_device,
    whole_files,
)
from sansref.data.prepare import Preparation
from sansref.data.readers import ReaderOptions, find_files, open_scan_file
from sansref.data.simulate import Sampling, Simulation
from sansref.data.slices import Slices
from sansref.errors import FileError, SettingError
from sansref.files import claim
from sansref.results.scorer import zero_filled
from sansref.training.run import RunDirectory
from sansref.training.train import train

QUIET = Console(quiet=True)


class ZeroFilled:
    """Stands for a trained method."""

    def reconstruct(self, given):
        return zero_filled(given)


def play(run, files, out, *formats):
    """Files that are done, each with what was written for it."""
    done = reconstruct_files(Job(run, out, formats or ("source",)), files, console=QUIET)
    return [(one, list(one.written)) for one in done]


def names(folder):
    """What lies in a folder, but for the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != "reconstruction.lock")


def arrays(folder):
    return {path.name: np.asarray(nibabel.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))}


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


def test_relative_grey_values_do_not_pass_for_the_units_of_the_file(trained, heads, tmp_path, monkeypatch):
    monkeypatch.setattr(type(trained.load()), "relative", True)
    ((info, written),) = play(trained, [heads / "sub-01_T1w.nii.gz"], tmp_path / "out", "nifti", "hdf5")
    assert info.notes == ("relative grey values: each image has a scale of its own",)
    about = nibabel.load(written[0]).header["descrip"].item().decode()
    assert about == "RESEARCH USE ONLY, sansref. Relative grey values: each image has a scale of its"
    with h5py.File(written[1]) as file:
        assert "Relative grey values: each image has a scale of its own." in file.attrs["provenance"]


def test_volume_holds_what_the_method_makes_of_every_slice(trained, heads):
    config, method = trained.config(), trained.load()
    info = open_scan_file(heads / "sub-01_T1w.nii.gz").describe(heads / "sub-01_T1w.nii.gz")
    volume = torch.stack([image for image, _ in reconstruct_slices(method, config.preparation, info.path)])
    assert volume.shape == (4, 32, 32)
    for scan in config.preparation.scans(info.path):
        with torch.no_grad():
            expected = method.reconstruct(scan.batch())[0].abs() * scan.meta.scale
        torch.testing.assert_close(volume[scan.meta.slice], expected)


def test_fully_sampled_data_come_back_in_the_units_of_the_file(heads):
    # Without undersampling, noise and phase the zero-filled image is the file's own, whatever the scaling inside.
    recipe = Preparation(simulation=Simulation(phase=0, snr=None), sampling=Sampling(acceleration=1.0))
    info = open_scan_file(heads / "sub-01_T1w.nii.gz").describe(heads / "sub-01_T1w.nii.gz")
    volume = torch.stack([image for image, _ in reconstruct_slices(ZeroFilled(), recipe, info.path)])
    truth = np.moveaxis(np.asarray(nibabel.load(info.path).dataobj, dtype=float), -1, 0)
    np.testing.assert_allclose(volume.numpy(), truth, atol=0.01)


def test_a_volume_of_one_grey_value_is_one_line(trained, tmp_path):
    path = tmp_path / "flat.nii"
    nibabel.save(nibabel.Nifti1Image(np.full((32, 32, 3), 5.0, np.float32), np.eye(4)), path)
    with pytest.raises(FileError, match=r"flat\.nii: has only one grey value in each of its slices\. Leave it out\."):
        list(reconstruct_files(Job(trained, tmp_path / "out"), [path]))
    assert not (tmp_path / "out" / "flat_recon.nii.gz").exists()


def test_recipe_takes_all_slices_at_full_size():
    recipe = Preparation(
        Slices("axial", 3, 0.5, (20, 20), (16, 16)), Simulation(snr=7.0), Sampling(mask_seed=3), True, 4
    )
    whole = whole_files(recipe)
    assert whole.slices == Slices(plane="axial")
    assert (whole.simulation, whole.sampling, whole.magnitude, whole.seed) == (
        recipe.simulation,
        recipe.sampling,
        True,
        4,
    )


def test_arrays_may_have_other_axes_than_those_of_training(trained, tmp_path):
    noise = np.random.default_rng(0).normal(size=(2, 48, 32))
    np.save(tmp_path / "scan.npy", (noise[0] + 1j * noise[1]).astype(np.complex64))
    told = []
    for axes in ("row,column", "column,row", "column,row"):
        job = Job(trained, tmp_path / "out", ("png",), axes=axes)
        (done,) = reconstruct_files(job, [tmp_path / "scan.npy"], console=QUIET)
        with Image.open(done.written[0]) as image:
            told.append((image.size, done.earlier, done.emulated))
    assert told == [((32, 48), False, True), ((48, 32), False, True), ((48, 32), True, False)]


def test_the_level_of_noise_is_found_in_the_slices_that_are_taken(tiny, tmp_path):
    kspace = np.random.default_rng(0).normal(size=(10, 48, 32)).astype(np.complex64)
    kspace[0] = 0
    np.save(tmp_path / "scan.npy", kspace)
    config = tiny("ssdu", denoise=True, acceleration=1.0, slices=3, axes="slice,row,column")
    options = ReaderOptions(axes=config.slices.axes)
    info = open_scan_file(tmp_path / "scan.npy", options).describe(tmp_path / "scan.npy")
    scans = list(scans_of(config, info))
    assert len(scans) == 3
    levels = [scan.meta.noise[0] * scan.meta.scale for scan in scans]
    assert levels == pytest.approx(levels[:1] * 3)
    with pytest.raises(FileError, match="only zeros in the k-space of slice 0"):
        list(scans_of(config.changed(slices=0), info))


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
    found = [str(path.relative_to(tmp_path)) for path in written]
    pngs = [f"sub-01_T1w_png/slice-00{index}.png" for index in range(4)]
    assert found == [*pngs, "sub-01_T1w_recon.nii.gz", "sub-01_T1w.h5"]
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
    with pytest.raises(FileError, match=r"bad\.nii\.gz: is not in a format that sansref reads"):
        play(trained, [heads / "sub-01_T1w.nii.gz", tmp_path / "bad.nii.gz"], tmp_path / "out")
    assert names(tmp_path / "out") == ["reconstruction.json", "sub-01_T1w_recon.nii.gz"]


def test_bad_files_can_be_left_out(trained, heads, tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"no volume")
    files, bad = [tmp_path / "bad.nii.gz", tmp_path / "none.h5", heads / "sub-01_T1w.nii.gz"], []
    (done,) = reconstruct_files(Job(trained, tmp_path / "out"), files, bad.append, console=QUIET)
    assert done.path == files[2]
    assert [error.path for error in bad] == files[:2]
    with pytest.raises(
        SettingError, match=r"none of the 2 file\(s\) can be used; the first: .*bad\.nii\.gz: is not in a format"
    ):
        list(reconstruct_files(Job(trained, tmp_path / "other"), files[:2], bad.append, console=QUIET))


def test_a_full_disk_is_no_bad_file(trained, heads, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    files = [heads / "sub-01_T1w.nii.gz"]
    with pytest.raises(FileError, match=r"out/sub-01_T1w_recon\.nii\.gz: cannot be written \(No space left"):
        list(reconstruct_files(Job(trained, tmp_path / "out"), files, [].append, console=QUIET))
    assert names(tmp_path / "out") == ["reconstruction.json"]


def test_progress_is_drawn_over_slices_where_somebody_sees_it(trained, heads, tmp_path, capsys):
    console = Console(force_terminal=True, file=sys.stderr, width=120)
    list(reconstruct_files(Job(trained, tmp_path), [heads / "sub-01_T1w.nii.gz"], console=console))
    drawn = capsys.readouterr().err
    assert "1/1 sub-01_T1w.nii.gz" in drawn
    assert "100%" in drawn


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_one_line(trained, heads, tmp_path):
    with pytest.raises(SettingError, match="accelerator 'gpu' cannot be used: PyTorch sees no GPU"):
        list(reconstruct_files(Job(trained, tmp_path, accelerator="gpu"), [heads / "sub-01_T1w.nii.gz"], console=QUIET))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_images(trained, heads, tmp_path):
    for name in ("cpu", "gpu"):
        files = [heads / "sub-01_T1w.nii.gz"]
        list(reconstruct_files(Job(trained, tmp_path / name, accelerator=name), files, console=QUIET))
    (one,), (other,) = (arrays(tmp_path / name).values() for name in ("cpu", "gpu"))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * one.max())


def test_a_mask_that_the_run_has_never_seen_is_warned_of(sansref, tiny, write_knee, heads, tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(2):
        write_knee(tmp_path / "data" / f"knee{number}.h5", seed=number, every=2)
    run = train(tiny("ssdu", epochs=1, validation=0), tmp_path / "data", tmp_path / "run", console=QUIET).run
    full, law = write_knee(tmp_path / "full.h5", seed=5), "variable_density, 4x"
    warning = (
        "warning: the scans that the run learned from were undersampled by the scanner: it has never seen the mask "
        f"that full scans are given here ({law})"
    )
    _, out, _ = sansref("reconstruct", run.path, full, heads / "sub-01_T1w.nii.gz", "--out", tmp_path / "out")
    said = [line for line in out.splitlines() if " -> " not in line]
    assert said == [
        f"{full}: fully sampled k-space; it was undersampled by {law}",
        f"{heads / 'sub-01_T1w.nii.gz'}: magnitude images; their k-space was simulated and undersampled by {law}",
        warning,
    ]
    assert (made_by(run).sampling, made_by(run).unseen) == (law, True)
    assert warning in evaluate(run, full, tmp_path / "scores", console=QUIET).notes()
    own = evaluate(run, tmp_path / "data", tmp_path / "own", "all", console=QUIET)
    assert warning not in own.notes()
    claim(tmp_path / "images", "zeroshot")
    shutil.move(run.path / "data" / "training", tmp_path / "images" / "scans")
    assert law_of(run) == ("as the run's settings say", "")
    shutil.move(run.path, tmp_path / "images" / "run")
    assert law_of(RunDirectory(tmp_path / "images" / "run")) == (f"by {law}", warning)


# Going on


@pytest.mark.parametrize("formats", [["source"], ["png"], ["png", "hdf5", "nifti"]])
def test_the_same_command_does_only_what_is_missing(trained, heads, tmp_path, formats):
    files = [heads / f"sub-0{number}_T1w.nii.gz" for number in (1, 2)]
    before = play(trained, files[:1], tmp_path / "out", *formats)
    stamps = {path: path.stat().st_mtime_ns for path in before[0][1]}
    after = play(trained, files, tmp_path / "out", *formats)
    assert [(one.path, one.earlier) for one, _ in after] == [(files[0], True), (files[1], False)]
    assert after[0][1] == before[0][1]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_what_others_left_in_a_folder_of_images_stays(trained, heads, tmp_path):
    """As of a parallel command whose images go into a folder below."""
    part = f".part-{'0' * 32}-other.nii"
    for folder in (tmp_path / "out", tmp_path / "out" / "sub"):
        folder.mkdir()
        (folder / part).touch()
    files = [heads / "sub-01_T1w.nii.gz"]
    play(trained, files, tmp_path / "out")
    assert names(tmp_path / "out" / "sub") == [part]
    play(trained, files, tmp_path / "out")
    assert names(tmp_path / "out" / "sub") == [part]
    assert part not in names(tmp_path / "out")


def test_images_of_another_array_or_other_maps_are_not_called_the_same(trained, tmp_path):
    """The UIDs of DICOM follow from this."""
    maps = tmp_path / "maps.npy"
    found = set()
    for content, how in (
        (b"", {}),
        (b"", {"array": "echo2"}),
        (b"1", {"maps": str(maps)}),
        (b"2", {"maps": str(maps)}),
    ):
        maps.write_bytes(content)
        found.add(Worker(Job(trained, tmp_path / "out", **how)).made.settings)
    assert len(found) == 4
    assert Worker(Job(trained, tmp_path / "out")).made == made_by(trained)


def test_an_accelerator_that_is_none_is_refused():
    with pytest.raises(SettingError, match="accelerator must be one of auto, cpu, gpu, got 'cuda'"):
        usable_device("cuda")


def test_a_file_with_one_output_missing_is_done_again(trained, heads, tmp_path):
    files = [heads / "sub-01_T1w.nii.gz"]
    ((_, written),) = play(trained, files, tmp_path, "png", "nifti")
    written[-1].unlink()
    ((done, again),) = play(trained, files, tmp_path, "nifti", "png")
    assert not done.earlier
    assert sorted(again) == sorted(written)
    assert all(path.exists() for path in written)


def test_a_file_that_has_changed_is_done_again(trained, heads, tmp_path):
    source = tmp_path / "data" / "sub-01_T1w.nii.gz"
    source.parent.mkdir()
    shutil.copy(heads / source.name, source)
    play(trained, [source], tmp_path / "out", "png", "nifti")
    before = arrays(tmp_path / "out")
    shutil.copy(heads / "sub-02_T1w.nii.gz", source)
    ((done, _),) = play(trained, [source], tmp_path / "out", "png", "nifti")
    assert not done.earlier
    after = arrays(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(np.any(before[name] != after[name]) for name in before)


def test_a_folder_of_another_reconstruction_is_refused(trained, heads, tmp_path):
    files, out = [heads / "sub-01_T1w.nii.gz"], tmp_path / "out"
    play(trained, files, out)
    with pytest.raises(SettingError, match="out holds a reconstruction with other formats: choose another --out"):
        play(trained, files, out, "png")
    other = type(trained)(tmp_path / "run")
    shutil.copytree(trained.path, other.path)
    weights = safetensors.torch.load_file(other.weights)
    safetensors.torch.save_file({name: value + 1 for name, value in weights.items()}, other.weights)
    with pytest.raises(SettingError, match="out holds a reconstruction with other weights: choose another --out"):
        play(other, files, out)
    (tmp_path / "visit").mkdir()
    shutil.copy(files[0], tmp_path / "visit")
    with pytest.raises(SettingError, match=r"out holds the images of .*, not of .*visit/sub-01_T1w\.nii\.gz: choose"):
        play(trained, [tmp_path / "visit"], out)
    (out / "sub-02_T1w.h5").touch()
    with pytest.raises(SettingError, match=r"out/sub-02_T1w\.h5 was not written by this command: choose another --out"):
        play(trained, [heads / "sub-02_T1w.nii.gz"], out)
    assert names(out) == ["reconstruction.json", "sub-01_T1w_recon.nii.gz", "sub-02_T1w.h5"]


def test_a_second_command_on_a_folder_is_kept_off(trained, heads, tmp_path, monkeypatch):
    first, other = (heads / f"sub-0{number}_T1w.nii.gz" for number in (1, 2))
    out, said = tmp_path / "out", tmp_path / "said"
    monkeypatch.setattr(files_module, "_got", lambda file, patience, got=files_module._got: got(file, 0))
    working = reconstruct_files(Job(trained, out), [first], console=QUIET)
    next(working)
    _, status = os.waitpid(fork(lambda: play(trained, [other], out), said), 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert f"out/reconstruction: is in use by process {os.getpid()} on " in said.read_text()
    assert list(working) == []
    assert names(out) == ["reconstruction.json", "sub-01_T1w_recon.nii.gz"]
    assert [one.earlier for one, _ in play(trained, [first, other], out)] == [True, False]


def test_a_folder_of_others_is_refused_and_left_as_it_is(trained, heads, tmp_path):
    out, mine = tmp_path / "out", tmp_path / "mine"
    claim(out, "zeroshot")
    with pytest.raises(SettingError, match="out holds the zeroshot of another command: choose another --out"):
        play(trained, [heads / "sub-01_T1w.nii.gz"], out)
    mine.mkdir()
    (mine / "sub-01_T1w.h5").touch()
    with pytest.raises(SettingError, match=r"mine/sub-01_T1w\.h5 was not written by this command"):
        play(trained, [heads / "sub-01_T1w.nii.gz"], mine)
    assert [[path.name for path in folder.iterdir()] for folder in (out, mine)] == [[".sansref"], ["sub-01_T1w.h5"]]


def test_settings_of_a_command_without_any_image_bind_nobody(trained, heads, tmp_path):
    bad, out = tmp_path / "sub-01_T1w.nii.gz", tmp_path / "out"
    bad.write_bytes(b"no volume")
    with pytest.raises(FileError, match="is not in a format"):
        play(trained, [bad], out)
    play(trained, [heads / bad.name], out, "png", "nifti")
    with pytest.raises(SettingError, match="holds a reconstruction with other formats"):
        play(trained, [heads / bad.name], out)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "inputs": {}}'])
def test_a_record_that_is_none_is_refused(trained, heads, tmp_path, text):
    (tmp_path / "reconstruction.json").write_text(text)
    with pytest.raises(FileError, match=r"reconstruction\.json: is not a record of .*\. Choose another --out"):
        play(trained, [heads / "sub-01_T1w.nii.gz"], tmp_path)


SLOW = """
import itertools, sys, time
from sansref import cli
from sansref.commands import reconstruct

def slow(image, scan, magnitude=reconstruct.magnitude, calls=itertools.count(1)):
    if next(calls) == 10:  # the second of the third file's four slices
        time.sleep(240)
    return magnitude(image, scan)

reconstruct.magnitude = slow
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nifti", "png"])
def test_a_killed_command_goes_on_to_the_same_end(trained, heads, tmp_path, form):
    out, alone = tmp_path / "out", tmp_path / "alone"
    words = [trained.path, heads, "--out", out, "--format", form, "hdf5"]
    child = subprocess.Popen([sys.executable, "-c", SLOW, "reconstruct", *map(str, words)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "sub-02_T1w.h5").exists() or not list(out.glob(".part-*sub-03*")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(out.glob(".part-*"))
    done = [one.earlier for one, _ in play(trained, [heads], out, form, "hdf5")]
    assert done == [True] * done.count(True) + [False] * done.count(False)
    assert done.count(True) >= 2
    assert done.count(False) >= 3
    play(trained, [heads], alone, form, "hdf5")
    assert names(out) == names(alone)
    for path in (path for path in alone.rglob("*") if path.suffix in (".h5", ".png")):
        assert (out / path.relative_to(alone)).read_bytes() == path.read_bytes()


# What it takes

MEASURED = """
import re, sys
from pathlib import Path
from sansref import cli
cli.main(["reconstruct", *sys.argv[1:]])
print([name for name in ("lightning_fabric", "scipy.stats", "matplotlib", "ray") if name in sys.modules])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_slices_and_no_engine_is_loaded(trained, tmp_path):
    peaks = []
    for slices in (50, 500):
        noise = np.random.default_rng(0).normal(size=(slices, 192, 128, 2)).astype(np.float32)
        with h5py.File(tmp_path / f"file{slices}.h5", "w") as file:
            file["kspace"] = noise.view(np.complex64)[..., 0]
        words = [trained.path, tmp_path / f"file{slices}.h5", "--out", tmp_path / "out"]
        command = [sys.executable, "-c", MEASURED, *map(str, words)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        assert said[-2] == "[]"
        peaks.append(int(said[-1]) / 1024)
    # The longer file holds 88 MB more, and so do its images by 44 MB.
    assert peaks[1] - peaks[0] < 20


def test_no_scan_is_replaced(trained, write_knee, tmp_path):
    source = write_knee(tmp_path / "file1000.h5")
    before = source.read_bytes()
    with pytest.raises(SettingError, match=r"--out is the folder of .*file1000\.h5: choose another"):
        play(trained, [source], tmp_path / "sub" / "..")
    assert source.read_bytes() == before


def test_images_can_be_read_as_scans(trained, heads, tmp_path):
    play(trained, [heads / "sub-01_T1w.nii.gz"], tmp_path / "images")
    assert [path.suffixes for path in find_files(tmp_path / "images")] == [[".nii", ".gz"]]


def test_images_do_not_lie_among_the_scans_of_the_next_command(trained, heads, tmp_path):
    with pytest.raises(SettingError, match=r"--out .*images lies inside .*, where its files would pass for scans"):
        play(trained, [heads], heads / "new" / "images")
    assert not (heads / "new").exists()


def test_images_do_not_lie_among_the_scans_of_the_next_training(trained, heads, write_knee, tmp_path):
    for file in (heads / "sub-01_T1w.nii.gz", write_knee(tmp_path / "knee.h5")):
        with pytest.raises(SettingError, match=r"images lies inside .*, which the run learned from, where its files"):
            play(trained, [file], heads / "new" / "images")
    assert not (heads / "new").exists()


def test_no_reconstruction_is_replaced_by_the_next(trained, heads, tmp_path):
    for name in ("T1w.nii", "T1w.nii.gz"):
        nibabel.save(nibabel.load(heads / "sub-01_T1w.nii.gz"), tmp_path / name)
    with pytest.raises(SettingError, match=r"T1w\.nii and .*T1w\.nii\.gz would have the same output name"):
        play(trained, [tmp_path / "T1w.nii", tmp_path / "T1w.nii.gz"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
