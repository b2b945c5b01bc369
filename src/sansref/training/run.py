"""The run directory: what is written where, and how a finished run is read again."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

import sansref
from sansref.errors import FileError, SettingError
from sansref.files import PART, remove_leftovers, write_text
from sansref.methods import Method
from sansref.training.config import RunConfig
from sansref.training.options import MACHINE_SETTINGS


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run and the files that describe it.

    ``config.yaml`` resolved configuration · ``environment.json`` versions · ``splits.json`` subjects of each
    part · ``files.json`` and ``full_files.json`` names and sizes of the data files · ``data/`` prepared scans ·
    ``stages/NN/`` checkpoints · ``targets/`` refined data while training · ``metrics.csv`` one row per epoch ·
    ``log.txt`` · ``model.safetensors`` and ``model.json`` the result.
    """

    path: Path

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
        """Names and sizes of the files of the data folder."""
        return self.path / "files.json"

    @property
    def full_files_file(self) -> Path:
        """Names and sizes of the files of the folder of full scans of other people; none without such a folder."""
        return self.path / "full_files.json"

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
        wanted = _as_written(config, data, full)
        if self.config_file.exists():
            remove_leftovers(self.path)
            changes = self.changes(config, data, full)
            if not changes:
                return
            if (self.path / "metrics.csv").exists():
                raise SettingError(f"{self.path} holds a run with other settings ({changes}): choose another --out")
            for begun in ("data", "stages"):
                shutil.rmtree(self.path / begun, ignore_errors=True)
            for listed in (self.splits_file, self.full_files_file):
                listed.unlink(missing_ok=True)
        elif self._is_taken():
            raise SettingError(f"{self.path} is not empty and not a run: choose another --out")
        write_text(self._environment_file, json.dumps(environment(), indent=2))
        write_text(self.config_file, yaml.safe_dump(wanted, sort_keys=False))

    def changes(self, config: RunConfig, data: str, full: str | None = None) -> str:
        """How a configuration differs from the one that the run was started with; empty if it does not, or has not."""
        if not self.config_file.exists():
            return ""
        wanted, found = _as_written(config, data, full), self.read_config()
        defaults = RunConfig.from_flat({"method": config.method}).flat()
        # A run may go on elsewhere, and after an update that has brought new settings.
        names = (wanted.keys() | found.keys()) - MACHINE_SETTINGS
        found |= {name: defaults[name] for name in names & defaults.keys() - found.keys()}
        differing = sorted(name for name in names if wanted.get(name) != found.get(name))
        return ", ".join(f"{name} {found.get(name)!r} -> {wanted.get(name)!r}" for name in differing)

    def _is_taken(self) -> bool:
        """Whether something else lies here; a start that was killed leaves less than a configuration."""
        if not self.path.is_dir():
            return self.path.exists()
        return any(path != self._environment_file and not path.name.startswith(PART) for path in self.path.iterdir())

    @property
    def _environment_file(self) -> Path:
        return self.path / "environment.json"

    def read_config(self) -> dict[str, Any]:
        """The flat configuration, with the data folder.

        Raises
        ------
        FileError
            If this is not a run directory or its configuration cannot be read.
        """
        cure = "Give a directory that 'sansref train' has written"
        try:
            values = yaml.safe_load(self.config_file.read_text())
        except OSError:
            raise FileError(self.path, "is not a run directory (no config.yaml)", cure) from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise FileError(self.config_file, "is not readable YAML", cure) from None
        if not isinstance(values, Mapping):
            raise FileError(self.config_file, "holds no settings", cure)
        return dict(values)

    def config(self) -> RunConfig:
        """The run's configuration."""
        values = self.read_config()
        for place in ("data", "full"):
            values.pop(place, None)
        try:
            return RunConfig.from_flat(values)
        except (SettingError, TypeError, ValueError) as error:
            raise FileError(self.config_file, f"holds an impossible setting ({error})", "Restore the file") from None

    def load(self) -> Method:
        """The trained method, ready to reconstruct.

        Raises
        ------
        FileError
            If training has not finished, or the weights do not belong to the configuration.
        """
        config = self.config()
        if not self.finished:
            raise FileError(self.path, "holds a run that has not finished", "Run its 'sansref train' command again")
        method = config.build()
        try:
            method.load_state_dict(load_file(self.weights))
        except (OSError, SafetensorError, RuntimeError) as error:
            problem = f"does not hold the weights of this run ({str(error).splitlines()[0]})"
            raise FileError(self.weights, problem, "Restore the file or train again") from None
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
        parts: dict[str, list[str]] = _read_json(self.splits_file)
        return parts

    def files(self) -> list[tuple[str, int]]:
        """Names and sizes in bytes of the files of the run's data; none where it was not a folder of files.

        Raises
        ------
        FileError
            If the list cannot be read.
        """
        return _read_identities(self.files_file)

    def full_files(self) -> list[tuple[str, int]]:
        """The same of the folder of full scans of other people."""
        return _read_identities(self.full_files_file)


def _as_written(config: RunConfig, data: str, full: str | None) -> dict[str, Any]:
    return {**config.flat(), "data": data} | ({} if full is None else {"full": full})


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise FileError(path, "is not readable JSON", "Restore the file or train again") from None


def _read_identities(path: Path) -> list[tuple[str, int]]:
    return [(name, size) for name, size in _read_json(path)] if path.exists() else []


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
