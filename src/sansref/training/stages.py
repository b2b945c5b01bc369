"""The stage loop: fit, take the best model, refine the training data with it, fit again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch

from sansref.data.scan_store import ARRAYS, ArrayStore, ArrayWriter, join
from sansref.errors import FileError, SettingError
from sansref.files import PART, atomic_folder, remove_made, write_text
from sansref.kspace.measurement import Measurement
from sansref.methods import Method
from sansref.scan import Scan
from sansref.training.batches import ValidationSet
from sansref.training.config import TrainingOptions
from sansref.training.history import kept_row, read_history
from sansref.training.loop import StageFiles, StageResult, fit, time_is_over
from sansref.training.processes import Processes
from sansref.training.progress import Progress
from sansref.training.run import RESTORE, load_weights
from sansref.training.trackers import UNTRACKED, Trackers
from sansref.yaml_json import read_json

logger = logging.getLogger(__name__)

# Reconstruction needs no gradients, so that several scans fit where one training example did.
_REFINE_BATCH = 8


def run_stages(
    build: Callable[[int], Method],
    scans: Sequence[Scan],
    shapes: Sequence[tuple[int, ...]],
    validation: ValidationSet,
    options: TrainingOptions,
    folder: Path,
    progress: Progress,
    processes: Processes,
    trackers: Trackers = UNTRACKED,
) -> tuple[Path, list[StageResult]]:
    """Play all stages of a method, skipping what an earlier, killed run has finished.

    Parameters
    ----------
    build
        Makes the method with new weights for a stage.
    scans, shapes
        Training scans, and the shape of each: scans of one shape make a batch.
    validation
        Chooses the best epoch of each stage and the best stage.
    options
        Settings of every stage.
    folder
        The run directory.
    progress
        Bar to move.
    processes
        That train together.
    trackers
        That follow the run.

    Returns
    -------
    tuple
        File of the best weights of all stages, and how each stage ended.
    """
    results: list[StageResult] = []
    for stage in range(build(0).stages):
        files = stage_files(folder, stage)
        done = files.folder / "done.json"
        if done.exists():
            results.append(_result(done))
            if processes.leader:
                files.resume_point.unlink(missing_ok=True)  # where a kill came in between
            continue
        rows = read_history(folder / "metrics.csv")
        if results and rows and int(rows[-1]["stage"]) < stage and time_is_over(options, rows, processes):
            break
        method = build(stage)
        targets = None
        if stage > 0:
            best = stage_files(folder, _best(results)).best
            targets = _refined(build(stage), best, scans, shapes, folder / "targets", stage, processes)
            if method.warm_start:
                load_weights(method, best)
        results.append(
            fit(method, scans, shapes, targets, validation, options, files, stage, progress, processes, trackers)
        )
        if processes.leader:
            write_text(done, json.dumps(asdict(results[-1])))
            files.resume_point.unlink(missing_ok=True)
        logger.info("stage %d: best score %.6g in epoch %d", stage, results[-1].score, results[-1].epoch)
    if processes.leader:
        trackers.follow(read_history(folder / "metrics.csv"))  # where a kill came between the last row and its trackers
        _drop(folder / "targets", rf"stage-\d+/({ARRAYS})")
    return stage_files(folder, _best(results)).best, results


def best_so_far(folder: Path, stages: int, keep: Literal["best", "last"]) -> tuple[Path, list[StageResult]] | None:
    """What :func:`run_stages` would return if training ended now; None if no epoch has."""
    results: list[StageResult] = []
    for stage in range(stages):
        rows = [row for row in read_history(folder / "metrics.csv") if int(row["stage"]) == stage]
        if rows and stage_files(folder, stage).best.exists():
            kept = kept_row(rows, keep)
            results.append(StageResult(float(kept["score"]), int(kept["epoch"])))
    return (stage_files(folder, _best(results)).best, results) if results else None


def _result(done: Path) -> StageResult:
    try:
        found = read_json(done, RESTORE)
        return StageResult(float(found["score"]), int(found["epoch"]))
    except (KeyError, TypeError, ValueError):
        raise FileError(done, "does not say how the stage ended", RESTORE) from None


def stage_files(folder: Path, stage: int) -> StageFiles:
    """Where a run keeps the files of a stage."""
    return StageFiles(folder / "stages" / f"{stage:02d}", folder / "metrics.csv")


def _best(results: list[StageResult]) -> int:
    return min(range(len(results)), key=lambda stage: results[stage].score)


def _refined(
    method: Method,
    weights: Path,
    scans: Sequence[Scan],
    shapes: Sequence[tuple[int, ...]],
    folder: Path,
    stage: int,
    processes: Processes,
) -> ArrayStore:
    """The refined training data of a stage; written once, and then those of earlier stages are dropped."""
    store = folder / f"stage-{stage:02d}"
    if not store.exists():
        load_weights(method, weights)
        begun = time.perf_counter()
        refine(method, scans, shapes, store, processes)
        logger.info("stage %d: %d scans refined in %.2f s", stage, len(shapes), time.perf_counter() - begun)
    if processes.leader:
        for old in folder.iterdir():
            if old != store:
                _drop(old, ARRAYS)
    return ArrayStore(store)


def _drop(folder: Path, made: str) -> None:
    """Remove refined data; where somebody has put something else in, they stay and take room."""
    with suppress(SettingError):
        remove_made(folder, made)


def refine(
    method: Method,
    scans: Sequence[Scan],
    shapes: Sequence[tuple[int, ...]],
    store: Path,
    processes: Processes,
) -> None:
    """Reconstruct every training scan from its original acquired samples and store the refined k-space.

    The input is always what the scanner measured, never refined data: a network fed with full k-space would
    only learn to hand it through.

    Parameters
    ----------
    method
        Holds the weights to use.
    scans, shapes
        Training scans, and the shape of each: scans of one shape make a batch.
    store
        New array store, complex64 (coils, height, width) per scan; it appears only when complete.
    processes
        Each refines a stretch of the scans; all must see the folder.
    """
    method.to(processes.device).eval()
    pieces = [store.with_name(f"{PART}{rank:032x}-{store.name}") for rank in range(processes.count)]
    shard = processes.shard(len(shapes))
    piece = pieces[processes.rank]
    with atomic_folder(piece) as part, ArrayWriter(part, "complex64") as writer, torch.inference_mode():
        for start, stop in _runs(shapes, shard):
            given = Measurement.stacked([scans[item].measurement for item in range(start, stop)]).to(processes.device)
            for kspace in method.refine(given):
                writer.append(kspace)
    processes.wait()
    if processes.leader:
        with atomic_folder(store) as whole:
            join(pieces, whole)
    processes.wait()
    method.cpu().train()


def _runs(shapes: Sequence[tuple[int, ...]], items: range) -> Iterator[tuple[int, int]]:
    """Stretches of neighbouring scans of one shape, short enough for one batch."""
    start = items.start
    for item in range(items.start + 1, items.stop + 1):
        if item == items.stop or shapes[item] != shapes[start] or item - start == _REFINE_BATCH:
            yield start, item
            start = item
