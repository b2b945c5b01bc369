"""From a folder of files to a trained run."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track

from sansref.data.prepare import prepare
from sansref.data.prepared import PreparedScans
from sansref.data.readers import FileInfo, ReaderOptions, open_scan_file, scan_folder
from sansref.data.splits import split_subjects
from sansref.errors import FileError, SettingError
from sansref.files import atomic_path, write_text
from sansref.methods import Needs
from sansref.scan import Scan
from sansref.training.batches import ShapeBatches, ValidationSet, WithoutHeldOut
from sansref.training.config import RunConfig
from sansref.training.fit import StageResult
from sansref.training.progress import Progress
from sansref.training.refine import run_stages
from sansref.training.run import RunDirectory, environment

logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What a training command did: the run, and the files that were left out as unreadable."""

    run: RunDirectory
    bad_files: list[FileError] = field(default_factory=list)

    def leave_out(self, error: FileError) -> None:
        """Record, in the run's log as well, that a file was left out."""
        self.bad_files.append(error)
        logger.warning("left out: %s", error)


def train(config: RunConfig, data: Path, out: Path, skip_bad: bool = False, console: Console | None = None) -> Outcome:
    """Train on a folder, or continue where a killed run of the same settings stopped.

    Parameters
    ----------
    config
        Everything that determines the run.
    data
        Folder of scans, or one file.
    out
        The run directory.
    skip_bad
        Leave unreadable files out instead of stopping at the first.
    console
        Where progress is drawn.

    Raises
    ------
    SansrefError
        For unusable files or settings.
    """
    console = console or Console(stderr=True)
    if out.resolve().is_relative_to(data.resolve()):
        raise SettingError(f"--out {out} lies inside --data {data}, where its files would pass for scans: move it out")
    outcome = Outcome(RunDirectory(out))
    outcome.run.start(config, str(data.resolve()))
    if outcome.run.finished:
        return outcome
    with logged_to(out / "log.txt"):
        files, bad_files = scan_files(data, ReaderOptions(config.selection.plane), skip_bad)
        for error in bad_files:
            outcome.leave_out(error)
        parts = _split(config, outcome.run, files)
        training, validation = _prepared(config, outcome, files, parts, skip_bad, console)
        learn(config, training, validation, outcome.run, console)
    return outcome


def learn(
    config: RunConfig,
    training: PreparedScans,
    validation: PreparedScans | None,
    run: RunDirectory,
    console: Console | None = None,
) -> list[StageResult]:
    """Train on prepared scans and write the model; the part of :func:`train` behind the files.

    Parameters
    ----------
    config
        Everything that determines the run.
    training
        Training scans.
    validation
        Scans of other subjects, or None to validate on samples held out of the training scans.
    run
        The run directory, started.
    console
        Where progress is drawn.
    """
    options = config.training
    family = config.sampling.family(emulated=all(meta.emulated for meta in training.metas))
    scans: Sequence[Scan] = training
    if validation is None:
        scans = WithoutHeldOut(training, options.held_out, options.seed)
    scored = ValidationSet(training if validation is None else validation, family, options.held_out, options.seed)
    steps = len(ShapeBatches(training.shapes * options.repeats, options.batch_size, options.seed))
    stages = config.build().stages
    with Progress(config.method.upper(), stages, options.epochs, steps, console) as progress:
        best, results = run_stages(
            lambda stage: config.build(stage, family), scans, training.shapes, scored, options, run.path, progress
        )
    with atomic_path(run.weights) as temporary:
        shutil.copyfile(best, temporary)
    card = {
        "format": "sansref model 1",
        "config": config.flat(),
        "score": min(result.score for result in results),
        "stages": [{"score": result.score, "epoch": result.epoch} for result in results],
        "training_scans": len(training),
        "environment": environment(),
    }
    write_text(run.card, json.dumps(card, indent=2))
    return results


def scan_files(data: Path, options: ReaderOptions, skip_bad: bool) -> tuple[list[FileInfo], list[FileError]]:
    """Describe one file, or every scan file of a folder and what is wrong with the others."""
    if data.is_file():
        return [open_scan_file(data, options).describe(data)], []
    return scan_folder(data, options, skip_bad=skip_bad)


def _split(config: RunConfig, run: RunDirectory, files: list[FileInfo]) -> dict[str, list[str]]:
    if run.splits_file.exists():
        return run.subjects()
    options = config.training
    subjects = {info.subject for info in files}
    validation = options.validation if len(subjects) > 1 else 0.0
    fractions = {"training": 0.0, "validation": validation, "test": options.test}
    parts = split_subjects(subjects, fractions, options.seed)
    write_text(run.files_file, json.dumps(sorted(_identity(info) for info in files)))
    write_text(run.splits_file, json.dumps(parts, indent=2))
    logger.info("subjects: %s", parts)
    return parts


def knows(run: RunDirectory, files: list[FileInfo]) -> bool:
    """Whether files belong to the data that a run was trained on: the same folder, or a copy of it.

    Names of subjects do not tell, every BIDS folder has its sub-01; one file of the same name and size does.
    """
    home = Path(str(run.read_config()["data"]))
    seen = set(run.files())
    return any(_identity(info) in seen or info.path.resolve().is_relative_to(home) for info in files)


def _identity(info: FileInfo) -> tuple[str, int]:
    return info.path.name, info.path.stat().st_size


def _prepared(
    config: RunConfig,
    outcome: Outcome,
    files: list[FileInfo],
    parts: dict[str, list[str]],
    skip_bad: bool,
    console: Console,
) -> tuple[PreparedScans, PreparedScans | None]:
    """Prepare both parts; references are written only for a method, or a score, that needs them."""
    folder = outcome.run.path / "data"
    on_bad = outcome.leave_out if skip_bad else None
    prepared: list[PreparedScans | None] = []
    for part in ("training", "validation"):
        chosen = [info for info in files if info.subject in parts[part]]
        references = config.needs is Needs.PAIRED if part == "training" else config.training.score == "reference"
        title = f"reading {part} scans"
        shown = track(chosen, title, console=console, transient=True, disable=not console.is_terminal)
        prepared.append(prepare(shown, config.preparation, folder / part, references, on_bad) if chosen else None)
    training, validation = prepared
    if training is None:
        raise SettingError("there is no training scan: add subjects or lower --validation and --test")
    if validation is None and (config.training.score == "reference" or config.needs is Needs.PAIRED):
        # Samples held out of a scan whose reference is the target would be no secret.
        raise SettingError("learning from references needs other subjects to validate on: add some")
    return training, validation


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Append what the package logs to a file while the block runs."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package = logging.getLogger("sansref")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()
