"""Where a comparison works: its folder, its data, and the test scans that all methods are scored on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sansref.commands.compare.plan import SAME, Cell, Plan
from sansref.data.prepare import prepare
from sansref.data.provenance import fingerprint
from sansref.data.readers import FileInfo, ScanFiles, open_scan_file, scan_files
from sansref.data.scan_store import PREPARED, PreparedScans
from sansref.errors import FileError, SettingError
from sansref.files import claim, keep_outside, locked, remove_leftovers, remove_made, write_text
from sansref.kspace.grid import is_full
from sansref.methods import Needs
from sansref.scan import Scan
from sansref.settings import by_name
from sansref.training.config import RunConfig
from sansref.training.run import RunDirectory, read_fingerprints
from sansref.training.subjects import fingerprints, refuse_changes, split_by_subject, unchanged
from sansref.yaml_json import read_json

KNOWN = ("files.json", "full_files.json")
"""Where the fingerprints of the files of ``--data`` and ``--full`` are kept."""

NAMED = "named_files.json"
"""Where those of the files are kept that settings name, such as a mask, by path."""

CHOICE = "choice.json"
"""What was chosen for a method that is not trained."""


@dataclass(frozen=True)
class Workplace:
    """A comparison on some data in some folder.

    ``files.json``, ``full_files.json`` and ``named_files.json`` fingerprint the files of the data, of ``--full`` and of
    settings, such as a mask · ``cells/METHOD/PLACE/`` one run directory each · ``test/`` test scans, written
    when everything has been trained, and the hash of their masks and samples · tables, figures and the report.

    Attributes
    ----------
    plan
        What is compared.
    data
        Folder of scans.
    full
        Folder of full scans of other people for the unpaired methods, or None to halve the training subjects.
    out
        The comparison's folder.
    """

    plan: Plan
    data: Path
    full: Path | None
    out: Path

    def run_of(self, cell: Cell) -> RunDirectory:
        """A cell's run directory; of a method that is not trained it holds its choice and its scores."""
        return RunDirectory(self.out / "cells" / cell.name)

    @cached_property
    def found(self) -> ScanFiles:
        """All scan files, by their headers."""
        return scan_files(self.data, self.plan.cells[0].config.slices.reader_options)

    @property
    def files(self) -> list[FileInfo]:
        """Descriptions of all scan files."""
        return self.found.files

    def check(self) -> None:
        """See to it that there are test subjects, and that cells of an earlier command had the same settings.

        Raises
        ------
        SettingError
            Naming what is wrong, or the cell and what has changed.
        FileError
            If a test scan is undersampled, or cannot be used.
        """
        keep_outside(self.out, self.data, "--data")
        keep_outside(self.out, self.full, "--full")
        if self.full is not None and not any(self.full_for(cell) for cell in self.plan.cells):
            raise SettingError("none of the methods learns from unpaired scans: leave out --full")
        for cell in {cell.label: cell for cell in self.plan.cells if cell.learned}.values():
            if self.plan.normalise == "none" and cell.config.build().relative:
                raise SettingError(
                    f"method {cell.label!r} gives relative grey values only (scaling: image): set 'normalise: minmax'"
                )
        for cell in self.plan.cells:
            if not self.test_subjects(cell.config):
                raise SettingError(
                    "no subject is set aside for the test: give 'folds', or 'split: {test: 0.2}' under 'shared'"
                )
            if changes := self._changes(cell):
                raise SettingError(
                    f"{self.run_of(cell).path} was made with other settings ({changes}): restore them, choose another"
                    " --out, or remove that folder to train the cell again"
                )
        sets = {cell.test_set: cell for cell in self.plan.cells}.values()
        tested = [(info, cell.config.preparation) for cell in sets for info in self._test_files(cell)]
        for info in {info.path: info for info, _ in tested}.values():
            self._check_full(info)
        if not self._begun:  # later nobody could leave a file out
            for info, preparation in tested:
                for scan in preparation.scans(info):
                    scan.require_maps()
                    if scan.reference is None:
                        raise _undersampled(info)
        claim(self.out, "comparison")
        self.check_data()
        self._clean()

    def check_data(self) -> None:
        """See to it that all cells, of this command and of earlier ones, are made of the same data."""
        now = (fingerprints(self.files, self.data), fingerprints(self._full_files, self.full) if self.full else {})
        known, begun = self.known or ({}, {}), self._begun
        for name, folder, earlier, wanted in zip(KNOWN, (self.data, self.full), known, now, strict=True):
            if folder is not None and earlier and begun:
                refuse_changes(folder, earlier, wanted, f"the comparison in {self.out}")
            if wanted or not earlier:  # what is known of --full outlives a command without it
                write_text(self.out / name, json.dumps(wanted, indent=1))
        file, named = self.out / NAMED, self._named_files()
        earlier = read_fingerprints(file) if begun and file.exists() else {}
        for path, fingerprinted in named.items():
            if earlier.get(path, fingerprinted) != fingerprinted:
                problem = f"has changed since the comparison in {self.out} was begun with it"
                raise FileError(path, problem, "Restore it, or choose another --out")
        write_text(file, json.dumps(earlier | named, indent=1))
        for cell in self.plan.cells:
            self.check_cell(cell)

    def _named_files(self) -> dict[str, str]:
        """Fingerprints of the files that settings name, such as a mask, or that lie in a folder of coil maps."""
        named = {path for cell in self.plan.cells for path in cell.config.preparation.named.values()}
        files = [file for path in sorted(named) for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        return {str(file): fingerprint(file) for file in files if file.is_file()}

    @property
    def _full_files(self) -> list[FileInfo]:
        if self.full is None:
            return []
        return scan_files(self.full, self.plan.cells[0].config.slices.reader_options).files

    @property
    def known(self) -> tuple[dict[str, str], dict[str, str]] | None:
        """Fingerprints of the files of both folders, as they were when the comparison was begun; None before that."""
        data, full = (self.out / name for name in KNOWN)
        return (read_fingerprints(data), read_fingerprints(full)) if data.exists() else None

    def check_cell(self, cell: Cell) -> None:
        """See to it that a cell, if it has begun, was made of the data of this comparison.

        Raises
        ------
        FileError
            Naming the files that are others.
        """
        run = self.run_of(cell)
        if cell.learned and run.committed and self.known:
            refuse_changes(self.data, run.files(), self.known[0], str(run.path))
            if (full := self.full_for(cell)) is not None:
                refuse_changes(full, run.full_files(), self.known[1], str(run.path))

    @property
    def _begun(self) -> bool:
        """Whether a cell, of any plan, has come so far that other files cannot take the place of its own."""
        made = (CHOICE, "scored.json")
        return any(
            RunDirectory(folder).committed or any((folder / name).exists() for name in made)
            for folder in (self.out / "cells").glob("*/*")
            if folder.is_dir()
        )

    def _clean(self) -> None:
        """Remove what killed commands have left: the data of cells that need none any more, with their references."""
        with suppress(FileError), locked(self.out / "test", patience=0):
            remove_leftovers(self.out / "test")
        planned = {self.run_of(cell).path for cell in self.plan.cells}
        for folder in (self.out / "cells").glob("*/*"):
            ended = any((folder / name).exists() for name in ("model.json", CHOICE))
            if folder.is_dir() and not folder.is_symlink() and (ended or folder not in planned):
                with suppress(FileError), locked(folder, patience=0):  # another command may be at work on it
                    remove_leftovers(folder)
                    drop_data(folder)

    def _check_full(self, info: FileInfo) -> None:
        """Look at the mask of one slice of a test file, before hours of training for a score that cannot be taken."""
        if info.kind != "k-space":
            return
        options = self.plan.cells[0].config.slices.reader_options
        item = next(iter(open_scan_file(info.path, options).read(info.path, [info.slices // 2])))
        if isinstance(item, Scan) and not is_full(item.mask):
            raise _undersampled(info)

    def full_for(self, cell: Cell) -> Path | None:
        """The folder of full scans, for a method that takes one."""
        return self.full if cell.learned and cell.config.needs is Needs.UNPAIRED else None

    def _changes(self, cell: Cell) -> str:
        """How a cell's settings differ from those that it was made with."""
        if cell.learned:
            full = self.full_for(cell)
            return self.run_of(cell).changes(
                cell.config, str(self.data.resolve()), None if full is None else str(full.resolve())
            )
        wanted = by_name({"method": cell.method, **self.recipe(cell)})
        found = by_name(read_record(self.choice_file(cell)))
        differing = sorted(name for name in wanted if found and wanted[name] != found.get(name))
        return ", ".join(f"{name} {found.get(name)!r} -> {wanted[name]!r}" for name in differing)

    def recipe(self, cell: Cell) -> dict[str, Any]:
        """What determines a cell's scans: the data and the settings that are the same for all methods."""
        values = cell.config.values()
        settings = {name: values[name] for name in SAME}
        found: dict[str, Any] = json.loads(json.dumps({"folder": str(self.data.resolve()), **settings}))
        return found

    def choice_file(self, cell: Cell) -> Path:
        """What was chosen for a method that is not trained."""
        return self.run_of(cell).path / CHOICE

    def test_subjects(self, config: RunConfig) -> set[str]:
        """Subjects that no cell of this fold learns from."""
        return set(split_by_subject(self.files, config.split, config.data_seed)["test"])

    def test_scans(self, cell: Cell) -> PreparedScans:
        """The scans that a cell is scored on, with their references: the same slices, masks and scale for all."""
        folder = self.out / "test" / cell.test_set
        chosen = self._test_files(cell)
        wanted = {
            "subjects": sorted({info.subject for info in chosen}),
            "files": fingerprints(chosen, self.data),
            "recipe": self.recipe(cell),
            "noise": self.plan.denoises,
        }
        record = folder.with_name(f"{cell.test_set}.json")
        with locked(folder.parent, patience=600):  # another command on this folder may be writing them
            found = read_record(record)
            known = all(found.get(name) == value for name, value in wanted.items())
            if not known:  # of another comparison in this folder, or half of one
                remove_made(folder, PREPARED)
            remove_leftovers(folder.parent)
            recipe, noise = cell.config.preparation, self.plan.denoises
            scans = prepare(unchanged(chosen), recipe, folder, references=True, noise=noise)
            if not known:
                write_text(record, json.dumps({"sha256": hash_of(scans), "scans": len(scans), **wanted}, indent=2))
        return scans

    def _test_files(self, cell: Cell) -> list[FileInfo]:
        subjects = self.test_subjects(cell.config)
        return [info for info in self.files if info.subject in subjects]


def read_record(path: Path) -> Mapping[str, Any]:
    """Read a JSON file of named values; empty if there is none.

    Raises
    ------
    FileError
        If it is damaged.
    """
    if not path.exists():
        return {}
    cure = "Remove it and run the same command again"
    found = read_json(path, cure)
    if not isinstance(found, dict):
        raise FileError(path, "holds no named values", cure)
    return found


def drop_data(cell: Path) -> None:
    """Remove what a cell was trained on, which can be made again, and would be kept once per cell with references.

    Where somebody has put something else in, it stays.
    """
    with suppress(SettingError):
        remove_made(cell / "data", rf"((training|validation|full)/)?({PREPARED})")


def hash_of(scans: PreparedScans) -> str:
    """SHA-256 of the masks and acquired samples of all scans, in order."""
    digest = hashlib.sha256()
    for scan in scans:
        digest.update(repr((scan.meta.subject, scan.meta.slice, tuple(scan.mask.shape))).encode())
        digest.update(scan.mask.numpy().tobytes())
        digest.update(scan.kspace.numpy().tobytes())
    return digest.hexdigest()


def _undersampled(info: FileInfo) -> FileError:
    problem = "is undersampled, but test scans are scored against their full k-space"
    cure = "Give fully sampled scans; they are undersampled in the same way for all methods"
    return FileError(info.path, problem, cure)
