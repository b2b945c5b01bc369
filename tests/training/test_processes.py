"""Several processes that train together do what one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from sansref.data.store import ArrayStore, ArrayWriter, join
from sansref.errors import SettingError
from sansref.training.batches import ShapeBatches
from sansref.training.history import read_history
from sansref.training.processes import Processes

SETTINGS = [
    # 10 training scans in batches of 3 and a last of 1: two processes cannot share them evenly.
    *("--stages", "2", "--epochs", "2", "--batch_size", "3", "--threads", "1", "--accelerator", "cpu"),
    # Not the identity, at which most gradients are zero but for rounding.
    *("--network.phases", "2", "--network.channels", "4", "--network.init", "xavier", "--slices", "3"),
]
ALONE = [sys.executable, "-m", "sansref"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "sansref"]

# A process that waits for a signal from outside once a file is there; run as a file, which its twin runs too.
WAITING = """
import pathlib, sys, time
from sansref.cli import main
from sansref.training.history import ResumePoint
original, awaited = ResumePoint.on_train_epoch_end, pathlib.Path({awaited!r})

def waiting(*arguments):
    original(*arguments)
    if awaited.exists():
        time.sleep(240)

ResumePoint.on_train_epoch_end = waiting
main(sys.argv[1:])
"""


def command(data: Path, out: Path, *more: str, method: str = "idr") -> list[str]:
    return ["train", method, "--data", str(data), "--out", str(out), *SETTINGS, *more]


def play(words: list[str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PYTEST_"))}
    return subprocess.run(words, env=clean, capture_output=True, text=True, timeout=240)


def assert_close(run: Path, other: Path) -> None:
    """The same but for float32 sums in another order: 2e-6 of a weight's norm were found."""
    ours, theirs = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    # The first gradient step of one coil starts where the data are met: its size has no effect, and Adam makes steps of
    # full size of a gradient that is rounding alone.
    del ours["network.network.phases.0.step"]
    # A constant added to the image is its sample at DC, which is always given, and then imposed.
    del ours["network.network.phases.1.project.bias"]
    for name, weight in ours.items():
        error = (weight - theirs[name]).norm() / weight.norm().clamp_min(1e-2)
        assert float(error) < 1e-5, name
    for row, twin in zip(read_history(run / "metrics.csv"), read_history(other / "metrics.csv"), strict=True):
        for name in ("loss", "score"):
            assert float(row[name]) == pytest.approx(float(twin[name]), rel=1e-4)


@pytest.fixture(scope="module")
def heads(write_heads, tmp_path_factory) -> Path:
    return write_heads(tmp_path_factory.mktemp("heads"), subjects=6)


