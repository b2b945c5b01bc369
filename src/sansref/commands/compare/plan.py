"""What is compared: methods x accelerations x folds x seeds, from one YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from sansref.errors import UNTRAINED, FileError, SettingError, did_you_mean
from sansref.files import fitting
from sansref.methods.classical.regularisation import ClassicalName
from sansref.methods.registry import METHODS
from sansref.presets import preset_file
from sansref.settings import merged, named_method, new_parser, read
from sansref.training.config import RunConfig
from sansref.yaml_json import read_yaml

REMOVABLE = ("methods", "accelerations")
"""What a plan can leave out single entries of."""


def read_plan(path: Path, _above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a plan, on top of those of the plan that it ``extends``.

    Mappings are merged at every depth, and anything else takes the place of what stood there; of accelerations, a list
    says which, and their settings stay. A method or an acceleration whose settings are null is left out; elsewhere null
    is a value, as ``snr: null`` is for no noise.

    Parameters
    ----------
    path
        Path of the file. ``extends`` names another one, from the folder of this one, or a packaged comparison.

    Raises
    ------
    SettingError
        If there is no such plan, the plans extend each other in a circle, or one leaves out what the other has not.
    FileError
        If a file is not readable YAML.
    """
    own = read_yaml(path)
    listed = isinstance(own.get("accelerations"), list)
    if "accelerations" in own:
        own["accelerations"] = _accelerations(path, own["accelerations"])
    name = own.pop("extends", None)
    if name is None:
        return own
    if not isinstance(name, str):
        raise SettingError(f"{path}: 'extends' must be the name of another plan, got {name!r}")
    beside = path.parent / name
    try:
        base = beside if beside.is_file() else preset_file(name)
    except SettingError as error:
        raise SettingError(f"{path}: extends: {error}") from None
    above = (*_above, path.resolve())
    if base.resolve() in above:
        raise SettingError(f"{path}: extends {name!r}, which itself builds on this plan: take one 'extends' away")
    below = read_plan(base, above)
    if listed:
        known = below.pop("accelerations", {})
        own["accelerations"] = {value: known.get(value) or {} for value in own["accelerations"]}
    values = merged(below, own)
    for group in REMOVABLE:
        there = below.get(group)
        for entry in _left_out(own.get(group)):
            if not isinstance(there, Mapping) or entry not in there:
                what = f"{entry:g}" if isinstance(entry, float) else repr(entry)
                raise SettingError(f"{path}: {group}: leaves out {what}, which is not in {base}")
            del values[group][entry]
    return values


def _accelerations(path: Path, given: object) -> dict[float, Mapping[str, Any] | None]:
    if not isinstance(given, list | Mapping):
        raise SettingError(f"{path}: 'accelerations' must be a list such as [4, 8]")
    found = {}
    for value, settings in given.items() if isinstance(given, Mapping) else ((value, {}) for value in given):
        if not (settings is None or isinstance(settings, Mapping)):
            raise SettingError(f"{path}: acceleration {value} must hold settings such as 'center: 0.08'")
        try:
            found[float(value)] = settings
        except (TypeError, ValueError):
            raise SettingError(f"{path}: accelerations takes numbers, not {value!r}") from None
    return found


def _left_out(group: object) -> list[Any]:
    return [name for name, settings in group.items() if settings is None] if isinstance(group, Mapping) else []


CHOSEN = get_args(ClassicalName)
"""Methods that are not trained, but have a number that is chosen."""

SAME = ("data", "sampling", "coils", "split")
"""Groups of settings that no method may have for itself: the same slices, masks and splits for all."""

PLANNED = {
    **{"sampling.acceleration": "accelerations", "split.folds": "folds", "split.fold": "run_folds"},
    "training.seed": "seeds",
}
"""Settings of a training that follow from its place in the grid, by what says so in the plan."""


