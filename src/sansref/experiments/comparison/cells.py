"""Working off one cell of the grid: train it, and when all cells are trained, score it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from rich.console import Console

from sansref.errors import FileError
from sansref.experiments.comparison.choice import choose, chosen
from sansref.experiments.comparison.plan import Cell
from sansref.experiments.comparison.records import SliceScore, read_scores, write_scores
from sansref.experiments.comparison.workplace import Workplace, drop_data, hash_of, read_record
from sansref.experiments.health import draw_health
from sansref.experiments.scores import Reconstruction, Score, score_best_scale, score_scan, zero_filled
from sansref.files import write_text
from sansref.methods import Needs
from sansref.metrics.lpips import LPIPS
from sansref.scan import Scan
from sansref.training.train import train


def is_trained(place: Workplace, cell: Cell) -> bool:
    """Whether nothing is left to train or to choose."""
    if cell.learned:
        return place.run_of(cell).finished
    return not cell.chosen or place.choice_file(cell).exists()


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


def reconstruction_of(place: Workplace, cell: Cell) -> Reconstruction:
    """How a trained cell reconstructs.

    Raises
    ------
    FileError
        If it has not been trained, or its weights cannot be read.
    """
    if cell.learned:
        return place.run_of(cell).load(cell.config).reconstruct
    return chosen(place, cell).reconstruct if cell.chosen else zero_filled


def score_cell(place: Workplace, cell: Cell, lpips: LPIPS | None) -> list[SliceScore]:
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
        "normalise": place.plan.normalise,
        "lpips": backbone,
    }
    record, scores = folder / "scored.json", folder / "scores.csv"
    found = read_record(record)
    if found and found.get("test") != wanted["test"]:
        problem = f"was scored on other test scans than those in {place.out / 'test'}"
        raise FileError(folder, problem, "Remove its scored.json to score it again")
    if found == wanted and scores.exists():
        # Its method may have been given another label since.
        return [replace(row, label=cell.label) for row in read_scores(scores)]
    judge = _Judge(place, cell, lpips)
    where = (cell.label, cell.acceleration, cell.fold, cell.seed)
    rows = [
        SliceScore(*where, scan.meta.subject, scan.meta.slice, **asdict(judge.score(scan, item)))
        for item, scan in enumerate(scans)
    ]
    write_scores(scores, rows)
    write_text(record, json.dumps(wanted, indent=2))
    return read_scores(scores)  # as every later command sees them


class _Judge:
    """Scores scans by one cell."""

    def __init__(self, place: Workplace, cell: Cell, lpips: LPIPS | None) -> None:
        self.cell, self.lpips, self.normalise = cell, lpips, place.plan.normalise
        self.reconstruct = reconstruction_of(place, cell)
        self.family = cell.config.sampling.family(emulated=True)

    def score(self, scan: Scan, item: int) -> Score:
        """Of test scan ``item``, from whose number the held-out samples follow."""
        if self.cell.rescaled:
            return score_best_scale(scan, self.lpips, self.normalise)
        options = self.cell.config.training
        place = (options.held_out, options.seed_of_data, item)
        return score_scan(self.reconstruct, scan, self.family, *place, self.lpips, self.normalise)[0]
