"""A disk without room: one line, exit code 2, what was finished whole, nothing half written, no crash."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from rich.console import Console

from sansref.cli import main
from sansref.commands.reconstruct import Job, reconstruct_files
from sansref.data.scan_store import store_scans
from sansref.errors import FileError
from sansref.files import unrefused
from sansref.outputs.writers import fastmri_slices, nifti_slices, png_slices
from sansref.results.figures import build_stage_figure, save_figure
from sansref.results.scores import ScoredSlice, write_scores
from sansref.results.viewer.contents import Contents, ViewerSlice
from sansref.results.viewer.page import write_page
from sansref.scan import Scan, ScanMeta

SHAPE = (6, 40, 48)
VOLUME = np.random.default_rng(0).uniform(1, 900, SHAPE).astype(np.float32)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs limits of Linux")]


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The system refuses to write more than so many bytes into any file of this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def put_all(writer: Any) -> None:
    with writer as put:
        for index, image in enumerate(VOLUME):
            put(index, image)


def store(folder: Path) -> None:
    kspace = torch.ones(1, 64, 64, dtype=torch.complex64)
    scan = Scan(kspace, torch.ones(64, 64, dtype=torch.bool), ScanMeta("a", "a.h5"), reference=kspace[0])
    store_scans([scan] * 3, folder, references=True)


def page(path: Path) -> None:
    write_page(path, Contents("t", "n", slices=[ViewerSlice("a", 1, "4x", VOLUME[0], {"b": VOLUME[1]})]))


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.nii": lambda path: put_all(nifti_slices(path, SHAPE)),
    "a.nii.gz": lambda path: put_all(nifti_slices(path, SHAPE)),
    "a.h5": lambda path: put_all(fastmri_slices(path, SHAPE)),
    "a_png": lambda path: put_all(png_slices(path)),
    "prepared": store,
    "report.html": page,
    "scores.csv": lambda path: write_scores(path, [ScoredSlice("a", 4, 0, 0, "b", 1)] * 100),
    "stages.png": lambda path: save_figure(build_stage_figure({"a": [1, 2]}), path),
    "stages.svg": lambda path: save_figure(build_stage_figure({"a": [1, 2]}), path),
}


@pytest.mark.parametrize("size", [0, 100, 1000])
@pytest.mark.parametrize("name", WRITERS)
def test_what_cannot_be_written_is_not_there(tmp_path: Path, name: str, size: int) -> None:
    WRITERS[name](tmp_path / name)
    before = (tmp_path / name).stat().st_ino
    if (tmp_path / name).is_dir():
        shutil.rmtree(tmp_path / name)
    with (
        no_file_above(size),
        pytest.raises(FileError, match=r"cannot be written \(File too large\).*free space") as caught,
    ):
        WRITERS[name](tmp_path / name)
    assert name in str(caught.value)
    left = list(tmp_path.iterdir())
    assert all(path.name == name and path.stat().st_ino == before for path in left)


@pytest.mark.parametrize("name", ["hdf5", "mrd"])
def test_hdf5_may_fail_anywhere(trained: Any, heads: Path, tmp_path: Path, name: str) -> None:
    """At each stage of a file: its head, its slices, what the library still has to write when it closes."""
    source, job = heads / "sub-01_T1w.nii.gz", Job(trained, tmp_path / "whole", (name,))
    (whole,) = reconstruct_files(job, [source], console=Console(quiet=True))
    size = whole.written[0].stat().st_size
    for part in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99):
        out = tmp_path / f"{part}"
        with no_file_above(int(part * size)), pytest.raises(FileError, match="File too large"):
            list(reconstruct_files(Job(trained, out, (name,)), [source], console=Console(quiet=True)))
        assert {path.name for path in out.iterdir()} == {"reconstruction.json", "reconstruction.lock"}


def test_an_interrupt_does_not_reach_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), unrefused(tmp_path / "a") as target:
        monkeypatch.setattr(target, "_file", type("File", (), {"write": interrupted, "truncate": interrupted})())
        assert target.write(b"abc") == 3
        target.truncate(7)


# A disk of its own, in a process of its own, which may crash


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many kilobytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(kilobytes: int) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("needs the right to mount a disk")
        return folder

    yield mounted
    subprocess.run(["umount", str(folder)], capture_output=True)


def command(*words: object) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-c", "from sansref.cli import main; main()"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*start, *map(str, words)], capture_output=True, text=True, env=environment)


def fill(folder: Path, left: int) -> None:
    """Leave so many bytes."""
    state = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - left)))


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("big")
    for name in ("sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz"):
        volume = np.random.default_rng(0).uniform(1, 900, (96, 96, 8)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / name)
    return folder


@pytest.mark.parametrize(("name", "left"), [("hdf5", 400_000), ("mrd", 740_000), ("dicom", 500_000)])
def test_finished_images_stay_and_nothing_else(
    trained: Any, big: Path, disk: Any, tmp_path: Path, name: str, left: int
) -> None:
    place = disk(4096)
    fill(place, left)
    found = command("reconstruct", trained.path, big, "--out", place / "out", "--format", name)
    assert found.returncode == 2, found.stderr
    assert found.stderr.count("\n") == 1
    assert "No space left on device" in found.stderr
    assert not list(place.rglob(".part-*"))
    (place / "filler").unlink()
    for out in (place / "out", tmp_path / "whole"):
        list(reconstruct_files(Job(trained, out, (name,)), [big], console=Console(quiet=True)))
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file() and path.stem != "reconstruction":
            assert (place / "out" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("left", [20_000, 130_000, 300_000])
def test_training_stops_with_one_line(heads: Path, disk: Any, left: int) -> None:
    place = disk(4096)
    fill(place, left)
    words = ["--data", heads, "--out", place / "run", "--epochs", 2, "--network.phases", 1, "--network.channels", 4]
    found = command("train", "ssdu", *words)
    assert found.returncode == 2, found.stderr
    assert [line for line in found.stderr.splitlines() if " epoch " not in line] == [found.stderr.splitlines()[-1]]
    assert "No space left on device" in found.stderr
    assert not (place / "run" / "model.safetensors").exists()


def test_what_is_printed_may_have_no_place_either(heads: Path) -> None:
    with Path("/dev/full").open("w") as full:
        start = [sys.executable, "-c", "from sansref.cli import main; main()", "info", heads / "sub-01_T1w.nii.gz"]
        found = subprocess.run(start, stdout=full, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["info", "x" * 256], ["info", "y/" * 2500]])
def test_paths_that_cannot_be_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "too long" in said
