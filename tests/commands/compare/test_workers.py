"""Cells end with the same weights wherever they are worked off and whatever dies on the way, to the last byte."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread, Timer

import pytest
from rich.console import Console

from sansref.commands.compare import workers
from sansref.commands.compare.plan import Plan
from sansref.commands.compare.workers import train_all
from sansref.commands.compare.workplace import Workplace
from sansref.errors import SansrefError, SettingError, TrainingError
from sansref.training.history import read_history

pytestmark = pytest.mark.slow

# Methods that learn as those of the package do, and are held up or fail on the way whatever process they run in.
OWN = """
import os, signal, time
from pathlib import Path
from sansref.errors import TrainingError
from sansref.methods import SSDU, Supervised

class Held:
    calls = 0

    def step(self, batch):
        self.calls += 1
        while self.calls == 6 and Path("held").exists():  # in the second epoch
            time.sleep(0.02)
        return super().step(batch)

class HeldSSDU(Held, SSDU): pass

class HeldSupervised(Held, Supervised): pass

class Failing(SSDU):
    def step(self, batch): raise TrainingError("no [bold]luck[/bold]: try again")

class Crashing(SSDU):
    def step(self, batch): return 1 / 0

class Mortal(HeldSSDU):
    def step(self, batch):
        if self.calls == 5 and Path("armed").exists():
            Path("armed").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(batch)
"""
SHARED = {
    "split": {"test": 0.2},
    "network": {"phases": 1, "channels": 2},
    "training": {"epochs": 3, "batch_size": 4},
    "machine": {"threads": 1, "accelerator": "cpu"},
}
HELD = ("own:HeldSSDU", "own:HeldSupervised")
QUIET = Console(quiet=True)


def workplace(data: Path, out: Path, *kinds: str) -> Workplace:
    methods = {"Input": {"method": "zero_filled"}, **{kind: {"method": kind} for kind in kinds}}
    return Workplace(Plan("t", methods, {4.0: {}}, kinds[0], SHARED), data, None, out)


def run_of(place: Workplace, label: str) -> Path:
    (cell,) = (cell for cell in place.plan.cells if cell.label == label)
    return place.run_of(cell).path


def weights(place: Workplace, label: str) -> bytes:
    return (run_of(place, label) / "model.safetensors").read_bytes()


def ends_as(place: Workplace, alone: Workplace) -> bool:
    return [weights(place, label) for label in HELD] == [weights(alone, label) for label in ("ssdu", "supervised")]


@pytest.fixture(autouse=True)
def own_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of the user's in the working directory, where every process finds it."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own", None)


@pytest.fixture(scope="module")
def alone(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Cells trained one after the other in this process."""
    place = workplace(heads, tmp_path_factory.mktemp("alone"), "ssdu", "supervised")
    train_all(place, 1, None, QUIET)
    return place


def process_of(run: Path) -> int:
    """The process that works on a run, or has done so last."""
    return int(run.with_name(f"{run.name}.lock").read_text().split()[1])


