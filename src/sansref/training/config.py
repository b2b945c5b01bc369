"""The complete configuration of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import torch

from sansref.data.coil_maps import CoilOptions
from sansref.data.prepare import Preparation
from sansref.data.simulate import Sampling, Simulation
from sansref.data.slices import Slices
from sansref.errors import SettingError, did_you_mean
from sansref.kspace.masks.family import MaskFamily
from sansref.methods import Method, Needs
from sansref.methods.registry import find_method
from sansref.networks import NetworkOptions, Reconstructor, TranslatorOptions

LARGEST = 2**53
"""Of whole numbers, below which all are exact as floating point numbers too; seeds may be a thousand times as large."""


def checked(name: str, value: Any, hint: Any) -> Any:
    """A value of the declared type: a list becomes a tuple, and a number that YAML leaves as text (1e-3) a number.

    Parameters
    ----------
    name
        Of the setting, for the message.
    value
        As it was read.
    hint
        A class, a ``Literal``, a tuple of them, or any of several; what is something else is not checked.

    Raises
    ------
    SettingError
        If the value is not one of the choices, of another type, or a whole number beyond any use.
    """
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, str) and holds_numbers(hint) and re.fullmatch(r"\s*\d+(\s*[x,]\s*\d+)+\s*", value):
        value = tuple(map(int, re.findall(r"\d+", value)))
    if isinstance(value, str) and not _fits(value, hint) and _fits(0.0, hint):
        with suppress(ValueError):  # told below, as it stands in the file
            value = float(value)
    if not _fits(value, hint):
        raise SettingError(f"{name} takes {in_words(hint)}, not {value!r}{_nearest(value, hint)}")
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(number, int) and abs(number) > LARGEST for number in numbers):
        raise SettingError(f"{name} takes whole numbers up to {LARGEST}, which {value!r} is beyond")
    return value


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        inner = inner[:1] * len(value) if Ellipsis in inner else inner
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str | Path)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _nearest(value: Any, hint: Any) -> str:
    return did_you_mean(str(value), choices(hint))


def choices(hint: Any) -> list[str]:
    """The values of a ``Literal``, also of one among several types, as they are written."""
    if get_origin(hint) is Literal:
        return list(map(str, get_args(hint)))
    return [value for one in get_args(hint) for value in choices(one)]


def holds_numbers(hint: Any) -> bool:
    """Whether values are tuples of whole numbers, or may be."""
    if get_origin(hint) is tuple:
        return int in get_args(hint)
    return any(holds_numbers(one) for one in get_args(hint))


def in_words(hint: Any) -> str:
    """What values of a type are, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(in_words(one) for one in inner)
    if origin is tuple:
        if set(inner) == {int}:
            return f"{len(inner)} whole numbers such as {','.join(['128'] * len(inner))}"
        return "a list" if Ellipsis in inner else f"a list of {len(inner)}"
    names = {NoneType: "null", int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    names[Path] = "a path"
    return names.get(hint, getattr(hint, "__name__", str(hint)))


MACHINE_SETTINGS = frozenset({"workers", "threads", "accelerator", "devices", "num_nodes"})
"""What says where a run is trained and not what it learns: the numbers agree to rounding whatever they are."""


@dataclass(frozen=True)
class TrainingOptions:
    """Training and model selection.

    Attributes
    ----------
    epochs
        Passes over the training scans, at most; in each stage, for a method with stages.
    repeats
        Visits to each scan per pass, each with a new partition; for training on very few scans.
    mirror
        Show a scan mirrored or as its complex conjugate, each choice by chance, instead of as it is; for methods that
        learn from k-space.
    batch_size
        Scans per step, of all processes together: the same whatever number of them shares the work.
    learning_rate
        At the start of training; see schedule.
    optimizer
        adam, or radam (rectified Adam).
    schedule
        cooldown: lower the learning rate with every step during the last 30 % of all stages together, to almost zero;
        linear: so from the beginning; plateau: lower it when the validation score stops falling, in each stage anew.
        Stages that start from new weights have the schedule for themselves.
    plateau_factor
        Multiply the learning rate by this when the validation score stops falling.
    plateau_patience
        Epochs without a better score before that happens.
    patience
        Epochs without a better score before a stage ends, with keep best and the plateau schedule; the others run to
        their end.
    keep
        The weights of the epoch with the best validation score (best), or those at the end (last); of a method with
        stages, those of the stage with the best score.
    average_from
        Use the mean of the weights over all steps after this share of them (stochastic weight averaging); null uses
        the weights as they are. In adversarial training, the generators' weights.
    lookahead
        Every so many steps, draw the weights of discriminators and noise extractor back half-way to where they were
        that many steps ago (Lookahead); 0 switches it off.
    validation
        Share of the subjects kept for validation; a single subject is validated on held-out samples of its
        own scans.
    test
        Share of the subjects never read, neither for training nor for validation.
    folds
        Cross-validation: divide the subjects into so many parts and set one aside as test; 0 uses --test instead.
    fold
        Which of them, from 0.
    held_out
        Share of a validation scan's acquired samples held out from the network's input for the reference-free
        score.
    score
        What drives learning rate, early stop and best model: the reference-free score (held_out), or the NMSE
        against full references (reference), which imitates the literature and needs them.
    snapshots
        Keep the weights of every epoch, to study how training went.
    seed
        Of everything random: splits, simulation, partitions, weights.
    data_seed
        Of splits and simulation alone, to repeat a training on the same data; null takes the seed.
    workers
        Processes that make batches; 0 makes them in the main process.
    threads
        CPU threads; 0 leaves PyTorch's choice.
    accelerator
        auto, cpu, gpu, ... as Lightning Fabric names them.
    devices
        Processes per machine, each with a GPU or its share of the cores, that train together.
    num_nodes
        Machines that train together, see docs/cluster.md.
    precision
        Precision of the network, as Lightning Fabric names it; transforms are always float32.
    """

    epochs: int = 20
    repeats: int = 1
    mirror: bool = False
    batch_size: int = 4
    learning_rate: float = 1e-3
    optimizer: Literal["adam", "radam"] = "adam"
    schedule: Literal["plateau", "linear", "cooldown"] = "cooldown"
    plateau_factor: float = 0.3
    plateau_patience: int = 5
    patience: int = 10
    keep: Literal["best", "last"] = "best"
    average_from: float | None = None
    lookahead: int = 6
    validation: float = 0.15
    test: float = 0.0
    folds: int = 0
    fold: int = 0
    held_out: float = 0.1
    score: Literal["held_out", "reference"] = "held_out"
    snapshots: bool = False
    seed: int = 0
    data_seed: int | None = None
    workers: int = 0
    threads: int = 0
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"

    @property
    def processes(self) -> int:
        """That train together, on all machines."""
        return self.devices * self.num_nodes

    def score_decides(self, stages: int) -> bool:
        """Whether the validation score has a say in what a method of so many stages learns, or in what is kept."""
        return self.keep == "best" or self.schedule == "plateau" or stages > 1

    @property
    def seed_of_data(self) -> int:
        """Of splits and simulation."""
        return self.seed if self.data_seed is None else self.data_seed

    def __post_init__(self) -> None:
        for name in ("epochs", "repeats", "batch_size", "plateau_patience", "patience", "devices", "num_nodes"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("workers", "threads", "lookahead", "folds"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("seed", "data_seed"):
            checked(name, getattr(self, name), int | None)
        if self.fold > 0 and self.folds == 0:
            raise SettingError(f"fold {self.fold} of how many? give --folds too")
        for name in ("held_out", "plateau_factor"):
            if not 0 < getattr(self, name) < 1:
                raise SettingError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.average_from is not None and not 0 <= self.average_from < 1:
            raise SettingError(f"average_from must lie in [0, 1), or be null, got {self.average_from}")
        if not self.learning_rate > 0:
            raise SettingError(f"learning_rate must be positive, got {self.learning_rate}")


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run but the data themselves.

    Attributes
    ----------
    method
        Name of a method, see :func:`sansref.methods.registry.find_method`.
    options
        The method's own options.
    network
        Which network.
    selection, simulation, sampling, coils
        How files become undersampled scans.
    training
        How the network is trained.
    magnitude
        Simulate from the magnitude of measured k-space, see :class:`sansref.data.prepare.Preparation`.
    """

    method: str
    options: Any
    network: NetworkOptions | TranslatorOptions = field(default_factory=NetworkOptions)
    selection: Slices = field(default_factory=Slices)
    simulation: Simulation = field(default_factory=Simulation)
    sampling: Sampling = field(default_factory=Sampling)
    coils: CoilOptions = field(default_factory=CoilOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    magnitude: bool = False

    groups: ClassVar[dict[str, type[Any]]] = {
        "selection": Slices,
        "simulation": Simulation,
        "sampling": Sampling,
        "coils": CoilOptions,
        "training": TrainingOptions,
    }

    def __post_init__(self) -> None:
        kind = self.kind
        if not isinstance(self.options, kind.options_type) or not isinstance(self.network, kind.network_type):
            raise ValueError(
                f"method {self.method!r} takes {kind.options_type.__name__} and {kind.network_type.__name__}, got "
                f"{type(self.options).__name__} and {type(self.network).__name__}"
            )
        if self.training.mirror and not isinstance(self.network, NetworkOptions):
            raise SettingError(f"method {self.method!r} learns from images: leave out --mirror")
        if self.simulation.coils > 1 and isinstance(self.network, NetworkOptions) and not self.network.complex:
            raise SettingError("a real network cannot combine coils: use --network.complex true, or --coils 1")

    @property
    def kind(self) -> type[Method]:
        """The method's class."""
        return find_method(self.method)

    @property
    def needs(self) -> Needs:
        """What the method must be given."""
        return self.kind.needs

    @property
    def preparation(self) -> Preparation:
        """How files become undersampled scans."""
        return Preparation(
            self.selection,
            self.simulation,
            self.sampling,
            self.magnitude,
            self.training.seed_of_data,
            coils=self.coils,
        )

    def build(self, stage: int = 0, family: MaskFamily | None = None) -> Method:
        """The method with new weights, which depend on seed and stage alone."""
        kind: Any = self.kind
        knows_law = [family or self.sampling.family(emulated=True)] if self.needs is Needs.UNDERSAMPLED else []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * self.training.seed + stage)
            network = Reconstructor(self.network) if isinstance(self.network, NetworkOptions) else self.network
            method: Method = kind(network, self.options, *knows_law)
        return method

    def flat(self) -> dict[str, Any]:
        """Names and values as they stand in YAML and on the command line."""
        values: dict[str, Any] = {"method": self.method, "magnitude": self.magnitude}
        for group in ("options", *self.groups):
            values |= asdict(getattr(self, group))
        values["network"] = asdict(self.network)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> RunConfig:
        """Inverse of :meth:`flat`.

        Raises
        ------
        SettingError
            For a method, a name or a choice that does not exist, or a value of another type.
        """
        given = dict(values)
        method = given.pop("method", None)
        kind = find_method(str(method))
        parts = {"options": _take(kind.options_type, given)}
        given = {**kind.training_defaults, **given}
        parts |= {group: _take(options, given) for group, options in cls.groups.items()}
        network = given.pop("network", {})
        if not isinstance(network, Mapping):
            raise SettingError(f"network must hold settings such as 'phases: 9', got {network!r}")
        inner = dict(network)
        parts["network"] = _take(kind.network_type, inner, "network.")
        magnitude = checked("magnitude", given.pop("magnitude", False), bool)
        unknown = [*given, *(f"network.{name}" for name in inner)]
        if unknown:
            known = [name for kind in (kind.options_type, *cls.groups.values()) for name in _names(kind)]
            known += [*(f"network.{name}" for name in _names(kind.network_type)), "network", "magnitude"]
            cure = did_you_mean(first := min(map(str, unknown)), known, f"see 'sansref train {method} --help'")
            raise SettingError(f"unknown setting {first!r} for method {method!r}{cure}")
        return cls(method=method, magnitude=magnitude, **parts)


def _names(kind: type[Any]) -> list[str]:
    return [entry.name for entry in fields(kind)]


def _take(kind: type[Any], given: dict[str, Any], place: str = "") -> Any:
    """Build one group of options from the names that are its own."""
    names = [name for name in _names(kind) if name in given]
    hints = get_type_hints(kind)
    return kind(**{name: checked(f"{place}{name}", given.pop(name), hints[name]) for name in names})
