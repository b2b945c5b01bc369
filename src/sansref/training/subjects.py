"""Which subjects a run learns from, validates on and never reads; and their prepared scans."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console

from sansref.data.prepare import prepare
from sansref.data.provenance import fingerprint
from sansref.data.readers import FileInfo, ScanFiles, scan_files
from sansref.data.scan_store import PreparedScans
from sansref.errors import FileError, SettingError, told
from sansref.files import write_text
from sansref.methods import Needs
from sansref.randomness import seeded
from sansref.training.config import RunConfig, SplitOptions
from sansref.training.progress import with_bar
from sansref.training.run import RunDirectory
from sansref.training.survey import check_parts, survey
from sansref.yaml_json import read_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """Prepared scans of a run.

    ``training`` are those to learn from, for an unpaired method the undersampled ones; ``full`` are full scans of other
    people for such a method. Those for validation are of other subjects.
    """

    training: PreparedScans
    validation: PreparedScans | None = None
    full: PreparedScans | None = None


@dataclass
class SubjectReader:
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
    known
        Fingerprints that the files of ``--data`` and of ``--full`` must have; None takes them as they are.
    say
        Called with each line of the survey of the training, None for none.
    """

    config: RunConfig
    run: RunDirectory
    on_bad: Callable[[FileError], None] | None
    console: Console = field(default_factory=lambda: Console(stderr=True))
    known: tuple[Mapping[str, str], Mapping[str, str]] | None = None
    say: Callable[[str], object] | None = None

    def prepared(self, data: Path, full: Path | None) -> Splits:
        """Split and prepare; what an earlier, killed command has done is used again.

        Without a folder of full scans of other people, an unpaired method takes those of half of the subjects of
        ``data`` that are neither for validation nor for test.
        """
        found, found_full = self.files(data, full)
        files, others = found.files, [] if found_full is None else found_full.files
        _refuse_pairs(files, others)
        subjects = self._split(files, others, data, full)
        if self.say is not None and not (self.run.path / "data" / "training").exists():  # else it was said before
            skip_bad = self.on_bad is not None
            processes = self.config.machine.processes
            for row in list(survey(self.config, found, subjects, found_full, skip_bad, processes)):  # or an error
                self.say(told(row))
        training = self._prepare("training", files, subjects)
        check_parts(self.config, subjects)
        validation = self._prepare("validation", files, subjects)
        full_scans = self._prepare("full", others or files, subjects)
        assert training is not None
        return Splits(training, validation, full_scans)

    def files(self, data: Path, full: Path | None) -> tuple[ScanFiles, ScanFiles | None]:
        """Describe the files, and see to it that they are those that an earlier command has begun with.

        Raises ``FileError`` if a file cannot be used, or files have changed since, naming them.
        """
        found, others = self._files(data), None if full is None else self._files(full)
        now = fingerprints(found.files, data), fingerprints(others.files, full) if full and others else {}
        known = self.known
        if self.run.splits_file.exists():
            known = (self.run.files(), self.run.full_files())
            if known != now and not self.run.committed:  # a damaged file has stopped it, perhaps, and was replaced
                self.run.begin_anew()
                known = self.known
        for folder, before, after in zip((data, full), known or (), now, strict=False):
            if folder is not None:
                refuse_changes(folder, before, after, str(self.run.path))
        return found, others

    def _files(self, data: Path) -> ScanFiles:
        found = scan_files(data, self.config.slices.reader_options, skip_bad=self.on_bad is not None)
        for error in found.bad:
            assert self.on_bad is not None
            self.on_bad(error)
        if found.left_out:
            logger.info("%s: left out %s", data, found.left_out)
        return found

    def _split(
        self, files: list[FileInfo], others: list[FileInfo], data: Path, full: Path | None
    ) -> dict[str, list[str]]:
        if self.run.splits_file.exists():
            return self.run.subjects()
        splits = splits_of(self.config, files, others)
        write_text(self.run.files_file, json.dumps(fingerprints(files, data), indent=1))
        if full is not None:
            write_text(self.run.full_files_file, json.dumps(fingerprints(others, full), indent=1))
        people = {"data": [_person(info) for info in files], "full": [_person(info) for info in others]}
        write_text(_people_file(self.run), json.dumps(people, indent=1))
        # Last: where it is, a killed command has written the others too.
        write_text(self.run.splits_file, json.dumps(splits, indent=2))
        logger.info("subjects: %s", splits)
        return splits

    def _prepare(self, split: str, files: list[FileInfo], subjects: dict[str, list[str]]) -> PreparedScans | None:
        """References are written only for a method, or a score, that needs them."""
        chosen = [info for info in files if info.subject in subjects.get(split, [])]
        if not chosen:
            return None
        paired, scored = self.config.needs is Needs.PAIRED, self.config.training.score == "reference"
        references = {"training": paired, "validation": scored, "full": False}
        recipe = replace(self.config.preparation, undersampled=split != "full")
        shown = with_bar(unchanged(chosen), f"reading {split} scans", len(chosen), self.console)
        return prepare(
            shown, recipe, self.run.path / "data" / split, references[split], self.on_bad, self.config.denoises
        )


