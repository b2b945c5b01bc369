"""Compressed sensing as a cell of the grid: its regularisation is chosen instead of trained."""

from __future__ import annotations

import json
from typing import cast

from sansref.data.prepare import prepare
from sansref.data.prepared import PREPARED
from sansref.errors import FileError
from sansref.experiments.comparison.plan import Cell
from sansref.experiments.comparison.workplace import Workplace, read_record
from sansref.files import claim, remove_leftovers, remove_made, write_text
from sansref.methods.classical.regularisation import Classical, ClassicalName, choose_regularisation
from sansref.training.batches import held_out_mask
from sansref.training.parts import fingerprints, refuse_changes, split_by_subject, unchanged

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
    subjects, options = split_by_subject(place.files, cell.config.training), cell.config.training
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
    held_out = [held_out_mask(scan, options.held_out, options.seed, item) for item, scan in enumerate(scans)]
    family = cell.config.sampling.family(emulated=all(scan.meta.emulated for scan in scans))
    found = choose_regularisation(_name(cell), scans, held_out, family)
    record = {
        "regularisation": found.regularisation,
        "held_out_error": found.held_out,
        "tried": found.tried,
        "scans": len(scans),
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
        raise FileError(file, "says no regularisation", "Remove it and run the same command again") from None


def _name(cell: Cell) -> ClassicalName:
    return cast(ClassicalName, cell.method)
