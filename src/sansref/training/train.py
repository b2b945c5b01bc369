"""From a folder of files to a trained run."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console

from sansref.data.scan_store import PreparedScans
from sansref.errors import FileError, SansrefError, SettingError
from sansref.files import atomic_path, keep_outside, write_text, writing
from sansref.machine import quickest, seconds_by_threads
from sansref.methods import Method, Needs
from sansref.networks import NetworkOptions
from sansref.networks.convolution import conv3x3
from sansref.scan import Scan
from sansref.training.batches import ShapeBatches, UnpairedScans, ValidationSet, WithoutHeldOut
from sansref.training.config import RunConfig, Threads
from sansref.training.history import read_history
from sansref.training.loop import StageResult
from sansref.training.processes import Processes, alone, precision_note, together
from sansref.training.progress import Progress
from sansref.training.run import RunDirectory, environment, load_weights
from sansref.training.stages import best_so_far, run_stages
from sansref.training.subjects import SubjectReader, survey_of
from sansref.training.trackers import Tracker, check_trackers, tracked

logger = logging.getLogger(__name__)


@dataclass
class Trained:
    """What a training command did.

    Attributes
    ----------
    run
        The run.
    bad_files
        Files that were left out as unreadable.
    leader
        False in all but one of the processes that trained together.
    """

    run: RunDirectory
    bad_files: list[FileError] = field(default_factory=list)
    leader: bool = True

    def leave_out(self, error: FileError) -> None:
        """Record, in the run's log as well, that a file was left out."""
        self.bad_files.append(error)
        logger.warning("left out: %s", error)