def split_by_subject(files: list[FileInfo], split: SplitOptions, seed: int) -> dict[str, list[str]]:
    """Subjects for training, validation and test; the same for all methods that are given the same options."""
    names = {info.subject for info in files}
    return split_subjects(names, split if len(names) > 1 else replace(split, validation=0.0), seed)


def splits_of(config: RunConfig, files: list[FileInfo], others: list[FileInfo]) -> dict[str, list[str]]:
    """Subjects of all splits of a training; ``others`` are full scans of other people, if there are any."""
    split = config.split
    if len({info.subject for info in files}) == 1:  # which the survey of the training says
        split = replace(split, test=0.0)
    splits = split_by_subject(files, split, config.data_seed)
    if others:
        splits["full"] = sorted({info.subject for info in others})
    elif config.needs is Needs.UNPAIRED:
        splits["full"], splits["training"] = split_halves(splits["training"], config.data_seed)
    return splits


def survey_of(
    config: RunConfig, data: Path, skip_bad: bool = False, full: Path | None = None
) -> Iterator[tuple[str, str]]:
    """Tell what a training on these folders would learn from and what it would take; nothing is written.

    Raises ``SansrefError`` for unusable files or settings.
    """
    options = config.slices.reader_options
    found = scan_files(data, options, skip_bad=skip_bad)
    others = None if full is None else scan_files(full, options, skip_bad=skip_bad)
    _refuse_pairs(found.files, [] if others is None else others.files)
    splits = splits_of(config, found.files, [] if others is None else others.files)
    yield from survey(config, found, splits, others, skip_bad, config.machine.processes)


def home_of(run: RunDirectory) -> Path | None:
    """The folder that a run was trained on, as far as its configuration says."""
    data = run.folder("folder")
    return None if data is None else Path(data)


def learned_subjects(run: RunDirectory, files: list[FileInfo]) -> set[str]:
    """Subjects of these files that a run trained or validated on, as far as the files are those of the run."""
    splits, learned = run.subjects(), set()
    full = splits.get("full", [])
    if knows(run, files):
        learned |= {*splits["training"], *splits["validation"]}
        if not run.full_files():
            learned |= set(full)
    if _are_among(files, run.full_files(), run.folder("full")):
        learned |= set(full)
    contents = _learned_content(run)
    return learned | {info.subject for info in files if contents and fingerprint(info.path) in contents}


def _person(info: FileInfo) -> dict[str, str]:
    """Whose a file is, for the record; its content tells it where it has another name."""
    person = {"file": str(info.path), "subject": info.subject, "recognised_by": info.recognised_by}
    return person | {"content": fingerprint(info.path)}


def _people_file(run: RunDirectory) -> Path:
    return run.path / "subjects.json"


def _learned_content(run: RunDirectory) -> set[str]:
    """Fingerprints of the files that a run learned from; none where it did not write them down."""
    file, splits = _people_file(run), run.subjects()
    if not file.exists():
        return set()
    cure = "Restore the file or train again"
    people = read_json(file, cure)
    learned = {*splits["training"], *splits["validation"], *splits.get("full", [])}
    try:
        contents = {one["content"] for one in people["data"] if one["subject"] in learned}
        return contents | {str(one["content"]) for one in people["full"]}
    except (KeyError, TypeError):
        raise FileError(file, "does not say whose files the run was given", cure) from None


def knows(run: RunDirectory, files: list[FileInfo]) -> bool:
    """Whether files belong to the data that a run was trained on: the same folder, or a copy of it.

    Names of subjects do not tell, every BIDS folder has its sub-01; one file of the same content does.
    """
    return _are_among(files, run.files(), run.folder("folder"))


def _are_among(files: list[FileInfo], known: Mapping[str, str], home: object) -> bool:
    seen = set(known.values())
    inside = Path(str(home)) if home else None
    return any(
        (inside is not None and info.path.resolve().is_relative_to(inside)) or (seen and fingerprint(info.path) in seen)
        for info in files
    )


def _refuse_pairs(files: list[FileInfo], others: list[FileInfo]) -> None:
    seen = {fingerprint(info.path) for info in files} if others else set()
    for info in others:
        if fingerprint(info.path) in seen:
            raise FileError(info.path, "is in both folders", "Give full scans of other people, or one folder as --data")


