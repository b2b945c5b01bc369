"""The commands of the how-to pages work, on small files of the names that the pages use."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from sansref.data.simulate import Sampling, Simulation, example_image, simulate
from sansref.data.slices import Slices, resized_image
from sansref.randomness import seeded
from sansref.scan import ScanMeta

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
tutorials = SimpleNamespace(**run_path(str(ROOT / "tools" / "tutorials.py"), run_name="tutorials"))
SMALL = ["--network.phases", "1", "--network.channels", "2", "--threads", "1"]
#: What is added to the commands of the pages, so that a training is quick.
QUICK = {
    "train": ["--epochs", "1", *SMALL],
    "zeroshot": ["--minutes", "null", "--epochs", "1", "--stages", "1", "--start", "none", *SMALL],
}


def coils(seed: int = 0) -> Any:
    """K-space (coils, rows, columns) of a small head, undersampled, complex64."""
    image = resized_image(example_image(), Slices(matrix=(48, 48))).clamp(min=0)
    full = simulate(image, Simulation(snr=50, coils=3), seeded(seed), ScanMeta("head", "head.npy", 0))
    return Sampling(acceleration=2, center=0.25).undersample(full, seeded(seed)).kspace.numpy()


def nifti(work: Path, request: Any) -> None:
    request.getfixturevalue("write_heads")(work / "scans", slices=2)


def mask(work: Path, request: Any) -> None:
    nifti(work, request)
    acquired = np.random.default_rng(0).random((32, 32)) < 0.3
    acquired[12:20, 12:20] = True
    np.save(work / "mask.npy", acquired)


def dicom(work: Path, request: Any) -> None:
    files = request.getfixturevalue("dicom")
    for number in range(1, 7):
        folder = work / "patients" / f"P{number:02d}"
        folder.mkdir(parents=True)
        changes = {"PatientID": f"P{number:02d}", "StudyInstanceUID": f"1.2.{number}"}
        files.save(folder, files.series(files.volume((3, 32, 32), seed=number), **changes))


def ismrmrd(work: Path, request: Any) -> None:
    request.getfixturevalue("generated")(work / "scan.h5", "-m", 48, "-c", 4, "-a", 2, "-w", 12)


def fastmri(work: Path, request: Any) -> None:
    write = request.getfixturevalue("write_knee")
    (work / "knees").mkdir()
    for number in range(6):
        write(work / "knees" / f"file{number}.h5", seed=number)
    write(work / "knee.h5", seed=9)


def bart(work: Path, _: Any) -> None:
    samples = coils().transpose(1, 2, 0)[:, :, None]  # READ, PHS1, PHS2, COIL
    (work / "scan.hdr").write_text("# Dimensions\n48 48 1 3\n")
    (work / "scan.cfl").write_bytes(samples.astype(np.complex64).tobytes(order="F"))


def arrays(work: Path, _: Any) -> None:
    np.save(work / "scan.npy", coils())
    savemat(work / "scan.mat", {"kspace": coils().transpose(1, 2, 0), "TE": 80.0})


def coil_maps(work: Path, _: Any) -> None:
    np.save(work / "scan.npy", coils())
    rows, columns = np.mgrid[-1:1:48j, -1:1:48j]
    angles = 2 * np.pi * np.arange(3)[:, None, None] / 3
    maps = np.exp(-((rows - np.sin(angles)) ** 2) - (columns - np.cos(angles)) ** 2 + 1j * angles)
    np.save(work / "maps.npy", maps.astype(np.complex64))


def no_patient_ids(work: Path, _: Any) -> None:
    (work / "scans").mkdir()
    for number in range(5):
        np.save(work / "scans" / f"scan{number}.npy", coils(number))


MADE: dict[str, Callable[[Path, Any], None]] = {
    one.__name__.replace("_", "-"): one
    for one in (nifti, mask, dicom, ismrmrd, fastmri, bart, arrays, coil_maps, no_patient_ids)
}
MADE |= dict.fromkeys(("two-cores", "gpu", "resume", "out-of-memory"), nifti)
#: A raw file of Siemens cannot be made here; tests/data/readers/test_twix.py reads what stands for one.
LEFT_OUT = {"index", "twix"}


def test_every_page_is_tried() -> None:
    assert {page.stem for page in (ROOT / "docs" / "howto").glob("*.md")} == MADE.keys() | LEFT_OUT


@pytest.mark.parametrize("page", MADE)
def test_its_commands_work(
    page: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sansref: Any
) -> None:
    text = (ROOT / "docs" / "howto" / f"{page}.md").read_text(encoding="utf-8")
    assert text.splitlines()[2] == "```sh", "a page begins with its command"
    MADE[page](tmp_path, request)
    monkeypatch.chdir(tmp_path)
    for line in (line for language, code in tutorials.blocks(text) if language == "sh" for line in code.splitlines()):
        program, *words = shlex.split(line, comments=True)
        if program == "python":
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            continue
        assert program == "sansref"
        stages = ["--stages", "1"] if words[:2] == ["train", "idr"] else []
        code, _, said = sansref(*words, *stages, *QUICK.get(words[0], []))
        assert code == 0, f"{line}: {said}"
