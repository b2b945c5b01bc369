"""The complete configuration of a run: flat names in YAML, dataclasses in code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

import torch

from sansref.data.prepare import Preparation, Selection
from sansref.data.sampling import Sampling
from sansref.data.simulate import Simulation
from sansref.errors import SettingError
from sansref.kspace.family import MaskFamily
from sansref.methods import (
    IDR,
    ISCL,
    SSDU,
    CycleGAN,
    CycleGANOptions,
    IDROptions,
    ISCLOptions,
    Method,
    Needs,
    SSDUOptions,
    Supervised,
    SupervisedGenerator,
    SupervisedGeneratorOptions,
    SupervisedOptions,
    SwitchableISCL,
    SwitchableOptions,
)
from sansref.networks import NetworkOptions, Reconstructor, TranslatorOptions
from sansref.training.options import TrainingOptions


class MethodEntry(NamedTuple):
    """A method, its own options, and those of its network.

    Attributes
    ----------
    kind
        Built as ``kind(network, options)``, or ``kind(network, options, family)`` if it learns from undersampled
        scans alone; ``network`` is a :class:`Reconstructor` where ``network`` below is :class:`NetworkOptions`, and
        the options themselves where it is anything else.
    options
        Dataclass.
    network
        Dataclass.
    """

    kind: type[Any]
    options: type[Any]
    network: type[Any] = NetworkOptions


METHODS: dict[str, MethodEntry] = {
    "idr": MethodEntry(IDR, IDROptions),
    "ssdu": MethodEntry(SSDU, SSDUOptions),
    "supervised": MethodEntry(Supervised, SupervisedOptions),
    "switchable": MethodEntry(SwitchableISCL, SwitchableOptions, TranslatorOptions),
    "iscl": MethodEntry(ISCL, ISCLOptions, TranslatorOptions),
    "cyclegan": MethodEntry(CycleGAN, CycleGANOptions, TranslatorOptions),
    "supervised_generator": MethodEntry(SupervisedGenerator, SupervisedGeneratorOptions, TranslatorOptions),
}


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run but the data themselves.

    Attributes
    ----------
    method
        A key of :data:`METHODS`.
    options
        The method's own options.
    network
        Which network.
    selection, simulation, sampling
        How files become undersampled scans.
    training
        How the network is trained.
    magnitude
        Simulate from the magnitude of measured k-space, see :class:`sansref.data.prepare.Preparation`.
    """

    method: str
    options: Any
    network: NetworkOptions | TranslatorOptions = field(default_factory=NetworkOptions)
    selection: Selection = field(default_factory=Selection)
    simulation: Simulation = field(default_factory=Simulation)
    sampling: Sampling = field(default_factory=Sampling)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    magnitude: bool = False

    groups: ClassVar[dict[str, type[Any]]] = {
        "selection": Selection,
        "simulation": Simulation,
        "sampling": Sampling,
        "training": TrainingOptions,
    }

    def __post_init__(self) -> None:
        entry = METHODS[self.method]
        if not isinstance(self.options, entry.options) or not isinstance(self.network, entry.network):
            raise ValueError(
                f"method {self.method!r} takes {entry.options.__name__} and {entry.network.__name__}, got "
                f"{type(self.options).__name__} and {type(self.network).__name__}"
            )
        if self.simulation.coils > 1 and isinstance(self.network, NetworkOptions) and not self.network.complex:
            raise SettingError("a real network cannot combine coils: use --network.complex true, or --coils 1")

    @property
    def needs(self) -> Needs:
        """What the method must be given."""
        needs: Needs = METHODS[self.method].kind.needs
        return needs

    @property
    def preparation(self) -> Preparation:
        """How files become undersampled scans."""
        return Preparation(self.selection, self.simulation, self.sampling, self.magnitude, self.training.seed)

    def build(self, stage: int = 0, family: MaskFamily | None = None) -> Method:
        """The method with new weights, which depend on seed and stage alone."""
        kind = METHODS[self.method].kind
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
            For a method or a name that does not exist.
        """
        given = dict(values)
        method = given.pop("method", None)
        if method not in METHODS:
            raise SettingError(f"there is no method {method!r}: use one of {', '.join(METHODS)}")
        entry = METHODS[method]
        parts = {"options": _take(entry.options, given)}
        given = {**entry.kind.training_defaults, **given}
        parts |= {group: _take(kind, given) for group, kind in cls.groups.items()}
        network = given.pop("network", {})
        if not isinstance(network, Mapping):
            raise SettingError(f"network must hold settings such as 'phases: 9', got {network!r}")
        inner = dict(network)
        parts["network"] = _take(entry.network, inner)
        magnitude = given.pop("magnitude", False)
        unknown = [*given, *(f"network.{name}" for name in inner)]
        if unknown:
            raise SettingError(
                f"unknown setting {min(unknown)!r} for method {method!r}: see 'sansref train {method} --help'"
            )
        return cls(method=method, magnitude=magnitude, **parts)


def _take(kind: type[Any], given: dict[str, Any]) -> Any:
    """Build one group of options from the names that are its own."""
    names = [entry.name for entry in fields(kind) if entry.name in given]
    values = {name: given.pop(name) for name in names}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
