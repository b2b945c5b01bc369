"""Trackers get the rows of metrics.csv, each once, also after a kill."""

from __future__ import annotations

import json
import os
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest

from sansref.cli import main
from sansref.errors import SettingError
from sansref.training import trackers as module
from sansref.training.config import MachineOptions, RunConfig
from sansref.training.history import read_history
from sansref.training.run import RunDirectory
from sansref.training.trackers import Trackers, tracked

INSTALLED = [name for name in module.KINDS if find_spec(module.KINDS[name][1])]
SETTINGS = [
    *("--stages", "2", "--epochs", "2", "--batch_size", "8", "--threads", "1", "--accelerator", "cpu"),
    *("--network.phases", "1", "--network.channels", "2", "--slices", "2"),
]


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """None of the trackers' own settings, and no file of theirs outside."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # for the tests' own reading
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(name not in INSTALLED, reason=f"{name} is not installed")


def command(data: Path, out: Path, *more: str) -> list[str]:
    return ["train", "idr", "--data", str(data), "--out", str(out), *SETTINGS, *more]


def rows(run: Path, epochs: int = 2) -> list[tuple[int, dict[str, float]]]:
    """What a tracker must hold: numbers of each row of the CSV, by step."""
    return [
        (
            int(row["stage"]) * epochs + int(row["epoch"]),
            {name: pytest.approx(float(cell), rel=1e-6) for name, cell in row.items() if cell},
        )
        for row in read_history(run / "metrics.csv")
    ]


def in_tensorboard(run: Path) -> list[tuple[int, dict[str, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [name for name in found.summary_metadata if name.startswith("_hparams_/session_start")]
    return by_step([(name, one.step, one.value) for name in found.Tags()["scalars"] for one in found.Scalars(name)])


def in_mlflow(run: Path) -> list[tuple[int, dict[str, float]]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(run / "mlflow").as_uri())
    (one,) = client.search_runs([client.get_experiment_by_name("sansref").experiment_id])
    assert (one.info.run_name, one.info.status) == (run.name, "FINISHED")
    assert {
        name: one.data.params[name] for name in ("method.name", "training.epochs", "network.phases", "data.matrix")
    } == {**{"method.name": "idr", "training.epochs": "2", "network.phases": "1", "data.matrix": "null"}}
    metrics = [(name, client.get_metric_history(one.info.run_id, name)) for name in one.data.metrics]
    return by_step([(name, metric.step, metric.value) for name, history in metrics for metric in history])


def in_wandb(run: Path) -> list[tuple[int, dict[str, float]]]:
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
    found, names = [], set()
    for content in records(file.read_bytes()):
        record = Record.FromString(content)
        values = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
        values = {name: json.loads(value) for name, value in values.items()}
        found += [(name, values["_step"], value) for name, value in values.items() if not name.startswith("_")]
        names |= {item.key for part in (record.run.config, record.config) for item in part.update}
    assert {"method.name", "training.epochs", "network.phases"} <= names
    return by_step(found)


def records(log: bytes) -> list[bytes]:
    """Records of LevelDB's log format: 7 bytes of header (checksum, length, kind) each, in blocks of 32 KiB."""
    found, place = [b""], 7
    while place + 7 <= len(log):
        if (left := -place % 32768) and left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", log[place + 4 : place + 7])
        found[-1] += log[place + 7 : place + 7 + length]
        if kind in (1, 4):  # whole, or its last piece
            found.append(b"")
        place += 7 + length
    return found[:-1]


def by_step(values: list[tuple[str, int, float]]) -> list[tuple[int, dict[str, float]]]:
    found: dict[int, dict[str, float]] = {}
    for name, step, value in values:
        assert name not in found.setdefault(step, {}), f"{name} of step {step} is there twice"
        found[step][name] = value
    return sorted(found.items())


READERS = {"tensorboard": in_tensorboard, "mlflow": in_mlflow, "wandb": in_wandb}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in READERS])
def test_a_killed_run_is_tracked_as_one_with_every_row_once(heads, tmp_path, name, killed, forked):
    arguments = command(heads, tmp_path / "run", "--tracker", name)
    killed(arguments, "sansref.training.loop:Loop.step", 3)  # one row, and half of another epoch
    killed(arguments, "sansref.training.loop:Trackers.follow", 2)  # between a row and its tracker
    child = forked(arguments, "sansref.training.loop:fit", lambda *_: None, tmp_path / "said")
    assert os.waitpid(child, 0)[1] == 0, (tmp_path / "said").read_text()
    assert [step for step, _ in rows(tmp_path / "run")] == [0, 1, 2, 3]
    assert READERS[name](tmp_path / "run") == rows(tmp_path / "run")


@needs("mlflow")
@needs("tensorboard")
def test_a_tracker_that_comes_late_gets_the_earlier_rows_and_several_go_together(heads, tmp_path, killed):
    arguments = command(heads, tmp_path / "run")
    killed(arguments, "sansref.training.loop:Loop.step", 4)
    main([*arguments, "--tracker", "mlflow, tensorboard"])
    assert in_mlflow(tmp_path / "run") == rows(tmp_path / "run")
    assert in_tensorboard(tmp_path / "run") == rows(tmp_path / "run")