def epochs(place: Workplace, label: str) -> int:
    return len(read_history(run_of(place, label) / "metrics.csv"))


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def command(place: Workplace, jobs: int, said: Path) -> int:
    """Play a command in a child process, which leaves as the command line would; a fork spares the imports.

    Nothing is worked off side by side in the tests' own process: its children could not start a server of theirs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: the child computes on one thread only
        child = os.fork()
    if child:
        return child
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        file = said.open("w", buffering=1)
        train_all(place, jobs, None, Console(file=file))
        code = 0
    except SansrefError as error:
        file.write(f"sansref: {error}\n")
        code = 2
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def left(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def descendants(process: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return [*children, *(one for child in children for one in descendants(child))]


def alive(processes: list[int]) -> list[int]:
    return [process for process in processes if Path(f"/proc/{process}/exe").exists()]


def test_cells_side_by_side_fail_or_die_one_by_one_and_the_others_are_those_trained_alone(heads, tmp_path, alone):
    place = workplace(heads, tmp_path / "out", "own:Mortal", "own:Crashing", "ssdu", "own:Failing", "supervised")
    (tmp_path / "armed").touch()
    assert left(command(place, 2, tmp_path / "said")) == 2
    lines = (tmp_path / "said").read_text().splitlines()
    assert lines[0].startswith("5 of 6 cells to train")
    assert "    def step(self, batch): return 1 / 0" in lines
    died = "own-mortal/4x-fold0-seed0: its process was killed by SIGKILL, perhaps because memory ran out: then use"
    assert lines[-1].startswith("sansref: 3 of 5 cells failed, the others are kept (")
    for problem in (died, "own-crashing/4x-fold0-seed0: ZeroDivisionError: division by zero", "no [bold]luck[/bold]"):
        assert problem in lines[-1]
    assert all(weights(place, label) == weights(alone, label) for label in ("ssdu", "supervised"))
    assert epochs(place, "own:Mortal") == 1

    before = {path: path.stat() for label in ("ssdu", "supervised") for path in run_of(place, label).rglob("*")}
    with pytest.raises(TrainingError, match=r"^2 of 3 cells failed.*own-crashing.*own-failing"):
        train_all(place, 1, None, QUIET)
    assert weights(place, "own:Mortal") == weights(alone, "ssdu")
    assert epochs(place, "own:Mortal") == 3
    assert {path: path.stat().st_mtime_ns for path in before} == {path: s.st_mtime_ns for path, s in before.items()}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_stopped_command_leaves_no_process_and_goes_on_to_the_same_end(heads, tmp_path, alone, number, code, capfd):
    place = workplace(heads, tmp_path / "out", *HELD)
    (tmp_path / "held").touch()
    child = command(place, 2, tmp_path / "said")
    wait_until(lambda: all(epochs(place, label) for label in HELD))
    processes = descendants(child)
    assert len(alive(processes)) > 2
    os.kill(child, number)
    assert left(child) == code
    wait_until(lambda: not alive(processes))
    assert "Traceback" not in capfd.readouterr().err + (tmp_path / "said").read_text()
    assert not any((run_of(place, label) / "model.json").exists() for label in HELD)
    (tmp_path / "held").unlink()
    train_all(place, 1, None, QUIET)
    assert ends_as(place, alone)


def test_a_cell_that_another_process_works_on_is_left_to_it(heads, tmp_path, monkeypatch):
    place = workplace(heads, tmp_path / "out", HELD[0], "ssdu")
    (tmp_path / "held").touch()
    child = command(workplace(heads, tmp_path / "out", HELD[0]), 1, tmp_path / "said")
    wait_until(lambda: epochs(place, HELD[0]))
    monkeypatch.setattr(workers, "attempt", partial(workers.attempt, patience=0))
    holder = f"{run_of(place, HELD[0])}: is in use by process {child} on {socket.gethostname()}. Wait until"
    with pytest.raises(TrainingError, match=re.escape(holder)):
        train_all(place, 1, None, QUIET)
    assert (run_of(place, "ssdu") / "model.json").exists()
    (tmp_path / "held").unlink()
    assert left(child) == 0


def test_a_cell_that_another_process_ends_in_time_is_not_trained_again(heads, tmp_path, alone, monkeypatch):
    place, said = workplace(heads, tmp_path / "out", HELD[0]), io.StringIO()
    (tmp_path / "held").touch()
    child = command(place, 1, tmp_path / "said")
    wait_until(lambda: epochs(place, HELD[0]))
    attempt = workers.attempt

    def release(*given):
        Timer(0.3, (tmp_path / "held").unlink).start()  # while the lock is waited for
        return attempt(*given, patience=240)

    monkeypatch.setattr(workers, "attempt", release)
    train_all(place, 1, None, Console(file=said))
    assert left(child) == 0
    assert said.getvalue().splitlines()[1:] == ["1/1 own-heldssdu/4x-fold0-seed0 trained"]
    assert weights(place, HELD[0]) == weights(alone, "ssdu")


def test_an_unwritable_folder_is_one_clear_line(heads, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(TrainingError, match=r"seed0.lock: cannot be locked \(Not a directory\). Choose a folder"):
        train_all(workplace(heads, tmp_path / "out", "ssdu"), 1, None, QUIET)


@pytest.mark.parametrize(("jobs", "address"), [(0, None), (2, "auto")])
def test_impossible_numbers_of_jobs_are_refused(alone, jobs, address):
    with pytest.raises(SettingError, match=f"jobs must be at least 1, and exactly 1 on a Ray cluster.*got {jobs}"):
        train_all(alone, jobs, address, QUIET)


def test_ray_is_asked_for_only_if_it_is_needed_and_missed_by_name(heads, tmp_path, alone, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    train_all(alone, 1, "auto", QUIET)  # nothing is left to train
    with pytest.raises(SettingError, match=re.escape("Ray is not installed: pip install 'ray[data]'")):
        train_all(workplace(heads, tmp_path / "out", "ssdu"), 1, "auto", QUIET)


@pytest.mark.xdist_group("ray")  # a cluster of another test would answer
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("auto", r"no Ray cluster at 'auto' \(Could not find any running Ray instance.*\): give HOST:PORT"),
        ("127.0.0.1:1", r"no Ray cluster at '127.0.0.1:1' \(.*Connection refused\): give HOST:PORT"),
        ("127.0.0.1:66000", r"no Ray cluster at '127.0.0.1:66000' \(.*\): give HOST:PORT"),
        (
            "ray://head:10001",
            r"'ray://head:10001' is not the address of a Ray cluster: give HOST:PORT .*, auto, or local",
        ),
        ("head", r"'head' is not the address of a Ray cluster: give HOST:PORT"),
    ],
)
def test_addresses_without_a_cluster_are_named_at_once(heads, tmp_path, monkeypatch, address, message):
    pytest.importorskip("ray", reason="needs the extra 'cluster'")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where it looks for clusters of this machine
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    started = time.monotonic()
    with pytest.raises(SettingError, match=message):
        train_all(workplace(heads, tmp_path / "out", "ssdu"), 1, address, QUIET)
    assert time.monotonic() - started < 10
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.xdist_group("ray")
def test_a_cell_whose_node_dies_is_tried_again_on_another(heads, tmp_path, alone, cluster):
    place, said = workplace(heads, Path("out"), *HELD), io.StringIO()
    (tmp_path / "held").touch()
    (lost,) = cluster.worker_nodes
    processes: list[list[int]] = []

    def lose() -> None:
        wait_until(lambda: all(epochs(place, label) for label in HELD))
        processes.append([process_of(run_of(place, label)) for label in HELD])
        cluster.remove_node(lost, allow_graceful=False)
        wait_until(lambda: len(alive(processes[0])) == 1)
        (tmp_path / "held").unlink()

    thread = Thread(target=lose)
    thread.start()
    train_all(place, 1, cluster.address, Console(file=said))
    thread.join()
    processes.append([process_of(run_of(place, label)) for label in HELD])
    assert sum(before == after for before, after in zip(*processes, strict=True)) == 1
    assert ends_as(place, alone)
    assert said.getvalue().splitlines()[1] == "Ray cluster of 2 nodes, 2 CPUs, 0 GPUs"
    assert not sys.modules["ray"].is_initialized()