@dataclass(frozen=True)
class Cell:
    """One training, or one choice of parameters, and its scores.

    Attributes
    ----------
    label
        The method as the table names it.
    method
        Its name; one of :data:`~sansref.errors.UNTRAINED`, or as in :class:`RunConfig`.
    acceleration, fold, seed
        Where in the grid.
    config
        Of the training; for a method that is not trained, of the data alone.
    """

    label: str
    method: str
    acceleration: float
    fold: int
    seed: int
    config: RunConfig

    @property
    def learned(self) -> bool:
        """Whether there is anything to train."""
        return self.method not in UNTRAINED

    @property
    def chosen(self) -> bool:
        """Whether it has a number to choose instead."""
        return self.method in CHOSEN

    @property
    def rescaled(self) -> bool:
        """Whether it is the zero-filled image at its best scale, which takes the reference."""
        return self.method == "zero_filled_best_scale"

    @property
    def name(self) -> str:
        """Its folder below ``cells``."""
        return f"{slug(self.label)}/{acceleration_name(self.acceleration)}-fold{self.fold}-seed{self.seed}"

    @property
    def test_set(self) -> str:
        """Name of the test scans that it is scored on."""
        return f"{acceleration_name(self.acceleration)}-fold{self.fold}"


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Attributes
    ----------
    title
        Of tables and report.
    methods
        Settings of each method by its label; ``method`` is its name and options, ``like`` another label
        and ``preset`` a preset whose settings it begins with; those of a preset's data are left out.
    shared
        Settings of all methods: those of the data, which no method can change, and others, which it can.
    accelerations
        Settings for each acceleration.
    folds
        Parts of the cross-validation; 0 for one split with the share ``split.test`` of ``shared``.
    run_folds
        Which of them, all if empty.
    seeds
        Of the trainings; splits, masks and simulation stay the same.
    seed_per_fold
        Add the number of the fold to the seed, so that one training per fold samples chance as well as subjects.
    baseline
        Label that the others are tested against.
    gap
        Labels of the lower and of the upper end of the gap that methods close, or None.
    normalise
        none, or minmax where methods give relative grey values only.
    figures
        Slices of each acceleration that the report shows.
    """

    title: str
    methods: Mapping[str, Mapping[str, Any]]
    accelerations: Mapping[float, Mapping[str, Any]]
    baseline: str
    shared: Mapping[str, Any] = field(default_factory=dict)
    folds: int = 0
    run_folds: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    seed_per_fold: bool = False
    gap: tuple[str, str] | None = None
    normalise: Literal["none", "minmax"] = "none"
    figures: int = 6

    def __post_init__(self) -> None:
        for place, labels in (("baseline", [self.baseline]), ("gap", self.gap or [])):
            for label in labels:
                if label not in self.methods:
                    near = did_you_mean(label, self.methods)
                    raise SettingError(f"{place} names {label!r}, which is not one of {', '.join(self.methods)}{near}")
        taken: dict[str, str] = {}
        for label in self.methods:
            if (other := taken.setdefault(slug(label), label)) != label:
                raise SettingError(f"methods {other!r} and {label!r} would share a folder: give them different names")
        if not self.accelerations or not self.seeds:
            raise SettingError("a comparison needs at least one acceleration and one seed")
        if self.normalise not in ("none", "minmax"):
            raise SettingError(f"normalise must be none or minmax, got {self.normalise!r}")
        for name, numbers in (("seeds", self.seeds), ("run_folds", self.run_folds)):
            if len(set(numbers)) < len(numbers):
                raise SettingError(f"{name} must not repeat, got {list(numbers)}")
        groups = {"shared": self.shared, **{acceleration_name(a): own for a, own in self.accelerations.items()}}
        for group, settings in groups.items():
            for name, planned in PLANNED.items():
                outer, _, inner = name.partition(".")
                if isinstance(own := settings.get(outer), Mapping) and inner in own:
                    raise SettingError(f"{name!r} under {group!r} would have no effect: the plan's {planned!r} sets it")
        if any(not 0 <= fold < max(self.folds, 1) for fold in self.run_folds):
            raise SettingError(f"run_folds must lie in 0 to {max(self.folds, 1) - 1}, got {list(self.run_folds)}")

    @cached_property
    def denoises(self) -> bool:
        """Whether any method takes noise out."""
        return any(cell.method == "non_local_means" or cell.config.denoises for cell in self.cells)

    @cached_property
    def cells(self) -> list[Cell]:
        """The grid, in the order of work: whole columns of the table first.

        Raises
        ------
        SettingError
            Naming the method whose settings are impossible.
        """
        folds = self.run_folds or tuple(range(max(self.folds, 1)))
        return [
            self._cell(label, acceleration, fold, self.seed_of(fold, seed))
            for seed in self.seeds
            for fold in folds
            for acceleration in self.accelerations
            for label in self.methods
        ]

    def _own(self, label: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
        """A method's own settings, on top of those of the method that it is ``like``."""
        own = dict(self.methods[label])
        if "method" in own:
            own["method"] = named_method(own["method"])
        other = own.pop("like", None)
        if other is None:
            return {"method": {}, **own}
        if other not in self.methods:
            near = did_you_mean(str(other), self.methods)
            raise SettingError(
                f"method {label!r}: is 'like' {other!r}, which is not one of {', '.join(self.methods)}{near}"
            )
        if other in (*above, label):
            raise SettingError(
                f"method {label!r}: is 'like' {other!r}, which is 'like' this method: define one of them"
            )
        return merged(self._own(other, (*above, label)), own)

    def seed_of(self, fold: int, seed: int | None = None) -> int:
        """The seed of a fold's training; its first one by default."""
        seed = self.seeds[0] if seed is None else seed
        return seed + fold if self.seed_per_fold else seed

    def _cell(self, label: str, acceleration: float, fold: int, seed: int) -> Cell:
        own = self._own(label)
        method = own["method"].get("name")
        if method is None:
            raise SettingError(f"method {label!r}: has no 'method', such as 'method: ssdu'")
        known = [*METHODS, *UNTRAINED]
        if method not in known and ":" not in str(method):
            cure = did_you_mean(
                str(method), known, f"use one of {', '.join(known)}, or module:Class for one of your own"
            )
            raise SettingError(f"method {label!r}: there is no method {method!r}{cure}")
        preset = own.pop("preset", None)
        base = {} if preset is None else _of_method(read_yaml(preset_file(str(preset))))
        base["method"] = named_method(base.get("method", method))
        if (of := base["method"].setdefault("name", method)) != method:
            raise SettingError(f"method {label!r}: the preset {preset!r} belongs to method {of!r}, not {method!r}")
        if forbidden := [*(own.keys() & {*SAME}), *(["training.seed"] if "seed" in own.get("training", {}) else [])]:
            raise SettingError(f"method {label!r}: {min(forbidden)!r} must be the same for all: set it under 'shared'")
        shared = merged(self.shared, self.accelerations[acceleration])
        place = {
            "sampling": {"acceleration": acceleration},
            "split": {"folds": self.folds, "fold": fold},
            "training": {"seed": seed},
        }
        same = merged({"split": {"seed": 0}}, merged({name: shared[name] for name in SAME if name in shared}, place))
        if same["split"]["seed"] is None:
            raise SettingError("split.seed must be a number: all trainings of a comparison share one split")
        settings = merged(merged(merged(_of_method(shared), base), own), same)
        if method in UNTRAINED:
            settings = {"method": "ssdu", **same}
        try:
            config = RunConfig.from_values(settings)
        except (SettingError, TypeError, ValueError) as error:
            raise SettingError(f"method {label!r}: {error}") from None
        if config.machine.processes > 1:
            problem = "a comparison trains each cell in one process"
            raise SettingError(f"method {label!r}: {problem}: leave out machine.devices")
        return Cell(label, method, acceleration, fold, seed, config)


