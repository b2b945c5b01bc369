"""The run directory: what is written where, and how a finished run is read again."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TextIO

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

import sansref
from sansref.data.scan_store import PREPARED
from sansref.errors import FileError, SettingError, printable
from sansref.files import MARK, claim, locked, remove_leftovers, remove_made, write_text
from sansref.methods import Method
from sansref.methods.registry import METHODS, lies_in
from sansref.settings import by_name, named_method
from sansref.training.config import FORMAT, RunConfig
from sansref.yaml_json import read_json, read_yaml

STAGES = r"\d+/(best\.safetensors|last\.ckpt|done\.json|epoch-\d+\.safetensors)"
"""Files in ``stages``."""

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Types of weights; others would be rounded or lose their imaginary part without a word."""

RESTORE = "Restore the file or train again"


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run and the files that describe it.

    ``.sansref`` the mark that it is ours · ``config.yaml`` resolved configuration · ``environment.json`` versions ·
    ``splits.json`` subjects of each part · ``files.json`` and ``full_files.json`` fingerprints of the data files ·
    ``data/`` prepared scans · ``stages/NN/`` checkpoints · ``targets/`` refined data while training · ``metrics.csv``
    one row per epoch · ``tensorboard/``, ``mlflow/``, ``wandb/`` and ``tracker_id`` with trackers · ``log.txt`` ·
    ``model.safetensors`` and ``model.json`` the result.

    Attributes
    ----------
    path
        The directory.
    trust_code
        Import the method that the run names by ``module:Class``, and so execute what stands in that module. The run
        itself may be a stranger's.
    """

    path: Path
    trust_code: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def config_file(self) -> Path:
        """Resolved configuration."""
        return self.path / "config.yaml"

    @property
    def splits_file(self) -> Path:
        """Subjects of training, validation and test."""
        return self.path / "splits.json"

    @property
    def files_file(self) -> Path:
        """Fingerprints of the files of the data folder."""
        return self.path / "files.json"

    @property
    def full_files_file(self) -> Path:
        """The same of the folder of full scans of other people; none without such a folder."""
        return self.path / "full_files.json"

    @property
    def tracker_file(self) -> Path:
        """Identity of the run in its trackers; none without any."""
        return self.path / "tracker_id"

    @property
    def weights(self) -> Path:
        """Weights of the trained method."""
        return self.path / "model.safetensors"

    @property
    def card(self) -> Path:
        """What the weights are: configuration, score, versions."""
        return self.path / "model.json"

    @property
    def finished(self) -> bool:
        """Whether training has ended."""
        return self.card.exists()

    @property
    def missing(self) -> list[str]:
        """Names of the files that a finished run must have and does not."""
        needed = (self.path / MARK, self.config_file, self._environment_file, self.weights, self.card, self._history)
        return [file.name for file in needed if not file.is_file()]

    def start(self, config: RunConfig, data: str, full: str | None = None) -> None:
        """Create the directory, or check that it belongs to the same run on the same data.

        A run that never finished an epoch, for instance because a setting was impossible, is begun anew with
        other settings.

        Raises
        ------
        SettingError
            If the directory holds a run with another configuration, naming what differs; or something else.
        FileError
            If the directory cannot be written.
        """
        claim(self.path, "run")
        remove_leftovers(self.path)
        if self.config_file.exists():
            changes = self.changes(config, data, full)
            if not changes:
                return
            if self._learned:
                raise SettingError(f"{self.path} holds a run with other settings ({changes}): choose another --out")
            self.begin_anew()
        elif self._learned or self.splits_file.exists():
            raise SettingError(f"{self.path} holds a run whose config.yaml is missing: choose another --out")
        write_text(self._environment_file, json.dumps(environment(), indent=2))
        write_text(self.config_file, yaml.safe_dump(_as_written(config, data, full), sort_keys=False))

    @property
    def _learned(self) -> bool:
        """Whether anything is there that took time to learn."""
        found = (self._history, self.card, self.weights)
        return any(file.exists() for file in found) or any((self.path / "stages").glob("*/*"))

    @property
    def committed(self) -> bool:
        """Whether all scans have been prepared, or learned from: other files cannot take the place of theirs."""
        if self._learned or not self.splits_file.exists():
            return self._learned
        parts = [part for part, names in self.subjects().items() if names and part != "test"]
        return all((self.path / "data" / part).exists() for part in parts)

    def begin_anew(self) -> None:
        """Forget the split, and remove what was prepared and nothing has been learned from.

        Raises
        ------
        SettingError
            If something lies there that is no work of this program; then it stays.
        """
        for begun, made in (("data", rf"(training|validation|full)/({PREPARED})"), ("stages", STAGES)):
            remove_made(self.path / begun, made)
        for listed in (self.splits_file, self.files_file, self.full_files_file, self.tracker_file):
            listed.unlink(missing_ok=True)

    def locked(self) -> TextIO:
        """A file that keeps other commands off the folder as long as it is open, see :func:`sansref.files.locked`.

        Raises ``SettingError`` if something else lies there.
        """
        claim(self.path, "run")
        return locked(self.path / "training")

    def changes(self, config: RunConfig, data: str, full: str | None = None) -> str:
        """How a configuration differs from the one that the run was started with; empty if it does not, or has not."""
        if not self.config_file.exists():
            return ""
        wanted, found = by_name(_as_written(config, data, full)), by_name(self.read_config())
        defaults = by_name(RunConfig.from_values({"method": config.method}).values())
        # A run may go on elsewhere, and after an update that has brought new settings.
        names = {name for name in wanted.keys() | found.keys() if not name.startswith("machine.")}
        found |= {name: defaults[name] for name in names & defaults.keys() - found.keys()}
        differing = sorted(name for name in names if wanted.get(name) != found.get(name))
        return ", ".join(f"{name} {_short(found.get(name))} -> {_short(wanted.get(name))}" for name in differing)

    @property
    def _history(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def _environment_file(self) -> Path:
        return self.path / "environment.json"

    def read_config(self) -> dict[str, Any]:
        """The settings as they were written, with the data folder.

        Raises
        ------
        FileError
            If this is not a run directory or its configuration cannot be read.
        """
        cure = "Give a directory that 'sansref train' wrote"
        if not self.config_file.exists():
            raise FileError(self.path, "is not a run directory (no config.yaml)", cure)
        values = read_yaml(self.config_file, cure)
        if values.get("format") != FORMAT:
            problem = f"is not of this version ('format: {FORMAT}' is missing)"
            raise FileError(self.config_file, problem, "Train again, or use the version that trained it")
        if not isinstance(values.get("data"), dict):
            raise FileError(self.config_file, "holds no settings of the data", cure)
        return values

    def folder(self, name: Literal["folder", "full"] = "folder") -> str | None:
        """Where the data lay, or the full scans of other people; None where the configuration does not say."""
        found = self.read_config()["data"].get(name)
        if not isinstance(found, str | None):
            raise FileError(self.config_file, f"holds an impossible data.{name}, which is not a path", RESTORE)
        return found

    def config(self) -> RunConfig:
        """The run's configuration.

        Raises
        ------
        FileError
            If it cannot be read or holds an impossible setting, or names a method whose code is not to be trusted.
        """
        values = self.read_config()
        self._check_method(str(named_method(values.get("method")).get("name")))
        try:
            return RunConfig.from_values(values)
        except (SettingError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise FileError(self.config_file, f"holds an impossible setting ({_short(error, str)})", RESTORE) from None

    def _check_method(self, name: str) -> None:
        """Refuse to import what a run names, unless the user wishes so; importing a module executes it."""
        if name in METHODS or ":" not in name:
            return
        if not self.trust_code:
            problem = f"names the method {_short(name)}, whose code would be executed"
            raise FileError(self.config_file, problem, "Read that code, and add --trust_code if you trust it")
        if lies_in(name, self.path):
            problem = f"names the method {_short(name)}, whose code lies in the run itself"
            raise FileError(self.config_file, problem, "Read that code, and move it out of the folder if you trust it")

    def load(self, config: RunConfig | None = None) -> Method:
        """The trained method, ready to reconstruct.

        Parameters
        ----------
        config
            The run's configuration where it is known; None reads it.

        Raises
        ------
        FileError
            If training has not finished, or the weights do not belong to the configuration.
        """
        config = config or self.config()
        if not self.finished:
            raise FileError(self.path, "holds an unfinished run", "Run its 'sansref train' command again")
        try:
            method = config.build()
        except SettingError as error:
            raise FileError(self.config_file, f"holds an impossible setting ({_short(error, str)})", RESTORE) from None
        load_weights(method, self.weights)
        return method.eval()

    def subjects(self) -> dict[str, list[str]]:
        """Subjects of each part of the run's data; none where it was not a folder of subjects, as in the demo.

        Raises
        ------
        FileError
            If the list cannot be read.
        """
        if not self.splits_file.exists():
            return {"training": [], "validation": [], "test": []}
        parts: object = read_json(self.splits_file, RESTORE)
        if not isinstance(parts, dict) or not parts.keys() >= {"training", "validation", "test"}:
            raise FileError(
                self.splits_file, "is not a list of the subjects for training, validation and test", RESTORE
            )
        for part, names in parts.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise FileError(self.splits_file, f"holds no list of subjects for {_short(part)}", RESTORE)
        return parts

    def files(self) -> dict[str, str]:
        """Fingerprints of the files of the run's data by their path in it; none where it was not a folder of files.

        Raises
        ------
        FileError
            If the list cannot be read.
        """
        return read_fingerprints(self.files_file)

    def full_files(self) -> dict[str, str]:
        """The same of the folder of full scans of other people."""
        return read_fingerprints(self.full_files_file)


def load_weights(method: Method, path: Path) -> None:
    """Give a method the weights of a file.

    Raises
    ------
    FileError
        If it cannot be read, holds those of another network, or numbers that are not finite.
    """
    try:
        expected = sum(value.numel() * value.element_size() for value in method.state_dict().values())
        if not path.is_file() or path.stat().st_size > 2 * expected + (1 << 20):
            raise RuntimeError("it is not a file, or is far too large")
        weights = load_file(path)
        if odd := {str(value.dtype) for value in weights.values() if value.dtype not in FLOATING}:
            raise RuntimeError(f"it holds numbers of type {', '.join(sorted(odd))}")
        method.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        problem = f"does not hold the weights of this run ({_short(error, str)})"
        raise FileError(path, problem, RESTORE) from None
    bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if bad:
        raise FileError(path, f"holds NaN or infinite weights ({_short(bad[0])})", RESTORE)


def read_fingerprints(path: Path) -> dict[str, str]:
    """Fingerprints by name as they are kept in a JSON file; none if there is no file.

    Raises
    ------
    FileError
        If it cannot be read.
    """
    if not path.exists():
        return {}
    found: object = read_json(path, RESTORE)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise FileError(path, "is not a list of files with their fingerprints", RESTORE)
    return found


def _as_written(config: RunConfig, data: str, full: str | None) -> dict[str, Any]:
    values = config.values()
    values["data"] |= {"folder": data} | ({} if full is None else {"full": full})
    return values


def _short(value: object, said: Callable[[object], str] = repr) -> str:
    """In one line that is no page long, whatever a damaged file holds."""
    text = printable(said(value))
    return text if len(text) <= 300 else f"{text[:300]}..."


def environment() -> dict[str, str | int]:
    """Versions and machine, for the record."""
    packages = ("numpy", "torch", "lightning-fabric")
    return {
        "sansref": sansref.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