def train(
    config: RunConfig,
    data: Path,
    out: Path,
    skip_bad: bool = False,
    console: Console | None = None,
    full: Path | None = None,
    known: tuple[Mapping[str, str], Mapping[str, str]] | None = None,
    say: Callable[[str], object] | None = None,
) -> Trained:
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
    full
        Folder of full scans of other people, for a method that learns from unpaired scans; without it, half of the
        training subjects of ``data`` take their place.
    known
        Fingerprints that the files of ``data`` and ``full`` must have, see `SubjectReader`.
    say
        Called first with lines on what is learned from and what it will take, see :mod:`sansref.training.survey`; None
        spares the trial that they take.

    Raises
    ------
    SansrefError
        For unusable files or settings, for files that are others than those that the run was begun with, or if the run
        is not complete in the end.
    """
    _check(config, data, out, full)
    outcome = Trained(RunDirectory(out))
    with ExitStack() as alone_here, together(config.machine, config.training.precision) as processes:
        outcome.leader, console = processes.leader, processes.console(console)
        places = str(data.resolve()), None if full is None else str(full.resolve())
        processes.by_leader(lambda: outcome.run.finished or alone_here.enter_context(outcome.run.locked()))
        processes.by_leader(lambda: outcome.run.start(config, *places))
        leave_out, say = outcome.leave_out if skip_bad else None, say if processes.leader else None
        reader = SubjectReader(config, outcome.run, leave_out, console, known, say)
        if outcome.run.finished and not outcome.run.missing:
            if data.exists():
                reader.files(data, full)
            return outcome
        with logged_to(out / "log.txt") if processes.leader else nullcontext():
            try:
                with on_threads(config.machine.threads):
                    parts = processes.leader_first(lambda: reader.prepared(data, full))
            except SansrefError as error:
                error.after(error.skipped or outcome.bad_files)
                raise
            learn(config, parts.training, parts.validation, outcome.run, console, parts.full, processes)
    return outcome


def dry_run(
    config: RunConfig, data: Path, out: Path, skip_bad: bool = False, full: Path | None = None
) -> Iterator[tuple[str, str]]:
    """Tell what :func:`train` would learn from and what it would take, as names and values; nothing is written.

    Raises
    ------
    SansrefError
        As far as :func:`train` would before its first step.
    """
    _check(config, data, out, full)
    alone(replace(config.machine, devices=1, num_nodes=1), config.training.precision)
    if changes := RunDirectory(out).changes(config, str(data.resolve()), None if full is None else str(full.resolve())):
        yield "other settings", f"{out} holds a run whose settings differ ({changes})"
    with on_threads(config.machine.threads):
        yield from survey_of(config, data, skip_bad, full)


def _check(config: RunConfig, data: Path, out: Path, full: Path | None) -> None:
    keep_outside(out, data, "--data")
    keep_outside(out, full, "--full")
    if full is not None and config.needs is not Needs.UNPAIRED:
        raise SettingError(f"method {config.method!r} takes no --full: it learns from {config.needs} scans alone")
    check_trackers(config.machine)


def learn(
    config: RunConfig,
    training: PreparedScans,
    validation: PreparedScans | None,
    run: RunDirectory,
    console: Console | None = None,
    full: PreparedScans | None = None,
    processes: Processes | None = None,
    *,
    start: Path | None = None,
    withheld: float = 0.0,
    beside: str = "",
    watcher: Tracker | None = None,
) -> list[StageResult]:
    """Train on prepared scans and write the model; the part of :func:`train` behind the files.

    Parameters
    ----------
    config
        Everything that determines the run.
    training
        Training scans.
    validation
        Scans of other subjects, or None to validate on samples held out of the training scans. Where the score decides
        nothing they are not withheld from training, and the score is optimistic.
    run
        The run directory, started.
    console
        Where progress is drawn.
    full
        Full scans of other people, for a method that learns from unpaired scans.
    processes
        That train together; None trains in this one.
    start
        File of weights to begin with; None begins with new ones.
    withheld
        Share of the acquired samples outside the center that the scans lack already.
    beside
        Stands behind each score of the bar, such as the score of another method.
    watcher
        Follows the run as a tracker does.
    """
    options = config.training
    processes = processes or alone(config.machine, options.precision)
    emulated = all(meta.emulated for part in (training, validation) if part is not None for meta in part.metas)
    family = learned = config.sampling.family(emulated, withheld)
    stages = config.build().stages
    scans: Sequence[Scan] = training
    if validation is None and options.score_decides(stages):
        scans = WithoutHeldOut(training, config.split.held_out, options.seed, config.denoises)
        learned = config.sampling.family(emulated, 1 - (1 - withheld) * (1 - config.split.held_out))
    if full is not None:
        scans = UnpairedScans(scans, training.planes, full, full.planes)
    judged = training if validation is None else validation
    scored = ValidationSet(judged, family, config.split.held_out, options.seed, config.denoises)
    steps = len(ShapeBatches(training.shapes * options.repeats, options.batch_size, options.seed))
    earlier = min((float(row["score"]) for row in read_history(run.path / "metrics.csv")), default=math.inf)
    progress_bar = Progress(config.method.upper(), stages, options.epochs, steps, console, beside, earlier)

    def build(stage: int) -> Method:
        method = config.build(stage, learned)
        if start is not None:
            load_weights(method, start)
        return method

    threads = config.machine.threads
    if threads == "auto":
        threads = _quickest_threads(config, training.shapes, progress_bar, processes)
    if processes.leader and (note := precision_note(config.machine, options.precision)) is not None:
        progress_bar.say(note)
    with on_threads(threads), progress_bar as progress:
        others = {} if watcher is None else {"watcher": watcher}
        with tracked(run, config.machine, options.epochs, processes.leader, others) as trackers:
            best, results = run_stages(
                build,
                scans,
                training.shapes,
                scored,
                options,
                run.path,
                progress,
                processes,
                trackers,
            )
        if processes.leader:
            _write_model(config, best, results, len(training), run)
    processes.wait()
    return results


def _quickest_threads(
    config: RunConfig, shapes: Sequence[tuple[int, ...]], progress: Progress, processes: Processes
) -> int:
    """The number of threads on which a convolution of the network, forward and backward, is quickest now."""
    if processes.device.type != "cpu":
        return 0
    channels = config.network.channels if isinstance(config.network, NetworkOptions) else config.network.width
    height, width = max((shape[-2:] for shape in shapes), key=math.prod)
    images = torch.zeros(config.training.batch_size, channels, height, width, requires_grad=True)
    convolution = conv3x3(channels, channels, True)
    given = images.to(memory_format=torch.channels_last)

    def work() -> None:
        torch.autograd.grad(convolution(given).relu().sum(), [given, *convolution.parameters()])

    seconds = seconds_by_threads(work, torch.get_num_threads())
    if processes.leader:
        found = ", ".join(f"{1000 * taken:.3g} ms on {count}" for count, taken in seconds.items())
        progress.say(f"threads: {quickest(seconds)}, of --threads auto (a convolution takes {found})")
    return quickest(seconds)


def end_here(config: RunConfig, run: RunDirectory, scans: int) -> bool:
    """End a training that was stopped: the best weights so far, of so many scans, become its result.

    Returns False, and leaves the run unfinished, if no epoch has ended.
    """
    found = best_so_far(run.path, config.build().stages, config.training.keep)
    if found is not None:
        _write_model(config, *found, scans, run)
    return found is not None


def _write_model(config: RunConfig, best: Path, results: list[StageResult], scans: int, run: RunDirectory) -> None:
    with atomic_path(run.weights) as temporary:
        shutil.copyfile(best, temporary)
    card = {
        "format": "sansref model 1",
        "config": config.values(),
        "score": min(result.score for result in results),
        "stages": [{"score": result.score, "epoch": result.epoch} for result in results],
        "training_scans": scans,
        "environment": environment(),
    }
    write_text(run.card, json.dumps(card, indent=2))
    if run.missing:
        problem = f"has lost {', '.join(run.missing)} while it was trained"
        raise FileError(run.path, problem, "Train again into another --out, and do not change its folder")


class _LogFile(logging.FileHandler):
    """A log that stops the program where the system refuses it, instead of a traceback for each line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        with suppress(OSError):
            self.close()  # lest the rest is tried again at the end
        with writing(Path(self.baseFilename)):
            raise


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Append what the package logs to a file while the block runs."""
    with writing(path):
        handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package = logging.getLogger("sansref")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()


@contextmanager
def on_threads(count: Threads) -> Iterator[None]:
    """Compute on so many threads, and leave the number as it was found.

    0 is for as many as there are, and so is ``auto``: only :func:`learn` knows what to measure with.
    """
    if not count or count == "auto":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
