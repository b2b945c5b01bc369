"""Small scans in the layouts of real files, and runs small enough for a test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import torch
from hypothesis import settings
from rich.console import Console

from helpers import dicom_files, raw_files
from sansref.cli import main
from sansref.data.simulate import Sampling, Simulation, simulate
from sansref.methods.registry import METHODS
from sansref.networks import NetworkOptions, TranslatorOptions
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta
from sansref.training.config import RunConfig
from sansref.training.run import RunDirectory
from sansref.training.train import train

# A busy machine holds up an example for longer than Hypothesis' 200 ms.
settings.register_profile("tests", settings(), deadline=None)
settings.load_profile("tests")

NETWORKS = {
    NetworkOptions: NetworkOptions(phases=2, channels=4),
    TranslatorOptions: TranslatorOptions(width=2, blocks=1, extractor_layers=3),
}
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -20], [0, 0, 5, 7], [0, 0, 0, 1]])
HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{rows}</x><y>{columns}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>280</x><y>160</y><z>4.5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{crop}</x><y>{crop}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>140</x><y>140</y><z>4.5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum>
<center>{center}</center></kspace_encoding_step_1></encodingLimits></encoding></ismrmrdHeader>"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests of readers first: training keeps freed memory, which a child that is to run out of it would use."""
    items.sort(key=lambda item: "tests/data/readers/" not in item.path.as_posix())


def blobs(seed: int, height: int = 32, width: int = 32) -> Any:
    """A smooth magnitude image in [0, 1], float64 (height, width)."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image = np.zeros((height, width))
    for _ in range(5):
        (row, column), size = generator.uniform(-0.5, 0.5, 2), generator.uniform(0.1, 0.4)
        image += generator.uniform(0.3, 1) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / size**2)
    return image / image.max()


def _write_heads(folder: Path, subjects: int = 6, slices: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for subject in range(1, subjects + 1):
        volume = np.stack([blobs(10 * subject + index) for index in range(slices)], axis=-1)
        image = nibabel.Nifti1Image((900 * volume).astype(np.int16), AFFINE)
        nibabel.save(image, folder / f"sub-{subject:02d}_T1w.nii.gz")
    return folder


def _write_knee(path: Path, seed: int = 0, slices: int = 2, every: int = 1, coils: int = 0) -> Path:
    rows, columns, crop = 64, 36, 32
    images = np.stack([blobs(seed + index, rows, columns) for index in range(slices)])
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    noise = np.random.default_rng(seed).normal(size=(*kspace.shape, 2)).view(np.complex128)[..., 0]
    kspace = 1e-4 * (kspace + 0.01 * noise)
    mask = np.zeros(columns, dtype=np.int8)
    mask[::every] = 1
    mask[columns // 2 - 3 : columns // 2 + 3] = 1
    if coils:
        kspace = np.stack([kspace] * coils, axis=1)
    with h5py.File(path, "w") as file:
        file["kspace"] = (kspace * mask).astype(np.complex64)
        header = HEADER.format(rows=rows, columns=columns, crop=crop, last=columns - 1, center=columns // 2)
        file["ismrmrd_header"] = header
        if every > 1:
            file["mask"] = mask
        file.attrs.update({"acquisition": "CORPD_FBK", "patient_id": f"knee{seed}"})
    return path


@pytest.fixture(scope="session")
def write_heads() -> Callable[..., Path]:
    """Fill a folder with ``sub-01_T1w.nii.gz`` ...: magnitudes 32 x 32 in 4 slices."""
    return _write_heads


@pytest.fixture(scope="session")
def write_knee() -> Callable[..., Path]:
    """Write fastMRI's single-coil layout: 64 rows (2x oversampled), 36 columns, images 32 x 32."""
    return _write_knee


@pytest.fixture(scope="session")
def generated() -> Callable[..., Path]:
    """Makes an MRD file by the reference generator of the format: ``generated(path, "-m", 64, "-a", 4)``."""
    tool = shutil.which("ismrmrd_generate_cartesian_shepp_logan")
    if tool is None:
        pytest.skip("the Debian package ismrmrd-tools is not installed")

    def make(path: Path, *options: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([tool, "-o", str(path), *map(str, options)], check=True, capture_output=True)
        return path

    return make


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six heads; tests do not change it."""
    return _write_heads(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="session")
def make_scans() -> Callable[..., list[Scan]]:
    """Undersampled scans with references, scaled; one per shape."""

    def make(*shapes: tuple[int, int], snr: float | None = 50.0, acceleration: float = 4.0) -> list[Scan]:
        scans = []
        for index, shape in enumerate(shapes):
            image = torch.from_numpy(blobs(index, *shape)).float()
            meta = ScanMeta(subject=f"s{index}", source=f"s{index}.nii", slice=0)
            full = simulate(image, Simulation(snr=snr), seeded(index, "scan"), meta)
            scans.append(Sampling(acceleration=acceleration).undersample(full, seeded(0)))
        return scans

    return make


@pytest.fixture(scope="session")
def tiny() -> Callable[..., RunConfig]:
    """Configuration of a run of seconds: ``tiny("idr", stages=2, epochs=1)``; options go where they belong.

    Methods with a discriminator get images of 80 x 80, the heads with a black frame: it takes no smaller ones.
    """

    def make(method: str = "idr", network: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
        kind = METHODS[method]
        config = RunConfig(method, kind.options_type(), NETWORKS[kind.network_type])
        given: dict[str, Any] = {"batch_size": 4, **kind.defaults, "training.epochs": 2, "threads": 1}
        given |= {"stages": 2} if method == "idr" else {}
        given |= {"crop": [80, 80]} if kind.network_type is TranslatorOptions else {}
        return config.changed(**given, accelerator="cpu").changed(**changes, network=network or {})

    return make


@pytest.fixture(scope="session")
def trained(tiny: Callable[..., RunConfig], heads: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run of IDR on the heads, two subjects set aside; tests do not change it."""
    config = tiny("idr", epochs=5, batch_size=2, learning_rate=0.005, validation=0.2, test=0.3)
    return train(config, heads, tmp_path_factory.mktemp("runs") / "run", console=Console(quiet=True)).run


@pytest.fixture
def sansref(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line and return its exit code and what it wrote."""

    def run(*words: object) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as left:
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def dicom() -> Any:
    """Makers of DICOM series."""
    return dicom_files


@pytest.fixture(scope="session")
def mrd() -> Any:
    """Makers of raw data."""
    return raw_files
