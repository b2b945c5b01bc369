"""Which test slices are shown, and what every method makes of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from sansref.commands.compare.cells import scorer_of
from sansref.commands.compare.plan import Cell, acceleration_name
from sansref.commands.compare.workplace import Workplace
from sansref.results.scores import ScoredSlice
from sansref.results.viewer.contents import ViewerSlice, telling_places, worst_places

Key = tuple[int, int]
"""Fold and number of a test slice: subject and slice do not tell it where a subject has several files."""


def shown_slices(place: Workplace, rows: Sequence[ScoredSlice]) -> list[ViewerSlice]:
    """Test slices as the first seed's methods reconstruct them, turned upright.

    They run from the worst to the best by mean PSNR of the methods that are trained, see
    :func:`~sansref.results.viewer.contents.telling_places`.

    Parameters
    ----------
    place
        All of whose cells are trained.
    rows
        Scores of all cells, those of a cell in the order of its test scans.
    """
    own = [row for row in rows if row.seed == place.plan.seed_of(row.fold)]
    return [
        shown
        for acceleration in place.plan.accelerations
        for shown in _of_acceleration(place, acceleration, [row for row in own if row.acceleration == acceleration])
    ]


def _of_acceleration(place: Workplace, acceleration: float, rows: Sequence[ScoredSlice]) -> list[ViewerSlice]:
    cells = [
        cell
        for cell in place.plan.cells
        if cell.acceleration == acceleration and cell.seed == place.plan.seed_of(cell.fold)
    ]
    scores = _by_key(rows)
    ranked = _ranked(cells, scores)
    worst, places = worst_places(len(ranked)), telling_places(len(ranked), place.plan.figures)
    found: dict[int, ViewerSlice] = {}
    for fold in {ranked[at][0] for at in places}:
        own = [cell for cell in cells if cell.fold == fold]
        scorer, scans = scorer_of(place, own), place.test_scans(own[0])
        for at in (at for at in places if ranked[at][0] == fold):
            score = list(scores[ranked[at]].values())
            name, median = acceleration_name(acceleration), at == len(ranked) // 2
            found[at] = scorer.show(scans[ranked[at][1]], score, name, at < worst, median)
    return [found[at] for at in places]


def _by_key(rows: Sequence[ScoredSlice]) -> dict[Key, dict[str, ScoredSlice]]:
    """Scores of every slice by method."""
    numbers: dict[tuple[str, int], int] = defaultdict(int)
    scores: dict[Key, dict[str, ScoredSlice]] = defaultdict(dict)
    for row in rows:
        scores[row.fold, numbers[row.label, row.fold]][row.label] = row
        numbers[row.label, row.fold] += 1
    return scores


def _ranked(cells: Sequence[Cell], scores: Mapping[Key, Mapping[str, ScoredSlice]]) -> list[Key]:
    """All slices, the one with the lowest mean PSNR of trained methods first."""
    trained = {cell.label for cell in cells if cell.learned} or {cell.label for cell in cells}
    return sorted(scores, key=lambda key: float(np.mean([scores[key][label].psnr for label in trained])))
