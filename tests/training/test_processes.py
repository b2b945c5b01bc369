"""Several processes that train together do what one does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from helpers.forks import fork
from sansref.cli import main
from sansref.data.scan_store import ArrayStore, ArrayWriter, join
from sansref.errors import SettingError, TrainingError
from sansref.kspace.masks.family import MaskFamily
from sansref.methods.idr import IDR
from sansref.training.batches import ShapeBatches, ValidationSet
from sansref.training.config import MachineOptions
from sansref.training.history import read_history
from sansref.training.loop import Loop, _shared_out
from sansref.training.processes import Processes, alone, together

pytestmark = pytest.mark.slow

SETTINGS = [
    # 10 training scans in batches of 3 and a last of 1: two processes cannot share them evenly.
    *("--stages", "2", "--epochs", "2", "--batch_size", "3", "--threads", "1", "--accelerator", "cpu"),
    # Not the identity, at which most gradients are zero but for rounding.
    *("--network.phases", "2", "--network.channels", "4", "--network.init", "xavier", "--slices", "3"),
]
ALONE = [sys.executable, "-m", "sansref"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "sansref"]

# A process that waits for a signal from outside once a file is there; run as a file, which its twin runs too. Only the
# leader waits: the other one is held up in its next exchange.
WAITING = """
import pathlib, signal, sys, time
from sansref.cli import main
from sansref.training.loop import Loop, _shared_out
original, awaited = Loop.save, pathlib.Path({awaited!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it

def waiting(*arguments):
    original(*arguments)
    if awaited.exists():
        time.sleep(240)

Loop.save = waiting
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
    assert "sansref: 2 processes were started, but --devices 1 x --num_nodes 1 asks for 1" in done.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()


@contextlib.contextmanager
def held_up(tmp_path: Path, heads: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Two processes of a session of their own, the leader asleep after the first epoch of the second stage."""
    run, program = tmp_path / "run", tmp_path / "slow.py"
    last = run / "stages" / "01" / "last.ckpt"
    program.write_text(WAITING.format(awaited=str(last)))
    words = command(heads, run, "--devices", "2")
    child = subprocess.Popen(
        [sys.executable, program, *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 240
        while not last.exists():
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.05)
        yield child, words
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def test_all_killed_and_started_again_they_end_the_same(heads, tmp_path, two):
    with held_up(tmp_path, heads) as (child, words):
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "run" / "model.json").exists()
    assert play([*ALONE, *words]).returncode == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to", [os.kill, os.killpg])
def test_a_signal_ends_all_at_once_and_they_go_on(heads, tmp_path, two, number, to):
    """As Ctrl-C or a job scheduler sends it to everybody, or somebody to the process that was started."""
    with held_up(tmp_path, heads) as (child, words):
        begun = time.monotonic()
        to(child.pid, number)
        _, said = child.communicate(timeout=60)
        assert time.monotonic() - begun < 30
        assert child.returncode == 128 + number
        with pytest.raises(ProcessLookupError):
            os.killpg(child.pid, 0)  # nobody of the session is left
    lines = [line for line in said.splitlines() if not line.startswith("IDR stage ")]
    assert lines == (["sansref: stopped; the same command goes on where it was"] if number == signal.SIGINT else [])
    assert not [path for path in (tmp_path / "run").rglob(".part-*") if path.is_file()]
    if (number, to) == (signal.SIGTERM, os.kill):
        assert play([*ALONE, *words]).returncode == 0
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


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
    for batch_of_all, *given_out in zip(whole, *parts, strict=True):
        position = whole.index(batch_of_all)
        shares = [part.shares()[position] for part in parts]
        met += [item for own, share in zip(given_out, shares, strict=True) if share for item in own]
        means = [share * float(values[own].mean()) for own, share in zip(given_out, shares, strict=True)]
        assert sum(means) / processes == pytest.approx(float(values[batch_of_all].mean()))
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


ONE = MachineOptions(accelerator="cpu")


def test_what_is_the_leaders_alone_no_other_does():
    done: list[int] = []
    for rank in (0, 1):
        Processes(Link(rank)).by_leader(lambda rank=rank: done.append(rank))
    assert done == [0]


def test_what_the_leader_does_first_all_do():
    assert [Processes(Link(rank)).leader_first(lambda rank=rank: rank) for rank in (0, 1)] == [0, 1]
    assert alone(ONE).leader_first(lambda: "alone") == "alone"


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
        process = alone(ONE)
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


# --- two processes as torchrun starts them, but forked, which spares the imports ---------------------------------

TWO = MachineOptions(devices=2, accelerator="cpu", threads=1)


def pair(folder: Path, task: Callable[[int], object]) -> list[tuple[int, str]]:
    """Let two processes do a task, which is told the rank; the exit code of each, and what it has said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    world["TORCHELASTIC_RUN_ID"] = "test"
    children = [
        fork(partial(_silently, task, rank), folder / f"said-{rank}", {**world, "RANK": rank, "LOCAL_RANK": rank})
        for rank in (0, 1)
    ]
    deadline, codes = time.monotonic() + 120, {}
    while len(codes) < 2:
        for child in set(children) - codes.keys():
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return [(codes[child], (folder / f"said-{rank}").read_text()) for rank, child in enumerate(children)]


def _silently(task: Callable[[int], object], rank: int) -> None:
    sys.stdout = StringIO()
    task(rank)


def grads(numbers: list[float | None]) -> list[torch.nn.Parameter]:
    """Parameters of different sizes with constant gradients, or none."""
    parameters = [torch.nn.Parameter(torch.zeros(index + 1)) for index in range(len(numbers))]
    for parameter, number in zip(parameters, numbers, strict=True):
        parameter.grad = None if number is None else torch.full_like(parameter, number)
    return parameters


def test_gradients_are_averaged_where_any_process_has_one(tmp_path):
    """A mixture that meets a single image leaves a parameter without gradient in one process."""

    def task(rank: int) -> None:
        with together(TWO) as processes:
            parameters = grads([[1.0, None, 3.0, None], [2.0, 4.0, None, None]][rank])
            processes.average_gradients(parameters)
            found = [None if one.grad is None else one.grad.tolist() for one in parameters]
            assert found == [[1.5], [2.0, 2.0], [1.5, 1.5, 1.5], None]
            assert processes.summed(torch.tensor([1.0, rank])).tolist() == [2.0, 1.0]

    assert pair(tmp_path, task) == [(0, ""), (0, "")]


def test_gradients_of_double_precision_stay_so(tmp_path):
    def task(rank: int) -> None:
        with together(TWO) as processes:
            parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
            parameter.grad = torch.full_like(parameter, 1 + rank * 2**-40)
            processes.average_gradients([parameter])
            assert parameter.grad.dtype == torch.float64
            assert parameter.grad.tolist() == [1 + 2**-41] * 2

    assert pair(tmp_path, task) == [(0, ""), (0, "")]


def test_one_process_keeps_its_gradients():
    parameters = grads([1.0, None])
    alone(ONE).average_gradients(parameters)
    assert [one.grad if one.grad is None else one.grad.tolist() for one in parameters] == [[1.0], None]


def training(heads: Path, run: Path, *more: str) -> None:
    main(command(heads, run, "--devices", "2", "--stages", "1", "--epochs", "1", *more))


@pytest.mark.parametrize(
    "more", [("--average_from", "0.5"), ("--schedule", "plateau", "--mirror", "true"), ("--precision", "64-true")]
)
def test_two_processes_agree_with_one_in_every_way_of_training(heads, tmp_path, more):
    words = ("--stages", "1", *more)
    main(command(heads, tmp_path / "one", *words))
    done = pair(tmp_path, lambda rank: main(command(heads, tmp_path / "two", "--devices", "2", *words)))
    assert [code for code, _ in done] == [0, 0], done
    assert_close(tmp_path / "two", tmp_path / "one")


def test_two_processes_of_half_precision_score_as_one_does(heads, tmp_path):
    """Adam makes steps of rounding as large as any, so that weights cannot be compared."""
    words = ("--stages", "1", "--precision", "bf16-mixed")
    main(command(heads, tmp_path / "one", *words))
    done = pair(tmp_path, lambda rank: main(command(heads, tmp_path / "two", "--devices", "2", *words)))
    assert [code for code, _ in done] == [0, 0], done
    one, two = ([float(row["score"]) for row in read_history(tmp_path / run / "metrics.csv")] for run in ("one", "two"))
    assert one == pytest.approx(two, rel=0.01)


def test_alternating_updates_train_together_and_go_on_after_a_kill(heads, tmp_path, monkeypatch):
    def words(run: str) -> list[str]:
        return [
            *("train", "switchable", "--data", str(heads), "--out", str(tmp_path / run), "--crop", "[80,80]"),
            *("--network.width", "2", "--network.blocks", "1", "--network.extractor_layers", "3", "--epochs", "2"),
            *("--batch_size", "2", "--devices", "2", "--threads", "1", "--accelerator", "cpu", "--slices", "2"),
        ]

    def killed(rank: int) -> None:
        def kill(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(Loop, "check", lambda loop, means, epoch: kill() if epoch == 1 else None)
        main(words("cut"))

    assert [code for code, _ in pair(tmp_path, lambda rank: main(words("whole")))] == [0, 0]
    assert [code for code, _ in pair(tmp_path, killed)] == [-signal.SIGKILL] * 2
    assert [code for code, _ in pair(tmp_path, lambda rank: main(words("cut")))] == [0, 0]
    whole, cut = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "cut"))
    assert whole == cut
    assert all(weight.isfinite().all() for weight in load_file(tmp_path / "cut" / "model.safetensors").values())


def test_every_scan_is_scored_once_and_every_process_has_one(make_scans):
    scans = make_scans(*[(32, 32)] * 3)
    validation = ValidationSet(scans, MaskFamily(), 0.2, seed=0)

    def shared(count: int) -> list[int]:
        return [len(_shared_out(validation, SimpleNamespace(rank=rank, count=count))) for rank in range(count)]

    assert [shared(count) for count in (1, 2, 3, 4)] == [[3], [2, 1], [1, 1, 1], [3, 3, 3, 3]]


@pytest.mark.parametrize("who", [(0,), (1,), (0, 1)])
def test_an_error_of_any_process_is_told_once_and_all_leave_with_it(heads, tmp_path, monkeypatch, who):
    def task(rank: int) -> None:
        def refuse(*_: object) -> None:
            raise SettingError("cannot be split")

        if rank in who:
            monkeypatch.setattr(IDR, "examples", refuse)
        training(heads, tmp_path / "run")

    told = pair(tmp_path, task)
    assert [code for code, _ in told] == [2, 2], told
    assert "".join(said for _, said in told) == "sansref: cannot be split\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch_size", "1"), "sansref: a batch of 1 is too small for 2 processes"),
        (("--validation", "0.99"), "sansref: "),
        (("--learning_rate", "1e30"), "sansref: the loss of turn 'network' is "),
    ],
)
def test_an_error_that_all_make_is_told_once(heads, tmp_path, more, message):
    told = pair(tmp_path, lambda rank: training(heads, tmp_path / "run", *more))
    assert [code for code, _ in told] == [2, 2], told
    (line,) = "".join(said for _, said in told).splitlines()
    assert line.startswith(message)