@needs("mlflow")
def test_mlflow_writes_where_its_variables_say(heads, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "elsewhere").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "knees")
    main(command(heads, tmp_path / "run", "--tracker", "mlflow"))
    assert not (tmp_path / "run" / "mlflow").exists()
    assert sum("name: knees" in meta.read_text() for meta in (tmp_path / "elsewhere").glob("*/meta.yaml")) == 1


@pytest.fixture
def started(tmp_path, tiny):
    """A run directory in which nothing has been learned."""
    run = RunDirectory(tmp_path / "run")
    run.start(tiny("ssdu"), "/data")
    return run


@needs("mlflow")
@pytest.mark.parametrize(
    ("error", "status"), [(SystemExit, "KILLED"), (KeyboardInterrupt, "KILLED"), (ValueError, "FAILED")]
)
def test_mlflow_says_how_a_run_has_ended(started, error, status):
    from mlflow import MlflowClient

    with pytest.raises(error), tracked(started, MachineOptions(tracker="mlflow"), 2):
        raise error
    client = MlflowClient(tracking_uri=(started.path / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("sansref").experiment_id])
    assert run.info.status == status


@needs("mlflow")
def test_a_run_begun_anew_with_other_settings_is_another_in_the_tracker(started, tiny):
    options = MachineOptions(tracker="mlflow")
    with tracked(started, options, 2):
        before = started.tracker_file.read_text()
    started.start(tiny("ssdu", seed=3), "/data")
    assert not started.tracker_file.exists()
    with tracked(started, options, 2):
        assert started.tracker_file.read_text() != before
    assert {path.read_text() for path in started.path.glob("mlflow/*/*/params/training.seed")} == {"0", "3"}


def test_without_a_tracker_nothing_is_left(started):
    before = sorted(started.path.iterdir())
    with tracked(started, MachineOptions(), 2) as followed:
        followed.follow([{"stage": "0", "epoch": "0", "score": "1"}])
    assert sorted(started.path.iterdir()) == before


@needs("tensorboard")
def test_only_the_leader_writes(started):
    with tracked(started, MachineOptions(tracker="tensorboard"), 2, leader=False) as followed:
        followed.follow([{"stage": "0", "epoch": "0", "score": "1"}])
    assert not (started.path / "tensorboard").exists()


def test_a_tracker_is_no_setting_that_makes_another_run(started, tiny):
    assert started.changes(tiny("ssdu", tracker="mlflow"), "/data") == ""


class Failing:
    """A server that is away for the first row."""

    def __init__(self) -> None:
        self.met: list[tuple[int, dict[str, float]]] = []
        self.calls = 0

    def add(self, step, row):
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError("no route\nto host")
        self.met.append((step, row))

    def close(self, error):
        raise ConnectionError("gone")


def test_a_tracker_that_fails_is_told_in_the_log_and_tried_again(caplog):
    failing = Failing()
    trackers = Trackers({"mlflow": failing}, 5)
    row = {"stage": "1", "epoch": "2", "score": "0.5", "other": ""}
    trackers.follow([row])
    assert failing.met == []
    trackers.follow([row])
    assert failing.met == [(7, {"stage": 1, "epoch": 2, "score": 0.5})]
    trackers.close()
    assert [record.message for record in caplog.records] == [
        "tracker mlflow: no route to host",
        "tracker mlflow: gone",
    ]


@pytest.mark.parametrize(("name", "_", "package"), [(name, *kind[1:]) for name, kind in module.KINDS.items()])
def test_a_package_that_is_missing_is_named_before_anything_is_done(
    heads, tmp_path, monkeypatch, name, _, package, sansref
):
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    code, _, err = sansref(*command(heads, tmp_path / "run", "--tracker", name))
    assert code == 2
    assert err == f"sansref: tracker '{name}' needs a package that is not installed: pip install {package}\n"
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused():
    with pytest.raises(SettingError, match="there is no tracker 'tensorbord': did you mean tensorboard"):
        RunConfig.from_values({"method": "idr", "machine": {"tracker": "mlflow,tensorbord"}})


@needs("mlflow")
def test_a_tracker_that_cannot_be_reached_is_one_line(started, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        pytest.raises(SettingError, match=r"tracker 'mlflow' cannot be used .*leave it out of --tracker"),
        tracked(started, MachineOptions(tracker="mlflow"), 2),
    ):
        pytest.fail("opened")


def test_an_identity_that_is_none_is_refused(started):
    if not INSTALLED:
        pytest.skip("no tracker is installed")
    started.tracker_file.write_text("../..")
    with (
        pytest.raises(SettingError.__base__, match="tracker_id: is not the identity"),
        tracked(started, MachineOptions(tracker=INSTALLED[0]), 2),
    ):
        pytest.fail("opened")


def test_a_strangers_files_are_left_alone(started):
    if "tensorboard" not in INSTALLED:
        pytest.skip("tensorboard is not installed")
    kept = started.path / "tensorboard" / "thesis.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with (
        pytest.raises(SettingError, match="was not written by sansref"),
        tracked(started, MachineOptions(tracker="tensorboard"), 2),
    ):
        pytest.fail("opened")
    assert kept.read_text() == "mine"
