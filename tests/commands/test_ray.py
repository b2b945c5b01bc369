"""An archive has the same images whether a Ray cluster makes them or not, and whatever dies on the way."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import h5py
import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import save_file

from sansref.commands.reconstruct import Job, Reconstructed, reconstruct_files
from sansref.errors import FileError, SettingError
from sansref.training.config import RunConfig
from sansref.training.run import RunDirectory

pytest.importorskip("ray.data", reason="needs the extra 'cluster'")
# Ray warns of its own settings, and finds whatever cluster there is on the machine.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.xdist_group("ray"),
]

# Held up in the second file that a process works on.
OWN = """
import os, time
from pathlib import Path
from sansref.methods import SSDU

class Held(SSDU):
    calls = 0

    def reconstruct(self, given):
        self.calls += 1
        while self.calls == 6 and Path(PLACE, "held").exists():
            Path(PLACE, f"waits-{os.getpid()}").touch()
            time.sleep(0.02)
        return super().reconstruct(given)
"""
QUIET = Console(quiet=True)
NETWORK = {"phases": 1, "channels": 2}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDirectory]:
    """A run of a method of the user's, in a module that every process finds."""
    (tmp_path / "own.py").write_text(OWN.replace("PLACE", repr(str(tmp_path))))
    monkeypatch.chdir(tmp_path)
    config = RunConfig.from_values({"method": "own:Held", "network": NETWORK})
    made = RunDirectory(tmp_path / "run", trust_code=True)
    made.start(config, "none")
    save_file(config.build().state_dict(), made.weights)
    made.card.write_text("{}")
    yield made
    sys.modules.pop("own", None)


@pytest.fixture
def archive(tmp_path: Path, write_knee: Callable[..., Path]) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(8):
        write_knee(folder / f"file{number}.h5", seed=number, slices=4, every=2)
    return folder


def images(done: list[Reconstructed]) -> dict[str, Any]:
    found = {}
    for one in done:
        for path in one.written:
            with h5py.File(path) as file:
                found[path.name] = file["reconstruction"][()]
    return found


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(processes: list[int]) -> list[int]:
    return [process for process in processes if Path(f"/proc/{process}/exe").exists()]


def test_each_file_has_its_images_once_though_a_node_dies(run, archive, tmp_path, cluster):
    alone = images(list(reconstruct_files(Job(run, tmp_path / "alone"), [archive], console=QUIET)))
    (archive / "file3.h5").write_bytes(b"damaged")
    (tmp_path / "held").touch()
    (lost,) = cluster.worker_nodes
    survivors: list[int] = []

    def lose() -> None:
        wait_until(lambda: len(list(tmp_path.glob("waits-*"))) == 2)
        waiting = [int(path.name.split("-")[1]) for path in tmp_path.glob("waits-*")]
        cluster.remove_node(lost, allow_graceful=False)
        wait_until(lambda: len(alive(waiting)) == 1)
        survivors.extend(alive(waiting))
        (tmp_path / "held").unlink()

    thread, bad = Thread(target=lose), []
    thread.start()
    job = Job(run, Path("out"))  # from here; nodes have other working directories
    done = list(reconstruct_files(job, [Path("archive")], bad.append, cluster.address, QUIET))
    thread.join()
    assert len(survivors) == 1
    assert survivors != [os.getpid()]
    assert sorted(one.path for one in done) == [Path(f"archive/file{number}.h5") for number in (0, 1, 2, 4, 5, 6, 7)]
    assert [one.written for one in done] == [(Path("out", one.path.name),) for one in done]
    assert [error.path for error in bad] == [Path("archive/file3.h5")]
    found = images(done)
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(
        [*found, "reconstruction.json", "reconstruction.lock"]
    )
    for name, image in found.items():
        np.testing.assert_array_equal(image, alone[name])
    assert not sys.modules["ray"].is_initialized()


def test_what_stops_a_node_is_one_line(run, archive, tmp_path, cluster):
    with pytest.raises(SettingError, match="accelerator 'gpu' cannot be used: the cluster has no GPU"):
        list(reconstruct_files(Job(run, tmp_path / "a", accelerator="gpu"), [archive], None, cluster.address, QUIET))
    (archive / "file0.h5").write_bytes(b"damaged")
    with pytest.raises(FileError, match=re.escape(f"{archive / 'file0.h5'}: is not in a format")):
        list(reconstruct_files(Job(run, tmp_path / "b"), [archive], None, cluster.address, QUIET))
    job = Job(run, tmp_path / "c")
    outcomes = reconstruct_files(job, [archive / "file1.h5"], None, cluster.address, QUIET)
    assert [one.earlier for one in outcomes] == [False]
    again = reconstruct_files(job, [archive / "file1.h5", archive / "file2.h5"], None, cluster.address, QUIET)
    assert {one.path.name: one.earlier for one in again} == {"file1.h5": True, "file2.h5": False}


def test_equal_names_lie_in_folders_like_those_of_their_scans(run, archive, tmp_path, cluster):
    for number, person in enumerate(("P0", "P1")):
        (archive / "people" / person).mkdir(parents=True)
        (archive / f"file{number}.h5").rename(archive / "people" / person / "scan.h5")
    for earlier in (False, True):
        done = reconstruct_files(Job(run, tmp_path / "out"), [archive / "people"], None, cluster.address, QUIET)
        found = {one.written[0].relative_to(tmp_path / "out").as_posix(): one.earlier for one in done}
        assert found == {"P0/scan.h5": earlier, "P1/scan.h5": earlier}


def test_ray_data_is_missed_by_name(run, archive, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=re.escape("Ray is not installed: pip install 'ray[data]'")):
        list(reconstruct_files(Job(run, tmp_path / "out"), [archive], None, "local", QUIET))
