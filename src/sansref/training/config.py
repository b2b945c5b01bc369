"""The complete configuration of a run: flat names in YAML, dataclasses in code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, get_type_hints

import torch

from sansref.data.coils import CoilOptions
from sansref.data.prepare import Preparation
from sansref.data.sampling import Sampling
from sansref.data.selection import Selection
from sansref.data.simulate import Simulation
from sansref.errors import SettingError, did_you_mean
from sansref.kspace.family import MaskFamily
from sansref.methods import Method, Needs
from sansref.networks import NetworkOptions, Reconstructor, TranslatorOptions
from sansref.training.hints import checked
from sansref.training.options import TrainingOptions
from sansref.training.registry import find_method


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run but the data themselves.

    Attributes
    ----------
    method
        Name of a method, see :func:`sansref.training.registry.find_method`.
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
    selection: Selection = field(default_factory=Selection)
    simulation: Simulation = field(default_factory=Simulation)
    sampling: Sampling = field(default_factory=Sampling)
    coils: CoilOptions = field(default_factory=CoilOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    magnitude: bool = False

    groups: ClassVar[dict[str, type[Any]]] = {
        "selection": Selection,
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
