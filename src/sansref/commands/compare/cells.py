"""Working off one cell of the grid: train or choose it, and when all are trained, score it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

from rich.console import Console

from sansref import __version__
from sansref.commands.compare.plan import Cell
from sansref.commands.compare.workplace import Workplace, drop_data, hash_of, read_record
from sansref.data.prepare import prepare
from sansref.data.provenance import file_digest
from sansref.data.scan_store import PREPARED
from sansref.errors import FileError, SansrefError
from sansref.files import claim, locked, remove_leftovers, remove_made, write_text
from sansref.methods import Needs
from sansref.methods.classical.non_local_means import non_local_means
from sansref.methods.classical.regularisation import Classical, ClassicalName, choose_regularisation
from sansref.metrics.held_out import HeldOut, Reconstruct, held_out_mask
from sansref.metrics.lpips import LPIPS
from sansref.results.health_figure import draw_health
from sansref.results.scorer import Scorer, zero_filled
from sansref.results.scores import COLUMNS, ScoredSlice, file_in, read_scores, write_scores
from sansref.training.subjects import fingerprints, refuse_changes, split_by_subject, unchanged
from sansref.training.train import train

SCANS = 8
"""Scans that a regularisation is chosen on, at most, evenly spread over those for validation."""


def choose(place: Workplace, cell: Cell) -> None:
    """Choose a method's regularisation on scans that are not for the test, without their references.

    They are the scans that trained methods are validated on; those that they are trained on where there are none.

    Raises
    ------
    SansrefError
        If the data are unusable.
    """
    subjects, options = split_by_subject(place.files, cell.config.split, cell.config.data_seed), cell.config
    known = subjects["validation"] or subjects["training"]
    chosen = [info for info in place.files if info.subject in known]
    folder = place.run_of(cell).path
    claim(folder, "choice")
    remove_leftovers(folder)
    remove_made(folder / "data", PREPARED)  # of a choice that was killed, with other settings perhaps
    if place.known:
        refuse_changes(place.data, place.known[0], fingerprints(place.files, place.data), f"{place.out}")
    prepared = prepare(unchanged(chosen), cell.config.preparation, folder / "data", references=False)
    count = min(len(prepared), SCANS)
    scans = [prepared[number * len(prepared) // count] for number in range(count)]
    held_out = [
        held_out_mask(scan, options.split.held_out, options.training.seed, item) for item, scan in enumerate(scans)
    ]
    family = cell.config.sampling.family(emulated=all(scan.meta.emulated for scan in scans))
    found = choose_regularisation(_name(cell), scans, held_out, family, denoise=place.plan.denoises)
    record = {
        "regularisation": found.regularisation,
        "error": found.error,
        "tried": found.tried,
        "scans": len(scans),
        "denoise": place.plan.denoises,
        "method": cell.method,
        **place.recipe(cell),
    }
    write_text(place.choice_file(cell), json.dumps(record, indent=2))


def chosen(place: Workplace, cell: Cell) -> Classical:
    """The method with its chosen regularisation.

    Raises
    ------
    FileError
        If the choice cannot be read.
    """
    file = place.choice_file(cell)
    try:
        return Classical(_name(cell), float(read_record(file)["regularisation"]), seed=cell.config.training.seed)
    except (KeyError, TypeError, ValueError):
        raise FileError(file, "has no regularisation", "Remove it and run the same command again") from None


def _name(cell: Cell) -> ClassicalName:
    return cast(ClassicalName, cell.method)


def is_trained(place: Workplace, cell: Cell) -> bool:
    """Whether nothing is left to train or to choose."""
    if cell.learned:
        run = place.run_of(cell)
        return run.finished and not run.missing
    # Where methods that denoise have come since, it has to be chosen by their rule.
    return not cell.chosen or read_record(place.choice_file(cell)).get("denoise") == place.plan.denoises


def train_cell(place: Workplace, cell: Cell, console: Console | None = None) -> None:
    """Train a cell, or go on where a killed command has stopped; a finished cell is left alone.

    Raises
    ------
    SansrefError
        If its data or settings are unusable, or training fails.
    """
    if is_trained(place, cell):
        return
    folder = place.run_of(cell).path
    if cell.learned:
        _train(place, cell, console)
    else:
        choose(place, cell)
    drop_data(folder)


def _train(place: Workplace, cell: Cell, console: Console | None) -> None:
    folder = place.run_of(cell).path
    try:
        train(cell.config, place.data, folder, console=console, full=place.full_for(cell), known=place.known)
    finally:
        if cell.config.needs is Needs.UNPAIRED:
            draw_health(folder)  # above all where training has failed


def reconstruction_of(place: Workplace, cell: Cell) -> Reconstruct:
    """How a trained cell reconstructs.

    Raises
    ------
    FileError
        If it has not been trained, or its weights cannot be read.
    """
    if cell.learned:
        return place.run_of(cell).load(cell.config).reconstruct
    if cell.method == "non_local_means":
        return non_local_means
    return chosen(place, cell).reconstruct if cell.chosen else zero_filled


def score_cell(place: Workplace, cell: Cell, lpips: LPIPS | None) -> list[ScoredSlice]:
    """Score a trained cell on the test scans, or read its scores if they were taken on the same scans.

    Raises
    ------
    FileError
        If the test scans are not those that a finished cell was scored on.
    """
    scans = place.test_scans(cell)
    folder = place.run_of(cell).path
    backbone = None if lpips is None else lpips.name
    wanted = {
        "test": hash_of(scans),
        "recipe": place.recipe(cell),  # the samples do not tell what the references and the held-out samples are
        "method": cell.method,
        "learned": file_digest(place.run_of(cell).weights) if cell.learned else None,
        "chosen": read_record(place.choice_file(cell)),
        "normalise": place.plan.normalise,
        "denoises": place.plan.denoises,
        "lpips": backbone,
        "columns": COLUMNS,
        "version": __version__,
    }
    record, scores = folder / "scored.json", folder / "scores.csv"
    found = read_record(record)
    if found and found.get("test") != wanted["test"]:
        problem = f"was scored on other test scans than those in {place.out / 'test'}"
        raise FileError(folder, problem, "Remove its scored.json to score it again")
    if found == wanted and scores.exists():
        # Its method may have been given another label since.
        return [replace(row, label=cell.label) for row in read_scores(scores)]
    scorer = scorer_of(place, [cell], lpips)
    rows = [
        replace(row, acceleration=cell.acceleration, fold=cell.fold, seed=cell.seed, file=file)
        for item, scan in enumerate(scans)
        for file in [file_in(place.data, scan.meta.source)]
        for row in scorer.score(scan, item)
    ]
    record.unlink(missing_ok=True)  # it must not vouch for scores of another kind, should the disk be full
    write_scores(scores, rows)
    write_text(record, json.dumps(wanted, indent=2))
    return read_scores(scores)  # as every later command sees them


def scorer_of(place: Workplace, cells: Sequence[Cell], lpips: LPIPS | None = None) -> Scorer:
    """Score trained cells that are tested on the same scans.

    Raises
    ------
    FileError
        If one has not been trained, or its weights cannot be read.
    """
    config = cells[0].config
    family = cache(config.sampling.family)
    return Scorer(
        {cell.label: reconstruction_of(place, cell) for cell in cells},
        HeldOut(config.split.held_out, config.data_seed, family),
        place.plan.normalise,
        lpips,
        {cell.label for cell in cells if cell.rescaled},
        place.plan.denoises,
    )


@dataclass(frozen=True)
class Failure:
    """Why a cell is not trained: one line, and where in the code if it was no error that a user can cause."""

    problem: str
    trace: str = ""


Outcomes = Generator[tuple[Cell, Failure | None]]
"""Cells as they end, in any order; None is one that is trained."""


def attempt(place: Workplace, cell: Cell, console: Console, patience: float = 5) -> Failure | None:
    """Train a cell, or go on where another process has left it.

    Parameters
    ----------
    place, cell
        What.
    console
        Where progress is drawn.
    patience
        Seconds to wait for another process to let go of the cell.
    """
    try:
        with locked(place.run_of(cell).path, patience):
            train_cell(place, cell, console)
    except SansrefError as error:
        return Failure(str(error))
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    return None
