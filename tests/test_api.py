"""A trained run in Python gives what the command gives."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import sansref as package
from sansref.errors import FileError, SettingError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def small_run(trained, tmp_path):
    """The run, as if it had been trained on two small slices a file."""
    copy = tmp_path / "runs" / "x"
    copy.parent.mkdir()
    subprocess.run(["cp", "-r", str(trained.path), str(copy)], check=True)
    config = copy / "config.yaml"
    text = config.read_text().replace("slices: 0", "slices: 2").replace("  matrix: null", "  matrix: [16, 16]")
    config.write_text(text)
    return copy


def test_readme_snippet_gives_what_the_command_gives(small_run, heads, tmp_path, monkeypatch, sansref):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    volume = nibabel.load(heads / "sub-01_T1w.nii.gz")
    voxels = np.asarray(volume.dataobj).copy()
    voxels[..., 0] = 0  # a slice without any signal
    nibabel.save(nibabel.Nifti1Image(voxels, volume.affine), tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec", dont_inherit=True), names)
    images, metas = names["images"], names["metas"]
    assert (images.dtype, tuple(images.shape)) == (torch.float32, (4, 32, 32))
    assert [meta.slice for meta in metas] == [0, 1, 2, 3]
    assert all(Path(meta.source).name == "scan.nii.gz" and meta.spacing == (2.0, 2.0) for meta in metas)
    assert not images[0].any()
    code, _, err = sansref("reconstruct", small_run, "scan.nii.gz", "--out", "images")
    assert code == 0, err
    (written,) = Path("images").glob("*.nii.gz")
    np.testing.assert_allclose(images.numpy(), np.moveaxis(nibabel.load(written).get_fdata(), 2, 0), rtol=1e-5)
    assert float(images.max()) > 100  # the units of the file, int16 up to 900


def test_a_run_and_a_file_may_be_paths(trained, write_knee, tmp_path):
    images, metas = package.load(trained.path).reconstruct(write_knee(tmp_path / "knee.h5"))
    assert (tuple(images.shape), len(metas)) == ((2, 32, 32), 2)


def test_error_maps_are_those_of_the_command(trained, heads, tmp_path, sansref):
    file, out = heads / "sub-01_T1w.nii.gz", tmp_path / "out"
    mapped = package.load(trained.path, accelerator="cpu").error_maps(file, bound=0.8)
    code, _, err = sansref("reconstruct", trained.path, file, "--out", out, "--error_map", "--bound", "0.8")
    assert code == 0, err
    for name in ("error_bound", "contradiction"):
        written = nibabel.load(out / f"sub-01_T1w_{name}_recon.nii.gz").get_fdata()
        np.testing.assert_allclose(getattr(mapped, name).numpy(), np.moveaxis(written, 2, 0), rtol=1e-4, atol=1e-4)
    assert mapped.images.shape == mapped.error_bound.shape == (4, 32, 32)
    record = json.loads((out / "sub-01_T1w_error_maps.json").read_text())["slices"]
    told = [one["psnr_estimated"]["value"] for one in record]
    assert [one.value for one in mapped.psnr] == pytest.approx(told, rel=1e-4)
    assert [len(one) for one in mapped.regions] == [len(one["contradictions"]) for one in record]
    with pytest.raises(SettingError, match="between 0 and 1"):
        package.load(trained.path).error_maps(file, bound=90)


def test_a_slice_without_signal_has_no_estimate(trained, heads, tmp_path):
    volume = nibabel.load(heads / "sub-01_T1w.nii.gz")
    voxels = np.asarray(volume.dataobj).copy()
    voxels[..., 1] = 0
    nibabel.save(nibabel.Nifti1Image(voxels, volume.affine), tmp_path / "scan.nii.gz")
    mapped = package.load(trained.path).error_maps(tmp_path / "scan.nii.gz")
    assert [one is None for one in mapped.psnr] == [False, True, False, False]
    assert not mapped.error_bound[1].any()
    assert mapped.regions[1] == ()


def test_errors_are_those_of_the_command(trained, tmp_path):
    with pytest.raises(FileError, match="is not a run directory"):
        package.load(str(tmp_path))
    with pytest.raises(FileError, match="does not exist"):
        package.load(trained.path).reconstruct("nowhere.nii")
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match="no GPU"):
            package.load(trained.path, accelerator="gpu")


SETTINGS = {"epochs": 1, "network": {"phases": 1, "channels": 2}, "accelerator": "cpu", "threads": 1, "slices": 2}


def test_training_is_that_of_the_command_and_goes_on(heads, tmp_path, sansref):
    model = package.train("ssdu", heads, tmp_path / "python", quiet=True, **SETTINGS)
    words = [
        "--epochs",
        "1",
        "--network.phases",
        "1",
        "--network.channels",
        "2",
        "--accelerator",
        "cpu",
        "--threads",
        "1",
    ]
    code, _, err = sansref("train", "ssdu", "--data", heads, "--out", tmp_path / "command", "--slices", "2", *words)
    assert code == 0, err
    ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("python", "command"))
    assert ours == theirs
    scan = heads / "sub-01_T1w.nii.gz"
    loaded = package.load(tmp_path / "command").reconstruct(scan)
    assert torch.equal(model.reconstruct(scan).images, loaded.images)
    again = package.train("ssdu", heads, tmp_path / "python", quiet=True, **SETTINGS)
    assert repr(again) == f"<ssdu, trained in {tmp_path / 'python'}>"


def test_unpaired_training_shows_its_health(heads, tmp_path):
    small = {"network": {"width": 2, "blocks": 1, "extractor_layers": 3}, "crop": [80, 80], "batch_size": 2}
    package.train("cyclegan", heads, tmp_path / "run", quiet=True, **{**SETTINGS, **small})
    assert (tmp_path / "run" / "health.png").exists()


def test_impossible_settings_are_refused_before_anything_is_written(heads, tmp_path):
    with pytest.raises(SettingError, match=r"did you mean training\.epochs"):
        package.train("ssdu", heads, tmp_path / "run", epoch=3)
    with pytest.raises(SettingError, match="takes no --full"):
        package.train("ssdu", heads, tmp_path / "run", full=heads)
    assert not (tmp_path / "run").exists()


def test_a_file_of_settings_is_refused_with_the_way_to_give_them(heads, tmp_path):
    for call in (partial(package.train, "ssdu", heads), partial(package.zero_shot, "scan.nii")):
        with pytest.raises(SettingError, match="no setting 'config' in Python: give the settings of the file by their"):
            call(tmp_path / "run", config="small-4x")


def test_a_file_is_a_list_of_its_slices(heads, write_knee, tmp_path):
    volume = package.open_file(heads / "sub-01_T1w.nii.gz")
    voxels = np.asarray(nibabel.load(heads / "sub-01_T1w.nii.gz").dataobj)
    assert len(volume) == 4
    assert repr(volume) == "<sub-01_T1w.nii.gz: NIfTI, magnitude, 4 slices of 32 x 32, 2 x 2 mm>"
    np.testing.assert_array_equal(volume[-1].image, voxels[..., 3])
    np.testing.assert_array_equal(volume.image(1), voxels[..., 1])
    assert [one.meta.slice for one in volume] == [0, 1, 2, 3]
    knee = package.open_file(str(write_knee(tmp_path / "knee.h5", every=2, coils=3)))
    assert isinstance(knee[0], package.Scan)
    assert (len(knee), tuple(knee[1].kspace.shape)) == (2, (3, 32, 36))
    assert tuple(knee.image(0).shape) == (32, 32)
    assert "3 coils" in repr(knee)
    for place in (4, -5):
        with pytest.raises(IndexError):
            _ = volume[place]
    assert [one.meta.slice for one in volume[1:3]] == [1, 2]
    assert [one.meta.slice for one in volume[::-2]] == [3, 1]
    assert volume[4:] == []
    with pytest.raises(FileError, match="does not exist"):
        package.open_file("nowhere.h5")


def test_import_is_light_and_knows_its_names():
    heavy = "import sys, sansref; print({'torch', 'numpy'} & {*sys.modules}, {*sansref.__all__} <= {*dir(sansref)})"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "set() True\n"
    assert issubclass(FileError, package.SansrefError)
    assert package.Measurement.__name__ == "Measurement"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing
