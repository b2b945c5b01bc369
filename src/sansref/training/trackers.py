"""Experiment trackers: TensorBoard, MLflow and Weights & Biases get the rows of ``metrics.csv``."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from sansref.errors import FileError, SansrefError, SettingError
from sansref.files import remove_made, write_text, writing
from sansref.settings import by_name
from sansref.training.config import MachineOptions
from sansref.training.run import RESTORE, RunDirectory
from sansref.yaml_json import read_text

logger = logging.getLogger(__name__)

PROJECT = "sansref"
"""Name of the experiment in MLflow and of the project in Weights & Biases, unless their own variables name another."""


class Tracker(Protocol):
    """One tracker's record of one run."""

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Take in the numbers of an epoch, unless they are there already."""

    def close(self, error: BaseException | None) -> None:
        """End the record, of a run that has ended well or with an error."""


class TensorBoard:
    """Event files in ``tensorboard``, written anew by each process: they hold every row once, also after a kill."""

    def __init__(self, run: RunDirectory, identity: str, parameters: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.path / "tensorboard"
        remove_made(folder, r"events\.out\.tfevents\..*")
        self._writer: Any = SummaryWriter(folder)
        kinds = (bool, int, float, str)
        values = {name: value if isinstance(value, kinds) else _text(value) for name, value in parameters.items()}
        self._writer.add_hparams(values, {}, run_name=".")  # in this folder, not in one of its own
        self._known: set[int] = set()

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Write scalars."""
        if step not in self._known:
            for name, value in row.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()  # what a kill must not take
            self._known.add(step)

    def close(self, error: BaseException | None) -> None:
        """Close the file."""
        self._writer.close()


