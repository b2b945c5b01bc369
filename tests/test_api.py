"""A trained run in Python gives what the command gives."""

from __future__ import annotations

import re
import subprocess
import sys
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


def test_errors_are_those_of_the_command(trained, tmp_path):
    with pytest.raises(FileError, match="is not a run directory"):
        package.load(str(tmp_path))
    with pytest.raises(FileError, match="does not exist"):
        package.load(trained.path).reconstruct("nowhere.nii")
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match="no GPU"):
            package.load(trained.path, accelerator="gpu")


def test_import_is_light_and_knows_its_names():
    heavy = "import sys, sansref; print('torch' in sys.modules, 'load' in sansref.__all__)"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing
