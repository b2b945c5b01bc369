"""The complete configuration of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser

from sansref.data.coil_maps import CoilOptions
from sansref.data.prepare import Preparation
from sansref.data.simulate import Sampling, Simulation
from sansref.data.slices import Slices
from sansref.errors import SettingError, did_you_mean
from sansref.kspace.masks.family import MaskFamily
from sansref.methods import Method, Needs
from sansref.methods.registry import find_method
from sansref.networks import NetworkOptions, Reconstructor, TranslatorOptions
from sansref.settings import HIDDEN, grouped, merged, named_method, new_parser, read

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true", "auto"]
Threads = int | Literal["auto"]


@dataclass(frozen=True)
class SplitOptions:
    """Which subjects and which samples a run does not learn from.

    Attributes
    ----------
    validation
        Fraction of the subjects kept for validation. A single subject is validated on held-out samples of its own
        scans.
    test
        Fraction of the subjects set aside for testing. Nothing is learned from them; of their files only headers are
        read, and one slice where only it shows the mask.
    folds
        Number of parts for cross-validation, one of which is set aside for testing; 0 uses test instead.
    fold
        Which part is set aside for testing, counted from 0.
    held_out
        Fraction of the acquired samples of a validation scan that the network is not given; the held-out error is
        computed on them.
    seed
        Seed of the split and the simulation, to repeat a training on the same data; null uses training.seed.
    """

    validation: float = 0.15
    test: float = 0.0
    folds: int = 0
    fold: int = 0
    held_out: float = 0.1
    seed: int | None = None

    def __post_init__(self) -> None:
        check_least("split", self, folds=0)
        if self.fold > 0 and self.folds == 0:
            raise SettingError(f"split.fold is {self.fold}: give split.folds too")
        if not 0 < self.held_out < 1:
            raise SettingError(f"split.held_out must lie between 0 and 1, got {self.held_out}")


TRACKERS = ("tensorboard", "mlflow", "wandb")
"""Names of the trackers that can follow a run, see :mod:`sansref.training.trackers`."""


@dataclass(frozen=True)
class TrainingOptions:
    """How weights are learned and which are kept.

    Attributes
    ----------
    epochs
        Largest number of passes over the training scans, per stage for a method with stages.
    minutes
        Stop after the epoch or stage in which training has taken this many minutes, and keep what was learned; null
        sets no limit.
    repeats
        How often a pass visits each scan, every time with a new partition; for training on very few scans.
    mirror
        Augment scans by random mirroring and complex conjugation; for methods that learn from k-space.
    batch_size
        Number of scans per step, over all processes together.
    learning_rate
        Learning rate at the start of training; see schedule.
    optimizer
        adam, or radam (rectified Adam).
    schedule
        cooldown lowers the learning rate to almost zero over the last 30 % of the steps of all stages together; linear
        does so from the first step; plateau lowers it when the validation score stops falling, separately in each
        stage. Stages that start from new weights have a schedule of their own.
    plateau_factor
        Multiply the learning rate by this when the validation score stops falling.
    plateau_patience
        Number of epochs without a better score that are borne; the next one lowers the learning rate.
    patience
        Number of epochs without a better score before a stage ends early; only with keep best and the plateau schedule.
    keep
        Keep the weights of the epoch with the best validation score (best), or the final ones (last). A method with
        stages uses those of the stage with the best score.
    average_from
        Average the weights over all steps after this fraction of them (stochastic weight averaging); null does not
        average. In adversarial training, the generators are averaged.
    lookahead
        Every this many steps, move the weights of discriminators and noise extractor halfway back to where they were
        that many steps ago (Lookahead); 0 switches it off.
    score
        Score that drives the learning rate, early stopping and the choice of the best model: held_out, which needs no
        references, or reference, the NMSE against full references, as in much of the literature.
    snapshots
        Keep the weights of every epoch, to study how training went.
    precision
        Precision of the network, as Lightning Fabric names it; transforms are never in half precision. 16-mixed needs a
        GPU.
        auto is bf16-mixed on a processor with instructions for bfloat16 (AVX512-BF16 or AMX), and 32-true elsewhere.
    seed
        Seed of weights, partitions and batches, and of the data if split.seed is null.
    """

    epochs: int = 20
    minutes: float | None = None
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
    score: Literal["held_out", "reference"] = "held_out"
    snapshots: bool = False
    precision: Precision = "32-true"
    seed: int = 0

    def score_decides(self, stages: int) -> bool:
        """Whether the validation score has a say in what a method of so many stages learns, or in what is kept."""
        return self.keep == "best" or self.schedule == "plateau" or stages > 1

    def __post_init__(self) -> None:
        check_least("training", self, epochs=1, repeats=1, batch_size=1, plateau_patience=1, patience=1, lookahead=0)
        if self.minutes is not None and not self.minutes > 0:
            raise SettingError(f"training.minutes must be positive, or null, got {self.minutes:g}")
        if not 0 < self.plateau_factor < 1:
            raise SettingError(f"training.plateau_factor must lie between 0 and 1, got {self.plateau_factor}")
        if self.average_from is not None and not 0 <= self.average_from < 1:
            raise SettingError(f"training.average_from must lie in [0, 1), or be null, got {self.average_from}")
        if not self.learning_rate > 0:
            raise SettingError(f"training.learning_rate must be positive, got {self.learning_rate}")


@dataclass(frozen=True)
class MachineOptions:
    """Where a run is trained; the numbers agree to rounding whatever this is, and a run may go on elsewhere.

    Attributes
    ----------
    accelerator
        Device to train on: auto, cpu, gpu, or another name that Lightning Fabric knows.
    devices
        Number of processes per machine that train together, each on one GPU or on a share of the cores.
    num_nodes
        Number of machines that train together, see docs/cluster.md.
    threads
        Number of CPU threads; 0 lets PyTorch choose, auto measures for a second which number is fastest now.
    workers
        Number of processes that prepare batches; 0 prepares them in the main process.
    tracker
        Also send each row of metrics.csv to tensorboard, mlflow or wandb, or to several (tensorboard,mlflow). Their
        files lie in the run directory.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    threads: Threads = 0
    workers: int = 0
    tracker: str = "none"

    @property
    def trackers(self) -> tuple[str, ...]:
        """Names of the trackers, each once."""
        names = dict.fromkeys(name.strip() for name in self.tracker.split(","))
        return () if self.tracker == "none" else tuple(names)

    @property
    def processes(self) -> int:
        """Number of processes that train together, on all machines."""
        return self.devices * self.num_nodes

    def __post_init__(self) -> None:
        check_least("machine", self, devices=1, num_nodes=1, workers=0)
        if self.threads != "auto":
            check_least("machine", self, threads=0)
        for name in set(self.trackers) - {*TRACKERS}:
            known = f"use {', '.join(TRACKERS)}, several joined by commas, or none"
            raise SettingError(f"there is no tracker {name!r}{did_you_mean(name, TRACKERS, known)}")