class MLflow:
    """One MLflow run, found again by its tag: a store of files in ``mlflow``, or where MLFLOW_TRACKING_URI says."""

    def __init__(self, run: RunDirectory, identity: str, parameters: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        # MLflow prefers a data base, for which a run directory is no place.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        place = os.environ.get("MLFLOW_TRACKING_URI") or (run.path / "mlflow").resolve().as_uri()
        self._client = MlflowClient(tracking_uri=place)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        found = list(self._client.search_runs([experiment], f"tags.sansref = '{identity}'", max_results=1))
        if found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
        else:
            found = [self._client.create_run(experiment, run_name=run.path.name, tags={"sansref": identity})]
        self._id, data = found[0].info.run_id, found[0].data
        given = [Param(name, _text(value)) for name, value in parameters.items() if name not in data.params]
        for start in range(0, len(given), 100):  # MLflow takes no more at once
            self._client.log_batch(self._id, params=given[start : start + 100])
        self._known = {
            (name, metric.step) for name in data.metrics for metric in self._client.get_metric_history(self._id, name)
        }

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Log metrics."""
        from mlflow.entities import Metric

        new = [(name, value) for name, value in row.items() if (name, step) not in self._known]
        if new:
            now = int(1000 * time.time())
            self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in new])
            self._known |= {(name, step) for name, _ in new}

    def close(self, error: BaseException | None) -> None:
        """Say how the run has ended."""
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        self._client.set_terminated(self._id, "FINISHED" if error is None else "KILLED" if stopped else "FAILED")


class WandB:
    """One run of Weights & Biases: offline in ``wandb``, unless its own environment variables say otherwise.

    An offline run is written anew by each process, so that ``wandb sync`` finds one with every row once.
    """

    def __init__(self, run: RunDirectory, identity: str, parameters: Mapping[str, Any]) -> None:
        import wandb

        folder = run.path / "wandb"
        for earlier in () if folder.is_symlink() else folder.glob("offline-run-*"):
            shutil.rmtree(earlier)  # which follows no link
        configured = any(os.environ.get(name) for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.path.name,
            id=identity,
            resume="allow",
            dir=run.path,
            mode=None if configured else "offline",
            config=dict(parameters),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Once more: on a busy machine, what a run is begun with has been seen to be missing from its file.
        self._run.config.update(dict(parameters), allow_val_change=True)  # type: ignore[no-untyped-call]
        self._next = self._run.step

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Log a row."""
        if step >= self._next:
            self._run.log(dict(row), step=step, commit=True)
            self._next = step + 1

    def close(self, error: BaseException | None) -> None:
        """Finish the run."""
        self._run.finish(exit_code=0 if error is None else 1)


KINDS: dict[str, tuple[type[TensorBoard | MLflow | WandB], str, str]] = {
    "tensorboard": (TensorBoard, "tensorboard", "tensorboard"),
    "mlflow": (MLflow, "mlflow", "mlflow-skinny"),
    "wandb": (WandB, "wandb", "wandb"),
}
"""Each tracker by name, the module that it needs, and the package to be installed for it."""


class Trackers:
    """All trackers of a run, none for most runs.

    Parameters
    ----------
    trackers
        By name.
    epochs
        Epochs of a stage at most: steps are counted over all stages.
    """

    def __init__(self, trackers: Mapping[str, Tracker], epochs: int) -> None:
        self._trackers, self._epochs = trackers, epochs

    def follow(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Write what is missing of the rows of ``metrics.csv``.

        A tracker that fails is not worth a training: the log says so, and the next call tries again.
        """
        for name, tracker in self._trackers.items():
            try:
                for row in rows:
                    step = int(row["stage"]) * self._epochs + int(row["epoch"])
                    tracker.add(step, {key: float(value) for key, value in row.items() if value})
            except Exception as error:  # a server that is gone makes each package raise errors of its own
                logger.warning("tracker %s: %s", name, _line(error))

    def close(self, error: BaseException | None = None) -> None:
        """End all records."""
        for name, tracker in self._trackers.items():
            try:
                tracker.close(error)
            except Exception as failure:
                logger.warning("tracker %s: %s", name, _line(failure))


UNTRACKED = Trackers({}, 0)
"""What follows a run that nobody has asked to track."""


def check_trackers(options: MachineOptions) -> None:
    """Refuse a tracker whose package is not installed.

    Raises
    ------
    SettingError
        Naming the package.
    """
    for name in options.trackers:
        _, module, package = KINDS[name]
        if find_spec(module) is None:
            raise SettingError(f"tracker {name!r} needs a package that is not installed: pip install {package}")


@contextmanager
def tracked(
    run: RunDirectory,
    options: MachineOptions,
    epochs: int,
    leader: bool = True,
    others: Mapping[str, Tracker] | None = None,
) -> Iterator[Trackers]:
    """The trackers that the options ask for, and others, until the block ends.

    Parameters
    ----------
    run
        The run directory, started. Its ``tracker_id`` says which run of a tracker a resumed training goes on with.
    options
        Which trackers.
    epochs
        Epochs of each stage.
    leader
        Whether this process is the one that writes; the others track nothing.
    others
        Further ones by name.

    Raises
    ------
    SettingError
        If a package is missing, or a tracker cannot be reached.
    """
    check_trackers(options)
    names = options.trackers if leader else ()
    trackers: dict[str, Tracker] = dict(others or {})
    if names:
        identity, parameters = _identity(run.tracker_file), by_name(run.read_config())
    together = Trackers(trackers, epochs)
    error: BaseException | None = None
    try:
        for name in names:
            trackers[name] = _opened(name, run, identity, parameters)
        yield together
    except BaseException as raised:
        error = raised
        raise
    finally:
        together.close(error)


def _opened(name: str, run: RunDirectory, identity: str, parameters: Mapping[str, Any]) -> Tracker:
    kind, _, _ = KINDS[name]
    try:
        with writing(run.path / name):
            return kind(run, identity, parameters)
    except SansrefError:
        raise
    except Exception as error:
        cure = "check the environment variables that configure it, or leave it out of --tracker"
        raise SettingError(f"tracker {name!r} cannot be used ({_line(error)}): {cure}") from error


def _identity(path: Path) -> str:
    if not path.exists():
        write_text(path, uuid.uuid4().hex, parents=False)
    identity = read_text(path, RESTORE)
    if not re.fullmatch("[0-9a-f]{32}", identity):
        raise FileError(path, "is not the identity of a tracked run", RESTORE)
    return identity


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