@pytest.fixture(scope="module")
def one(heads, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("one") / "run"
    assert play([*ALONE, *command(heads, run)]).returncode == 0
    return run


@pytest.fixture(scope="module")
def two(heads, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    done = play([*ALONE, *command(heads, run, "--devices", "2")])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained:") == 1
    assert done.stderr.count("epoch 1/2") == 2  # one line per stage, from one process
    return run


def test_two_processes_give_the_result_of_one(one, two):
    assert_close(two, one)


def test_they_leave_the_files_of_one(one, two):
    names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (one, two)]
    assert names[0] == names[1]
    assert len((one / "log.txt").read_text().splitlines()) == len((two / "log.txt").read_text().splitlines())


def test_torchrun_starts_them_too(heads, tmp_path, two):
    done = play([*TORCHRUN, *command(heads, tmp_path / "run", "--devices", "2")])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_torchrun_without_devices_is_refused(heads, tmp_path):
    done = play([*TORCHRUN, *command(heads, tmp_path / "run")])
    assert done.returncode != 0
    assert "sansref: this is one of 2 processes, but --devices 1 x --num_nodes 1 asks for 1" in done.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch_size", "1"), "sansref: a batch of 1 is too small for 2 processes"),
        (("--validation", "0.99"), "sansref: "),
    ],
)
def test_an_error_is_one_line_and_ends_all(heads, tmp_path, more, message):
    done = play([*ALONE, *command(heads, tmp_path / "run", "--devices", "2", *more)])
    assert done.returncode == 2
    assert done.stderr.count("sansref: ") == 1, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_all_killed_and_started_again_they_end_the_same(heads, tmp_path, two):
    run, program = tmp_path / "run", tmp_path / "slow.py"
    last = run / "stages" / "01" / "last.ckpt"
    program.write_text(WAITING.format(awaited=str(last)))
    words = command(heads, run, "--devices", "2")
    child = subprocess.Popen([sys.executable, program, *words], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while not last.exists():
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not (run / "model.json").exists()
    assert play([*ALONE, *words]).returncode == 0
    assert (run / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_the_mean_of_the_weights_is_that_of_one_process(heads, tmp_path):
    for name, devices in (("one", "1"), ("two", "2")):
        words = command(heads, tmp_path / name, "--average_from", "0.5", "--devices", devices, "--stages", "1")
        done = play([*ALONE, *words])
        assert done.returncode == 0, done.stderr
    assert_close(tmp_path / "two", tmp_path / "one")


def test_alternating_updates_train_together(heads, tmp_path):
    words = [*("train", "switchable", "--data", str(heads), "--out", str(tmp_path / "run"), "--crop", "[80,80]")]
    words += ["--network.width", "2", "--network.blocks", "1", "--network.extractor_layers", "3", "--epochs", "1"]
    words += ["--batch_size", "2", "--devices", "2", "--threads", "1", "--accelerator", "cpu", "--slices", "2"]
    done = play([*ALONE, *words])
    assert done.returncode == 0, done.stderr
    assert all(weight.isfinite().all() for weight in load_file(tmp_path / "run" / "model.safetensors").values())


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=3).filter(any),
    batch=st.integers(2, 6),
    processes=st.integers(2, 3),
    seed=st.integers(0, 9),
)
def test_processes_share_out_every_batch(sizes, batch, processes, seed):
    batch = max(batch, processes)
    shapes = [(8, 8 + kind) for kind, size in enumerate(sizes) for _ in range(size)]
    parts = [ShapeBatches(shapes, batch, seed, rank, processes) for rank in range(processes)]
    whole = list(ShapeBatches(shapes, batch, seed))
    values = torch.randn(len(shapes), dtype=torch.float64)
    met: list[int] = []
    for together, *given_out in zip(whole, *parts, strict=True):
        position = whole.index(together)
        shares = [part.shares()[position] for part in parts]
        met += [item for own, share in zip(given_out, shares, strict=True) if share for item in own]
        means = [share * float(values[own].mean()) for own, share in zip(given_out, shares, strict=True)]
        assert sum(means) / processes == pytest.approx(float(values[together].mean()))
    assert sorted(met) == list(range(len(shapes)))


def test_a_batch_needs_an_item_for_every_process():
    with pytest.raises(SettingError, match="a batch of 2 is too small for 3 processes"):
        ShapeBatches([(8, 8)] * 6, 2, 0, 0, 3)


class Link:
    """What the leader has said, in the place of a connection."""

    def __init__(self, rank: int, said: bool = True) -> None:
        self.global_rank, self.world_size, self.said = rank, 2, said

    def broadcast(self, value: bool) -> bool:
        if self.global_rank == 0:
            self.said = value
        return self.said


def test_what_is_the_leaders_alone_no_other_does():
    done: list[int] = []
    for rank in (0, 1):
        Processes(Link(rank)).by_leader(lambda rank=rank: done.append(rank))
    assert done == [0]


def test_what_the_leader_does_first_all_do():
    assert [Processes(Link(rank)).leader_first(lambda rank=rank: rank) for rank in (0, 1)] == [0, 1]
    assert Processes().leader_first(lambda: "alone") == "alone"


@pytest.mark.parametrize("way", ["by_leader", "leader_first"])
def test_where_the_leader_fails_the_others_leave_without_doing_it(way):
    def failing() -> None:
        raise SettingError("impossible")

    link = Link(0)
    with pytest.raises(SettingError, match="impossible"):
        getattr(Processes(link), way)(failing)
    assert link.said is False
    with pytest.raises(SystemExit) as left:
        getattr(Processes(Link(1, said=False)), way)(lambda: pytest.fail("done by another"))
    assert left.value.code == 2


@given(count=st.integers(0, 20), processes=st.integers(1, 5))
def test_shards_are_all_items_in_order(count, processes):
    found = []
    for rank in range(processes):
        process = Processes()
        process.rank, process.count = rank, processes
        found += process.shard(count)
    assert found == list(range(count))


def test_collections_are_joined_in_order(tmp_path):
    arrays = [torch.randn(index, 3).to(torch.complex64) for index in range(5)]
    for name, part in (("a", arrays[:2]), ("b", []), ("c", arrays[2:])):
        with ArrayWriter(tmp_path / name, "complex64") as writer:
            for array in part:
                writer.append(array)
    (tmp_path / "whole").mkdir()
    join([tmp_path / name for name in "abc"], tmp_path / "whole")
    store = ArrayStore(tmp_path / "whole")
    assert len(store) == 5
    assert all(torch.equal(store[index], array) for index, array in enumerate(arrays))
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
