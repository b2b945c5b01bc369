"""Prepared scans on disk, memory-mapped, with or without references."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sansref.data.store import ARRAYS, ArrayStore, ArrayWriter
from sansref.errors import FileError, SettingError
from sansref.files import atomic_folder
from sansref.scan import Geometry, Scan, ScanMeta
from sansref.yaml_json import read_json

# Stands in the store for a scan without sensitivity maps, so that item i is scan i in every array store.
_NO_MAPS = torch.zeros(0, dtype=torch.complex64)


PREPARED = rf"(kspace|mask|maps|reference)/({ARRAYS})|scans\.json|recipe\.json"
"""Files of prepared scans, as a regular expression."""


class PreparedScans(Sequence[Scan]):
    """Scans on disk, ready for training, memory-mapped.

    Parameters
    ----------
    folder
        Written by :func:`store_scans`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, cure = folder, "Delete this folder and run the same command again"
        self._kspace = ArrayStore(folder / "kspace")
        self._mask = ArrayStore(folder / "mask")
        self._maps = ArrayStore(folder / "maps")
        self._reference = ArrayStore(folder / "reference") if (folder / "reference").exists() else None
        try:
            self.metas = [_meta_from_json(entry) for entry in read_json(folder / "scans.json", cure)]
            stores = (self._kspace, self._mask, self._maps, *([self._reference] if self._reference else []))
            if any(len(store) != len(self.metas) for store in stores):
                raise ValueError("it does not go with their samples")
        except (FileError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = error.problem if isinstance(error, FileError) else error
            raise FileError(folder, f"has no usable list of its scans ({reason})", cure) from None

    def __len__(self) -> int:
        return len(self.metas)

    def __getitem__(self, item: int) -> Scan:  # type: ignore[override]
        return Scan(
            kspace=self._kspace[item],
            mask=self._mask[item],
            meta=self.metas[item],
            maps=self._maps[item] if self._maps.shapes[item] != tuple(_NO_MAPS.shape) else None,
            reference=None if self._reference is None else self._reference[item],
        )

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Coils, height and width of every scan, without reading it: scans of one shape make a batch."""
        return self._kspace.shapes

    @property
    def planes(self) -> list[tuple[int, int]]:
        """Height and width of every scan, without reading it."""
        return [(height, width) for height, width in self._mask.shapes]


def store_scans(
    scans: Iterable[Scan], folder: Path, references: bool, recipe: Mapping[str, Any] | None = None
) -> PreparedScans:
    """Write scans into a new folder, one at a time.

    Parameters
    ----------
    scans
        What to store; only one is held in memory.
    folder
        New folder; it appears only when complete.
    references
        Keep the full references. False writes none at all: a method that learns from undersampled scans
        alone finds nothing to peek at.
    recipe
        How the scans came about, kept for :func:`made_by_recipe`.

    Raises
    ------
    FileError
        For a scan without a reference where references are to be kept, or of several coils without maps.
    SettingError
        If there is no scan.
    """
    metas: list[ScanMeta] = []
    with atomic_folder(folder) as part:
        with (
            ArrayWriter(part / "kspace", "complex64") as kspace,
            ArrayWriter(part / "mask", "bool") as mask,
            ArrayWriter(part / "maps", "complex64") as maps,
            ArrayWriter(part / "reference", "complex64") if references else nullcontext() as reference,
        ):
            for scan in scans:
                scan.require_maps()
                kspace.append(scan.kspace)
                mask.append(scan.mask)
                maps.append(_NO_MAPS if scan.maps is None else scan.maps)
                metas.append(scan.meta)
                if reference is not None:
                    reference.append(_reference(scan))
        if not metas:
            raise SettingError("no file gave a usable slice: look at the files with 'sansref info FILE'")
        (part / "scans.json").write_text(json.dumps([asdict(meta) for meta in metas]))
        if recipe is not None:
            (part / "recipe.json").write_text(json.dumps(recipe))
    return PreparedScans(folder)


def made_by_recipe(folder: Path, recipe: Mapping[str, Any]) -> PreparedScans:
    """Scans that an earlier command has prepared, if it did so in the same way.

    Raises
    ------
    FileError
        If it did not, naming the setting, or they are damaged.
    """
    cure = "Restore the settings, or choose another --out"
    found, wanted = read_json(folder / "recipe.json", cure), json.loads(json.dumps(recipe))
    if not isinstance(found, dict):
        raise FileError(folder / "recipe.json", "does not say how scans were prepared", cure)
    # An update may have brought new settings.
    differing = [name for name in wanted if name in found and found[name] != wanted[name]]
    if differing:
        raise FileError(folder, f"holds scans that were prepared with another {', '.join(differing)}", cure)
    return PreparedScans(folder)


def _reference(scan: Scan) -> Tensor:
    if scan.reference is None:
        raise FileError(scan.meta.source, "has no full reference", "Train 'ssdu' or 'idr' on it, with --score held_out")
    return scan.reference


def _meta_from_json(entry: dict[str, Any]) -> ScanMeta:
    pairs = (name for name in ("spacing", "crop", "columns") if entry.get(name) is not None)
    values = {**entry, **{name: tuple(entry[name]) for name in pairs}}
    if entry["geometry"] is not None:
        stored = entry["geometry"]
        values["geometry"] = Geometry(**{**stored, "affine": tuple(tuple(row) for row in stored["affine"])})
    return ScanMeta(**values)
