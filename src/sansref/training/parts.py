"""Which subjects a run learns from, validates on and never reads; and their prepared scans."""

from __future__ import annotations

import filecmp
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from sansref.data.prepare import Preparation, prepare
from sansref.data.prepared import PreparedScans
from sansref.data.readers import FileInfo, ReaderOptions, open_scan_file, scan_folder
from sansref.data.splits import Fold, split_halves, split_subjects
from sansref.errors import FileError, SettingError
from sansref.files import write_text
from sansref.methods import Needs
from sansref.training.config import RunConfig
from sansref.training.options import TrainingOptions
from sansref.training.run import RunDirectory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """Prepared scans of a run.

    Attributes
    ----------
    training
        Scans to learn from; the undersampled ones, for an unpaired method.
    validation
        Scans of other subjects, or None.
    full
        Full scans of other people, for an unpaired method.
    """

    training: PreparedScans
    validation: PreparedScans | None = None
    full: PreparedScans | None = None


@dataclass
class Intake:
    """Reads the folders of a run.

    Attributes
    ----------
    config
        Everything that determines the run but the data.
    run
        The run directory, started.
    on_bad
        Called for an unreadable file, which is then left out; None stops at the first.
    console
        Where progress is drawn.
    """

    config: RunConfig
    run: RunDirectory
    on_bad: Callable[[FileError], None] | None
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def parts(self, data: Path, full: Path | None) -> Parts:
        """Split and prepare; what an earlier, killed command has done is used again.

        Parameters
        ----------
        data
            Folder of scans, or one file.
        full
            Folder of full scans of other people, for an unpaired method; None takes half of the subjects of ``data``
            that are neither for validation nor for test.
        """
        files = self._files(data)
        others = [] if full is None else self._files(full)
        _refuse_pairs(files, others)
        subjects = self._split(files, others)
        training = self._prepare("training", files, subjects)
        validation = self._prepare("validation", files, subjects)
        full_scans = self._prepare("full", others or files, subjects)
        self._check(training, validation)
        assert training is not None
        return Parts(training, validation, full_scans)

    def _files(self, data: Path) -> list[FileInfo]:
        files, bad = scan_files(data, self.config.selection.reader_options, skip_bad=self.on_bad is not None)
        for error in bad:
            assert self.on_bad is not None
            self.on_bad(error)
        return files

    def _split(self, files: list[FileInfo], others: list[FileInfo]) -> dict[str, list[str]]:
        if self.run.splits_file.exists():
            return self.run.subjects()
        parts = split_by_subject(files, self.config.training)
        if others:
            parts["full"] = sorted({info.subject for info in others})
        elif self.config.needs is Needs.UNPAIRED:
            parts["full"], parts["training"] = split_halves(parts["training"], self.config.training.seed_of_data)
        write_text(self.run.files_file, json.dumps(sorted(_identity(info) for info in files)))
        if others:
            write_text(self.run.full_files_file, json.dumps(sorted(_identity(info) for info in others)))
        write_text(self.run.splits_file, json.dumps(parts, indent=2))
        logger.info("subjects: %s", parts)
        return parts

    def _prepare(self, part: str, files: list[FileInfo], subjects: dict[str, list[str]]) -> PreparedScans | None:
        """References are written only for a method, or a score, that needs them."""
        chosen = [info for info in files if info.subject in subjects.get(part, [])]
        if not chosen:
            return None
        options = self.config.training
        references = {
            "training": self.config.needs is Needs.PAIRED,
            "validation": options.score == "reference",
            "full": False,
        }
        recipe: Preparation = replace(self.config.preparation, undersampled=part != "full")
        title = f"reading {part} scans"
        shown = track(chosen, title, console=self.console, transient=True, disable=not self.console.is_terminal)
        return prepare(shown, recipe, self.run.path / "data" / part, references[part], self.on_bad)

    def _check(self, training: PreparedScans | None, validation: PreparedScans | None) -> None:
        if training is None:
            raise SettingError("there is no training scan: add subjects or lower --validation and --test")
        options, paired = self.config.training, self.config.needs is Needs.PAIRED
        if validation is None and (options.score == "reference" or (paired and options.score_decides(stages=1))):
            # Samples held out of a scan whose reference is the target would be no secret.
            raise SettingError("learning from references needs other subjects to validate on: add some")


def split_by_subject(files: list[FileInfo], options: TrainingOptions) -> dict[str, list[str]]:
    """Subjects for training, validation and test; the same for all methods that are given the same options."""
    names = {info.subject for info in files}
    fractions = {"training": 0.0, "validation": options.validation if len(names) > 1 else 0.0, "test": options.test}
    fold = Fold(options.fold, options.folds) if options.folds else None
    return split_subjects(names, fractions, options.seed_of_data, fold)


def scan_files(data: Path, options: ReaderOptions, skip_bad: bool) -> tuple[list[FileInfo], list[FileError]]:
    """Describe one file, or every scan file of a folder and what is wrong with the others."""
    if data.is_file():
        return [open_scan_file(data, options).describe(data)], []
    return scan_folder(data, options, skip_bad=skip_bad)


def learned_subjects(run: RunDirectory, files: list[FileInfo]) -> set[str]:
    """Subjects of these files that a run trained or validated on, as far as the files are those of the run."""
    parts, learned = run.subjects(), set()
    full = parts.get("full", [])
    if knows(run, files):
        learned |= {*parts["training"], *parts["validation"]}
        if not run.full_files():
            learned |= set(full)
    if _are_among(files, run.full_files(), run.read_config().get("full")):
        learned |= set(full)
    return learned


def knows(run: RunDirectory, files: list[FileInfo]) -> bool:
    """Whether files belong to the data that a run was trained on: the same folder, or a copy of it.

    Names of subjects do not tell, every BIDS folder has its sub-01; one file of the same name and size does.
    """
    return _are_among(files, run.files(), run.read_config()["data"])


def _are_among(files: list[FileInfo], known: list[tuple[str, int]], home: object) -> bool:
    seen = set(known)
    inside = Path(str(home)) if home else None
    return any(
        _identity(info) in seen or (inside is not None and info.path.resolve().is_relative_to(inside)) for info in files
    )


def _refuse_pairs(files: list[FileInfo], others: list[FileInfo]) -> None:
    seen = {_identity(info): info.path for info in files}
    for info in others:
        twin = seen.get(_identity(info))
        # Uncompressed volumes of one matrix have one size, and every BIDS folder has its sub-01.
        if twin is not None and filecmp.cmp(info.path, twin, shallow=False):
            raise FileError(info.path, "is in both folders", "Give full scans of other people, or one folder as --data")


def _identity(info: FileInfo) -> tuple[str, int]:
    return info.path.name, info.path.stat().st_size