def check_least(group: str, options: Any, **least: int) -> None:
    """Refuse settings below their least value.

    Raises
    ------
    SettingError
        Naming the first.
    """
    for name, value in least.items():
        if getattr(options, name) < value:
            raise SettingError(f"{group}.{name} must be at least {value}, got {getattr(options, name)}")


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
    slices, simulation, sampling, coils
        How files become undersampled scans.
    split
        Which subjects and samples are set aside.
    training
        How the network is trained.
    machine
        Where it is trained.
    magnitude
        Simulate from the magnitude of measured k-space, see :class:`sansref.data.prepare.Preparation`.
    noise
        Level of the noise, where the user knows it.
    """

    method: str
    options: Any
    network: NetworkOptions | TranslatorOptions = field(default_factory=NetworkOptions)
    slices: Slices = field(default_factory=Slices)
    simulation: Simulation = field(default_factory=Simulation)
    sampling: Sampling = field(default_factory=Sampling)
    coils: CoilOptions = field(default_factory=CoilOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)
    magnitude: bool = False
    noise: float | None = None

    def __post_init__(self) -> None:
        kind = self.kind
        if self.noise is not None and not 0 < self.noise < math.inf:
            raise SettingError(f"data.noise must be positive, or null, got {self.noise:g}")
        if not isinstance(self.options, kind.options_type) or not isinstance(self.network, kind.network_type):
            raise ValueError(
                f"method {self.method!r} takes {kind.options_type.__name__} and {kind.network_type.__name__}, got "
                f"{type(self.options).__name__} and {type(self.network).__name__}"
            )
        if self.coils.map_sets > 1 and not isinstance(self.network, NetworkOptions):
            raise SettingError(f"method {self.method!r} learns from magnitudes: leave out coils.map_sets")
        if self.coils.map_sets > 1 and self.coils.reference == "rss" and self.needs is Needs.PAIRED:
            problem = "a root sum of squares tells nothing of each set of maps, and is no target"
            raise SettingError(f"{problem}: set coils.reference to combined, or leave out coils.map_sets")
        if self.training.mirror and not isinstance(self.network, NetworkOptions):
            raise SettingError(f"method {self.method!r} learns from images: leave out training.mirror")
        if self.simulation.coils > 1 and isinstance(self.network, NetworkOptions) and not self.network.complex:
            problem = "a real network cannot combine coils"
            raise SettingError(f"{problem}: set network.complex to true, or data.simulation.coils to 1")

    @property
    def kind(self) -> type[Method]:
        """The method's class."""
        return find_method(self.method)

    @property
    def needs(self) -> Needs:
        """What the method must be given."""
        return self.kind.needs

    @property
    def data_seed(self) -> int:
        """Seed of splits and simulation."""
        return self.training.seed if self.split.seed is None else self.split.seed

    @property
    def preparation(self) -> Preparation:
        """How files become undersampled scans."""
        settings = self.slices, self.simulation, self.sampling, self.magnitude, self.data_seed
        return Preparation(*settings, coils=self.coils, noise=self.noise)

    @property
    def denoises(self) -> bool:
        """Whether the method learns to take noise out, and has to know how much there is."""
        return bool(getattr(self.options, "denoise", False))

    def build(self, stage: int = 0, family: MaskFamily | None = None) -> Method:
        """The method with new weights, which depend on seed and stage alone."""
        kind: Any = self.kind
        knows_law = [family or self.sampling.family(emulated=True)] if self.needs is Needs.UNDERSAMPLED else []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * self.training.seed + stage)
            network = Reconstructor(self.network) if isinstance(self.network, NetworkOptions) else self.network
            method: Method = kind(network, self.options, *knows_law)
        return method

    def values(self) -> dict[str, Any]:
        """Settings as they stand in YAML: the groups data, sampling, coils, split, method, network, training, machine.

        Lists stand in the place of tuples.
        """
        data = {**asdict(self.slices), "magnitude": self.magnitude, "noise": self.noise}
        data["simulation"] = asdict(self.simulation)
        groups: dict[str, dict[str, Any]] = {"data": data}
        groups |= {name: asdict(getattr(self, name)) for name in ("sampling", "coils", "split")}
        groups["method"] = {"name": self.method, **asdict(self.options)}
        groups |= {name: asdict(getattr(self, name)) for name in ("network", "training", "machine")}
        return {"format": FORMAT, **_with_lists(groups)}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> RunConfig:
        """Inverse of :meth:`values`; what is left out has its default, and ``method: idr`` is ``method: {name: idr}``.

        Raises
        ------
        SettingError
            For a method, a name or a choice that does not exist, or a value of another type.
        """
        given = {**values, "method": named_method(values.get("method"))}
        method = str(given["method"].get("name"))
        return cls.from_parsed(read(_parser_of(method, find_method(method)), given))

    def changed(self, **settings: Any) -> RunConfig:
        """The same with other settings, by their names on the command line: ``config.changed(epochs=3)``.

        Raises
        ------
        SettingError
            For a name or a choice that does not exist, or a value of another type.
        """
        own = grouped(_parser_of(self.method, self.kind), settings)
        return RunConfig.from_values(merged(self.values(), own))

    @classmethod
    def from_parsed(cls, parsed: Mapping[str, Any]) -> RunConfig:
        """What a parser with the settings of :func:`add_settings` has found."""
        groups = {name: dict(parsed[name]) for name in GROUPS}
        simulation, magnitude, noise = (groups["data"].pop(name) for name in ("simulation", "magnitude", "noise"))
        slices = {name: groups["data"][name] for name in Slices.__dataclass_fields__}
        method = str(groups["method"].pop("name"))
        kind = find_method(method)
        return cls(
            method,
            kind.options_type(**groups["method"]),
            kind.network_type(**groups["network"]),
            Slices(**slices),
            Simulation(**simulation),
            Sampling(**groups["sampling"]),
            CoilOptions(**groups["coils"]),
            SplitOptions(**groups["split"]),
            TrainingOptions(**groups["training"]),
            MachineOptions(**groups["machine"]),
            magnitude,
            noise,
        )