def load_plan(name: str) -> Plan:
    """Read a comparison from a YAML file, or from a preset; see :func:`read_plan` for one that extends another.

    Raises
    ------
    SettingError
        If there is no such file, or it asks for something impossible.
    FileError
        If it is not readable YAML.
    """
    path = preset_file(name)
    values = read_plan(path)
    values.pop("templates", None)
    if values.pop("kind", None) != "comparison":
        raise FileError(
            path, "is not the plan of a comparison ('kind: comparison' is missing)", "Use 'sansref train --config'"
        )
    known = {entry.name: entry for entry in fields(Plan)}
    unknown = values.keys() - known.keys()
    if unknown:
        cure = did_you_mean(first := min(map(str, unknown)), known, f"use {', '.join(known)}")
        raise SettingError(f"{path}: unknown setting {first!r}{cure}")
    if not isinstance(values.get("accelerations"), Mapping):
        raise SettingError(f"{path}: 'accelerations' must be a list such as [4, 8]")
    values["accelerations"] = {value: settings or {} for value, settings in values["accelerations"].items()}
    for entry in ("methods", "shared"):
        if not isinstance(values.get(entry, {}), Mapping):
            raise SettingError(f"{path}: {entry!r} must be settings by name")
    for label, own in values.get("methods", {}).items():
        if not isinstance(label, str):
            raise SettingError(f"{path}: method {label!r} must be a name: put it in quotes")
        if not isinstance(own, Mapping):
            raise SettingError(f"{path}: method {label!r} must hold settings such as 'method: ssdu'")
    groups = {name: values.pop(name) for name in ("methods", "shared", "accelerations") if name in values}
    parser = new_parser("sansref compare", None)
    parser.add_class_arguments(Plan, None, skip={"methods", "shared", "accelerations"}, as_group=False)
    try:
        return Plan(**groups, **read(parser, values))
    except (SettingError, TypeError) as error:  # the latter for one that is missing
        raise SettingError(f"{path}: {error}") from None


def _of_method(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that are the same for all methods."""
    return {name: value for name, value in settings.items() if name not in SAME}


def acceleration_name(acceleration: float) -> str:
    """As it is written, such as 4x."""
    return f"{acceleration:g}x"


def slug(label: str) -> str:
    """A label as a folder's name."""
    return fitting(re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-"), 200) or "method"