def fingerprints(files: Iterable[FileInfo], data: Path) -> dict[str, str]:
    """What files are known again by, by their path in the folder ``data``, or their name if it is the file itself."""
    return {
        info.path.name if info.path == data else info.path.relative_to(data).as_posix(): fingerprint(info.path)
        for info in files
    }


def refuse_changes(data: Path, known: Mapping[str, str], now: Mapping[str, str], used: str) -> None:
    """See to it that data, known by fingerprints by name, are what they were when ``used`` was begun with them.

    Raises ``FileError`` that names what has come, gone or changed.
    """
    shared = known.keys() & now.keys()
    changes = [
        *(f"{name} has changed" for name in sorted(shared) if known[name] != now[name]),
        *(f"{name} is gone" for name in sorted(known.keys() - shared)),
        *(f"{name} is new" for name in sorted(now.keys() - shared)),
    ]
    if changes:
        more = f", and {len(changes) - 3} more" if len(changes) > 3 else ""
        problem = f"no longer holds the files that {used} was begun with ({', '.join(changes[:3])}{more})"
        raise FileError(data, problem, "Restore them, or choose another --out")


def unchanged(files: Iterable[FileInfo]) -> Iterator[FileInfo]:
    """Give files one after the other to be read, and refuse one that has changed meanwhile."""
    for info in files:
        before = fingerprint(info.path)
        yield info
        if fingerprint(info.path) != before:
            raise FileError(
                info.path, "changed while it was read", "Wait until it is complete, then run the command again"
            )


def split_subjects(subjects: Iterable[str], split: SplitOptions, seed: int) -> dict[str, list[str]]:
    """Divide subjects at random into those for training, validation and test.

    Raises ``SettingError`` if there are too few subjects to give every split one, or fewer than folds, if there is no
    such fold, or if folds and a test fraction are both given.

    Parameters
    ----------
    subjects
        One name per scan or file; repeats count once.
    split
        A positive fraction gives at least one subject. A fold is its share of the random order, which differs by at
        most one subject between folds; validation is taken from behind it, so that its subjects change from fold to
        fold as well.
    seed
        Seed of the random order, which all folds have in common.

    Returns
    -------
    dict
        Sorted subject names of each split; the splits are disjoint and complete.
    """
    names = sorted(set(subjects))
    order = [names[i] for i in torch.randperm(len(names), generator=seeded(seed, "split")).tolist()]
    number, folds, tested = split.fold, split.folds, list[str]()
    if folds:
        if folds < 2:
            raise SettingError(f"a cross-validation takes at least 2 folds, got {folds}")
        if not 0 <= number < folds:
            raise SettingError(f"{folds} folds are numbered from 0 to {folds - 1}, there is no fold {number}")
        if split.test != 0:
            raise SettingError(
                f"the test split is fold {number} of {folds} or a fraction, not both: set the test fraction to 0, "
                f"got {split.test:g} (--test 0, or --folds 0)"
            )
        if len(names) < folds:
            told = f"{len(names)} subject(s) cannot be split into {folds} folds"
            raise SettingError(f"{told}: add subjects or take fewer folds (--folds)")
        start, stop = (each * len(names) // folds for each in (number, number + 1))
        tested, order = order[start:stop], order[stop:] + order[:start]
    shares, splits = {"validation": split.validation, "test": split.test}, dict[str, list[str]]()
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise SettingError(f"the {name} fraction must lie in [0, 1), got {share}: change --{name}")
        count = max(1, round(share * len(names))) if share > 0 else 0
        splits[name], order = sorted(order[:count]), order[count:]
    if not order:
        test = f"one of {folds} folds" if folds else f"{split.test:g}"
        told = f"{len(names)} subject(s) cannot be split into training and validation {split.validation:g}, test {test}"
        options = " or ".join(f"--{name}" for name, share in shares.items() if share > 0) or "--folds"
        raise SettingError(f"{told}: add subjects or set {options} to 0")
    return {"training": sorted(order), **splits, "test": sorted(tested) or splits["test"]}


def split_halves(subjects: Iterable[str], seed: int) -> tuple[list[str], list[str]]:
    """Divide subjects at random into sorted names of those with full scans and of those with undersampled ones.

    So unpaired data are emulated from full scans; the code of ISCL (Lee and Jeong, IEEE TMI 40:3238, 2021) halves its
    images, not its subjects, and takes the first half as the full one too. Of an odd number the undersampled half,
    which is learned to be reconstructed, gets one more. Raises ``SettingError`` if there are fewer than two subjects.
    """
    names = sorted(set(subjects))
    if len(names) < 2:
        told = f"{len(names)} subject(s) cannot be halved into full and undersampled scans"
        raise SettingError(f"{told}: at least 2 are needed")
    order = [names[i] for i in torch.randperm(len(names), generator=seeded(seed, "halves")).tolist()]
    half = len(order) // 2
    return sorted(order[:half]), sorted(order[half:])