GROUPS = ("data", "sampling", "coils", "split", "method", "network", "training", "machine")
"""Groups of settings, in the order in which they are written."""

FORMAT = 2
"""Of configurations as they are written; the first one was flat, and is not read any more."""


def add_settings(parser: ArgumentParser, method: str, version: bool = True) -> None:
    """Give a parser the settings of a run of a method, and the ``version`` of their layout as ``--format``.

    Raises
    ------
    SettingError
        If there is no such method.
    """
    kind = find_method(method)
    if version:
        parser.add_argument("--format", type=int, default=FORMAT, help=HIDDEN)
    groups: dict[str, type[Any]] = {"data": Slices, "data.simulation": Simulation, "sampling": Sampling}
    groups |= {"coils": CoilOptions, "split": SplitOptions, "method": kind.options_type}
    groups |= {"network": kind.network_type, "training": TrainingOptions, "machine": MachineOptions}
    for name, options in groups.items():
        parser.add_class_arguments(options, name, as_group=False)
    magnitude_help = "simulate from the magnitude of measured k-space"
    parser.add_argument("--data.magnitude", type=bool, default=False, help=magnitude_help)
    noise_help = (
        "standard deviation of the noise in each part of a sample of these data, in their units; null estimates it"
    )
    parser.add_argument("--data.noise", type=float | None, default=None, help=noise_help)
    parser.add_argument("--method.name", default=method, help="name of the method")
    parser.set_defaults(dict(kind.defaults))


@cache
def _parser_of(method: str, _kind: type[Method]) -> ArgumentParser:
    parser = new_parser(f"sansref train {method}", None)
    add_settings(parser, method)
    for place in ("folder", "full"):
        parser.add_argument(f"--data.{place}", type=str, default=None)
    return parser


def _with_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _with_lists(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }
