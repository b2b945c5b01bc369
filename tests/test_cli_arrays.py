"""Arrays from their file to their image: the words that say what they are go from the command line into the run."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from scipy.io import savemat

from sansref.data.scan_store import PreparedScans
from sansref.kspace.coils import birdcage_maps

pytestmark = pytest.mark.slow

SMALL = ["--network.phases", "2", "--network.channels", "4", "--epochs", "1", "--threads", "1", "--accelerator", "cpu"]


def scan(slices: int, size: int, seed: int):
    """K-space of noisy boxes, (slices, rows, columns)."""
    generator = np.random.default_rng(seed)
    image = generator.normal(0, 0.01, (slices, size, size)) + 0j
    for piece in image:
        top, left, height, width = generator.integers(size // 4, size // 3, 4)
        piece[top : top + height, left : left + width] += 1
    axes = (1, 2)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes), norm="ortho"), axes).astype(np.complex64)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        kspace = scan(2, 32, number)
        np.save(folder / f"subject{number}.npy", kspace)
    return folder


def test_axes_and_array_go_into_the_run(sansref, data, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    code, _, err = sansref("train", "ssdu", "--data", data, "--out", run, *SMALL)
    assert code == 2
    assert "subject0.npy: holds k-space of shape 2x32x32 whose axes have no names. Name them, for" in err
    code, _, err = sansref("train", "ssdu", "--data", data, "--out", run, "--axes", "slice,row,column", *SMALL)
    assert code == 0, err
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["axes"] == "slice,row,column"
    code, _, err = sansref("reconstruct", run, data / "subject0.npy", "--out", out)
    assert code == 0, err
    with h5py.File(out / "subject0.h5") as file:
        assert file["reconstruction"].shape == (2, 32, 32)


def test_info_takes_the_same_words(sansref, tmp_path):
    path = tmp_path / "a.mat"
    savemat(path, {"ksp": np.moveaxis(scan(2, 32, 0), 0, 2), "other": np.ones((4, 4), np.complex64)})
    code, out, err = sansref("info", path, "--array", "ksp", "--axes", "row,column,slice")
    assert code == 0, err
    assert "MATLAB 5, k-space" in out
    assert "32 x 32, 2 slices, 1 coil(s)" in out
    assert "are read as row,column,slice (--axes names them otherwise)" in out
    code, _, err = sansref("info", path, "--axes", "row,columns")
    assert (code, err.count("\n")) == (2, 1)
    assert "'columns' is not an axis" in err


def coil_scan(maps, seed):
    """K-space of a noisy box through coils, (coils, rows, columns)."""
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(scan(1, 32, seed)[0]), norm="ortho"))
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(maps * image, (1, 2)), norm="ortho"), (1, 2))


def test_supplied_maps_from_training_to_images(sansref, tmp_path, monkeypatch):
    """Without any center that maps could be estimated from; those of the training are never taken for other scans."""
    maps, data = birdcage_maps((32, 32), 4).numpy(), tmp_path / "data"
    sampled = np.random.default_rng(0).random((32, 32)) < 0.6
    sampled[15:17, 15:17] = True
    (tmp_path / "maps").mkdir()
    data.mkdir()
    for number in range(3):
        turned = maps * np.exp(1j * number)
        np.save(data / f"subject{number}.npy", (coil_scan(turned, number) * sampled).astype(np.complex64))
        np.save(tmp_path / "maps" / f"subject{number}.npy", 3 * turned)
    monkeypatch.chdir(tmp_path)
    run, axes = tmp_path / "run", ["--axes", "coil,row,column"]
    command = ["train", "ssdu", "--data", data, "--out", run, *axes, *SMALL]
    code, _, err = sansref(*command)
    assert code == 2
    assert "too small for coil maps" in err
    assert "--maps" in err
    code, _, err = sansref(*command, "--maps", "maps")
    assert code == 0, err
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["maps"] == str(tmp_path / "maps")
    held = PreparedScans(run / "data" / "training")[0]
    assert np.allclose(np.abs(held.maps.numpy()), np.abs(maps), atol=1e-5)
    one, out = data / "subject0.npy", tmp_path / "out"
    code, _, err = sansref("reconstruct", run, one, "--out", out)
    assert code == 2
    assert "too small for coil maps" in err
    code, printed, err = sansref("reconstruct", run, one, "--out", out, "--maps", "maps")
    assert code == 0, err
    assert printed.count("axes of the array are read as coil,row,column, as in the run's training data") == 1
    code, printed, err = sansref("reconstruct", run, one, "--out", tmp_path / "told", "--maps", "maps", *axes)
    assert (code, "axes of the array" in printed) == (0, False), err
    first = (out / "subject0.h5").read_bytes()
    # Other maps are another reconstruction.
    np.save(tmp_path / "maps" / "subject0.npy", np.roll(maps, 1, 0))
    code, printed, err = sansref("reconstruct", run, one, "--out", out, "--maps", "maps")
    assert code == 0, err
    assert "had been reconstructed before" not in printed
    assert (out / "subject0.h5").read_bytes() != first
    code, _, err = sansref("evaluate", run, "--data", data, "--subjects", "all")
    assert code == 2
    assert "too small for coil maps" in err
    code, printed, err = sansref("evaluate", run, "--data", data, "--subjects", "all", "--maps", tmp_path / "maps")
    assert code == 0, err
    code, printed, err = sansref("info", one, *axes, "--maps", "maps")
    assert code == 0, err
    assert "supplied" in printed
    assert f"Coil maps are those of {Path('maps') / 'subject0.npy'}" in printed
