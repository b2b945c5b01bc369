"""Ray: a connection to a cluster, and an archive of scan files reconstructed on it."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch

from sansref.commands.reconstruct import FileOutcome, Job, Reconstructed, Worker
from sansref.errors import FileError, SansrefError, SettingError
from sansref.machine import keep_freed_memory


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster while the block runs; a connection that there was before is used, and left open.

    Parameters
    ----------
    address
        HOST:PORT, auto for the cluster of this machine, or local to start one here.

    Raises
    ------
    SettingError
        If Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError:
        raise SettingError("Ray is not installed: pip install 'ray[data]'") from None
    if ray.is_initialized():
        yield ray
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        _connect(ray, os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # Ray's own handler ends in a crash
        yield ray
    except SystemExit:
        sys.exit(128 + signal.SIGTERM)  # Ray does not hand on the code
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def unseen(folders: Iterable[Path | None]) -> str | None:
    """What this node has to say of the first folder that it does not see; None where it sees all that there are."""
    missing = (folder for folder in folders if folder is not None and not folder.exists())
    return next((f"{socket.gethostname()} does not see {one}: all nodes of a cluster must" for one in missing), None)


def _connect(ray: Any, address: str) -> None:
    cure = "give HOST:PORT as 'ray start' shows it, auto, or local"
    found = re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address)
    if not found and address not in ("auto", "local"):
        raise SettingError(f"{address!r} is not the address of a Ray cluster: {cure}")
    # Only a few words are exchanged: the scans lie in the folder.
    new = {"include_dashboard": False, "object_store_memory": 100 * 2**20} if address == "local" else {}
    try:
        if found:  # Ray itself would knock for minutes
            socket.create_connection((found[1], int(found[2])), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level=CRITICAL, **new)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise SettingError(f"no Ray cluster at {address!r} ({' '.join(str(error).split())}): {cure}") from None


MOST_BLOCKS = 1000
"""Portions that Ray hands out: up to here one file each, since it keeps books of every portion."""


def on_cluster(job: Job, files: Mapping[Path, str], address: str) -> Iterator[FileOutcome]:
    """Hand files to the cluster at ``address``, which tries those of a node that dies again on another.

    A file that is tried again is found complete, or written anew as a whole, so that each has its images once. Files
    come in the order in which they are done; all nodes must see them, and the folders of the job. Raises
    ``SettingError`` if Ray is not installed, the cluster does not answer, or its nodes cannot do the job, and
    ``FileError`` if images cannot be written.
    """
    # Nodes have other working directories.
    given = {str(path.resolve()): path for path in files}
    out = job.out
    job = replace(job, run=replace(job.run, path=job.run.path.resolve()), out=out.resolve())
    # Its core writes warnings about Ray Data's own actors past every logger.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with connected(address) as ray:
        rows = _mapped(ray, job, [{"path": full, "name": files[path]} for full, path in given.items()])
        try:
            for row in rows.iter_rows():
                yield _told(json.loads(row["outcome"]), given, out)
        except ray.exceptions.RayError as error:
            raise SettingError(f"the cluster gave up ({type(error).__name__}): the same command goes on") from error


def _mapped(ray: Any, job: Job, files: Sequence[dict[str, str]]) -> Any:
    """The lazy table of outcomes."""
    try:
        data: Any = import_module("ray.data")
    except ImportError:
        raise SettingError("Ray Data is not installed: pip install 'ray[data]'") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    resources = ray.cluster_resources()
    gpus = 0 if job.accelerator == "cpu" else int(resources.get("GPU", 0))
    if job.accelerator == "gpu" and not gpus:
        raise SettingError("accelerator 'gpu' cannot be used: the cluster has no GPU; use --accelerator auto")
    workers = min(gpus or int(resources.get("CPU", 1)), len(files))
    table = data.from_items(list(files), override_num_blocks=min(len(files), MOST_BLOCKS))
    return table.map(
        _Node,
        fn_constructor_args=(job,),
        concurrency=(1, max(1, workers)),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )


class _Node:
    """A worker on a node; what is the user's to mend is told as a row, since Ray would bury it in its own errors."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)
        keep_freed_memory()
        self.worker: Worker | None = None
        try:
            if problem := unseen((job.run.path, job.out)):
                raise SettingError(problem)
            self.worker = Worker(job)
        except SansrefError as error:
            self.problem = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The outcome of one file, as JSON."""
        told: dict[str, Any] = {"path": row["path"]}
        if self.worker is None:
            return {"outcome": json.dumps({**told, "fatal": self.problem})}
        try:
            outcome = self.worker.outcome(Path(row["path"]), row["name"])
        except SansrefError as error:
            told["fatal"] = str(error)
        else:
            if isinstance(outcome, FileError):
                told |= {"problem": outcome.problem, "cure": outcome.cure}
            else:
                written = [str(path.relative_to(self.worker.job.out)) for path in outcome.written]
                told |= {"kind": outcome.kind, "written": written, "earlier": outcome.earlier}
                told |= {"emulated": outcome.emulated, "notes": outcome.notes, "idle": outcome.idle}
        return {"outcome": json.dumps(told)}


def _told(row: dict[str, Any], given: dict[str, Path], out: Path) -> FileOutcome:
    """What a node has told, with paths as the user gave them."""
    path = given[row["path"]]
    if "fatal" in row:
        raise SettingError(row["fatal"])
    if "problem" in row:
        return FileError(path, row["problem"], row["cure"])
    written = tuple(out / name for name in row["written"])
    said = tuple(row["notes"]), tuple(row["idle"])
    return Reconstructed(path, row["kind"], written, row["earlier"], row["emulated"], *said)