@pytest.mark.parametrize("ill", [0, 1])
def test_a_loss_that_is_not_finite_in_one_process_is_named_whoever_tells(heads, tmp_path, monkeypatch, ill):
    original = Loop.step

    def poisoned(loop, batch, share, epoch):
        return original(loop, batch._replace(target=batch.target * torch.nan), share, epoch)

    def task(rank: int) -> None:
        if rank == ill:
            monkeypatch.setattr(Loop, "step", poisoned)
        training(heads, tmp_path / "run")

    told = pair(tmp_path, task)
    assert [code for code, _ in told] == [2, 2], told
    (line,) = "".join(said for _, said in told).splitlines()
    assert line.startswith("sansref: the loss of turn 'network' is nan in epoch 0: ")


@pytest.mark.parametrize("rank_of_bug", [0, 1])
def test_a_bug_of_any_process_shows_its_traceback_once(tmp_path, rank_of_bug):
    def task(rank: int) -> None:
        with together(TWO) as processes:
            if rank == rank_of_bug:
                raise ZeroDivisionError("bug")
            processes.wait()

    told = pair(tmp_path, task)
    assert told[rank_of_bug][0] == 1
    assert "ZeroDivisionError: bug" in told[rank_of_bug][1]
    assert told[1 - rank_of_bug] == (2, "")


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_is_killed_ends_the_other_with_a_word_where_one_can_be_said(tmp_path, lost):
    def task(rank: int) -> None:
        try:
            with together(TWO) as processes:
                processes.wait()
                if rank == lost:
                    os.kill(os.getpid(), signal.SIGKILL)
                processes.wait()
        except TrainingError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(2)

    told = pair(tmp_path, task)
    assert told[lost] == (-signal.SIGKILL, "")
    code, said = told[1 - lost]
    assert code == 2
    assert "another process of this training has ended" in said or lost == 0
    assert "Traceback" not in said


@pytest.mark.parametrize("who", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_any_of_them_is_the_exit_code_of_all(heads, tmp_path, monkeypatch, number, who):
    original = Loop.score

    def task(rank: int) -> None:
        def struck(*arguments: object) -> object:
            if rank in who:
                os.kill(os.getpid(), number)
            return original(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Loop, "score", struck)
        training(heads, tmp_path / "run")

    told = pair(tmp_path, task)
    assert [code for code, _ in told] == [128 + number] * 2, told
    said = "".join(said for _, said in told)
    assert said == ("sansref: stopped; the same command goes on where it was\n" if number == signal.SIGINT else "")


def test_a_handler_of_sigterm_is_left_in_peace(monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with together(ONE):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with together(ONE), pytest.raises(SystemExit) as left:
            os.kill(os.getpid(), signal.SIGTERM)
        assert left.value.code == 143
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
