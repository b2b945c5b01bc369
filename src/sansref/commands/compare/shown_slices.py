"""Which test slices are shown, and what every method makes of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from sansref.commands.compare.cells import reconstruction_of
from sansref.commands.compare.plan import Cell, acceleration_name
from sansref.commands.compare.workplace import Workplace
from sansref.data.placement import for_people
from sansref.results.score_rows import SliceScore
from sansref.results.scores import scored_image, scored_reference
from sansref.results.viewer.contents import ViewerSlice

WORST = 0.05
"""Share of the slices that are called the worst."""

Key = tuple[int, int]
"""Fold and number of a test slice: subject and slice do not tell it where a subject has several files."""


def shown_slices(place: Workplace, rows: Sequence[SliceScore]) -> list[ViewerSlice]:
    """Test slices as the first seed's methods reconstruct them, turned upright.

    They run from the worst to the best by mean PSNR of the methods that are trained. Up to half of them are the worst
    of the worst 5 %, the others, with the median and the best one among them, are spread evenly over the rest: averages
    hide failures, and the best slices hide them best.

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


def _of_acceleration(place: Workplace, acceleration: float, rows: Sequence[SliceScore]) -> list[ViewerSlice]:
    cells = [
        cell
        for cell in place.plan.cells
        if cell.acceleration == acceleration and cell.seed == place.plan.seed_of(cell.fold)
    ]
    scores = _by_key(rows)
    ranked = _ranked(cells, scores)
    worst = ranked[: max(1, round(WORST * len(ranked)))]
    found: dict[Key, dict[str, torch.Tensor]] = {key: {} for key in _chosen(ranked, len(worst), place.plan.figures)}
    references: dict[Key, torch.Tensor] = {}
    for cell in (cell for cell in cells if not cell.rescaled):
        reconstruct, scans = reconstruction_of(place, cell), place.test_scans(cell)
        for key in (key for key in found if key[0] == cell.fold):
            scan = scans[key[1]]
            with torch.inference_mode():
                image = reconstruct(scan.batch())[0]
            geometry = scan.meta.geometry
            found[key][cell.label] = for_people(scored_image(image, scan, place.plan.normalise), geometry)
            references[key] = for_people(scored_reference(scan, place.plan.normalise), geometry)
    median = ranked[_median(ranked) :][:1]
    return [_shown(references[key], images, scores[key], key in worst, key in median) for key, images in found.items()]


def _shown(
    reference: torch.Tensor,
    images: Mapping[str, torch.Tensor],
    scores: Mapping[str, SliceScore],
    among_worst: bool,
    is_median: bool,
) -> ViewerSlice:
    first = scores[next(iter(images))]
    return ViewerSlice(
        first.subject,
        first.slice,
        acceleration_name(first.acceleration),
        reference.numpy(),
        {label: image.numpy() for label, image in images.items()},
        {label: f"{scores[label].psnr:.2f} dB / {scores[label].ssim:.4f}" for label in images},
        among_worst,
        is_median,
    )


def _by_key(rows: Sequence[SliceScore]) -> dict[Key, dict[str, SliceScore]]:
    """Scores of every slice by method."""
    numbers: dict[tuple[str, int], int] = defaultdict(int)
    scores: dict[Key, dict[str, SliceScore]] = defaultdict(dict)
    for row in rows:
        scores[row.fold, numbers[row.label, row.fold]][row.label] = row
        numbers[row.label, row.fold] += 1
    return scores


def _ranked(cells: Sequence[Cell], scores: Mapping[Key, Mapping[str, SliceScore]]) -> list[Key]:
    """All slices, the one with the lowest mean PSNR of trained methods first."""
    trained = {cell.label for cell in cells if cell.learned} or {cell.label for cell in cells}
    return sorted(scores, key=lambda key: float(np.mean([scores[key][label].psnr for label in trained])))


def _chosen(keys: Sequence[Key], worst: int, wanted: int) -> list[Key]:
    """So many slices: first of the worst, then the median, then the best, then evenly spread between these."""
    first = min(worst, (wanted + 1) // 2)
    others = keys[worst:]
    rest = min(wanted - first, len(others))
    places = [round((number + 1) * len(others) / rest) - 1 for number in range(rest)]
    if places:
        median = _median(keys) - worst
        movable = places[:-1] or places  # the last one is the best slice
        places[min(range(len(movable)), key=lambda number: abs(places[number] - median))] = median
    return [*keys[:first], *(others[place] for place in places)]


def _median(keys: Sequence[Key]) -> int:
    return len(keys) // 2
