"""Prepared scans on disk: memory-mapped collections of arrays, larger than memory, with or without references."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sansref.errors import FileError, SettingError
from sansref.files import atomic_folder
from sansref.kspace.noise import Noise, estimate_noise, pooled_levels
from sansref.scan import Geometry, Scan, ScanMeta
from sansref.yaml_json import read_json

_BYTES = "arrays.bin"
_INDEX = "index.json"

ARRAYS = r"arrays\.bin|index\.json"
"""Files of a collection, as a regular expression."""


class ArrayWriter:
    """Append arrays of one dtype and any shapes to a new collection, a folder of two files."""

    def __init__(self, folder: Path, dtype: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._dtype = np.dtype(dtype)
        self._shapes: list[tuple[int, ...]] = []
        self._bytes = (folder / _BYTES).open("wb")

    def append(self, array: Tensor) -> None:
        """Write one array, converted to the collection's dtype."""
        values = np.asarray(array.detach().cpu().resolve_conj().numpy(), dtype=self._dtype)
        self._bytes.write(values.tobytes())
        self._shapes.append(values.shape)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bytes.close()
        if kind is None:
            index = {"dtype": self._dtype.str, "shapes": self._shapes}
            (self._folder / _INDEX).write_text(json.dumps(index))


class ArrayStore:
    """Read a collection that :class:`ArrayWriter` wrote; item i is a tensor copied out of the map.

    Raises ``FileError`` where the collection is incomplete or its size does not match its index.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        cure = "Delete this folder and run the same command again"
        try:
            index = read_json(folder / _INDEX, cure)
            self.shapes = [tuple(map(int, shape)) for shape in index["shapes"]]
            self._dtype = np.dtype(index["dtype"])
            if self._dtype.kind not in "biufc" or any(size < 0 for shape in self.shapes for size in shape):
                raise ValueError("it names no numbers")
            ends = np.cumsum([prod(shape) for shape in self.shapes], dtype=np.int64)
            size = (folder / _BYTES).stat().st_size
        except (FileError, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            reason = error.problem if isinstance(error, FileError) else error
            raise FileError(folder, f"is not a complete array store ({reason})", cure) from None
        self._starts = np.concatenate([[0], ends]).astype(np.int64)
        if size != self._starts[-1] * self._dtype.itemsize:
            raise FileError(folder, "is truncated", cure)
        self._map: npt.NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, item: int) -> Tensor:
        if self._map is None:  # opened late so that the store can be sent to a worker process
            size, path = int(self._starts[-1]), self._folder / _BYTES
            try:  # the system refuses to map an empty file
                self._map = np.memmap(path, self._dtype, mode="r") if size else np.empty(0, self._dtype)
            except OSError as error:  # removed since the index was read
                problem = f"cannot be read ({error.strerror})"
                raise FileError(self._folder, problem, "Run the same command again") from None
        index = range(len(self))[item]  # counts from the end, and refuses, as any sequence
        values = self._map[self._starts[index] : self._starts[index + 1]]
        return torch.from_numpy(np.array(values).reshape(self.shapes[index]))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_map": None}


def join(parts: Sequence[Path], folder: Path) -> None:
    """Make one collection of several of one dtype, which are used up: the arrays of each follow those before it.

    The new folder is empty, and on the same file system.
    """
    indices = [json.loads((part / _INDEX).read_text()) for part in parts]
    (parts[0] / _BYTES).replace(folder / _BYTES)
    with (folder / _BYTES).open("ab") as joined:
        for part in parts[1:]:
            with (part / _BYTES).open("rb") as source:
                shutil.copyfileobj(source, joined)
    shapes = [shape for index in indices for shape in index["shapes"]]
    (folder / _INDEX).write_text(json.dumps({"dtype": indices[0]["dtype"], "shapes": shapes}))
    for part in parts:
        shutil.rmtree(part)


# Stands in the store for a scan without sensitivity maps, so that item i is scan i in every array store.
_NO_MAPS = torch.zeros(0, dtype=torch.complex64)


PREPARED = rf"(kspace|mask|maps|reference)/({ARRAYS})|scans\.json|recipe\.json"
"""Files of prepared scans, as a regular expression."""


class PreparedScans(Sequence[Scan]):
    """Scans in a folder that :func:`store_scans` wrote, ready for training, memory-mapped."""

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
        """Coils, sets of maps (0 without any), height and width of every scan, without reading it.

        Scans of one shape make a batch.
        """
        pairs = zip(self._kspace.shapes, self._maps.shapes, strict=True)
        return [
            (coils, prod(maps) // (coils * height * width), height, width) for (coils, height, width), maps in pairs
        ]

    @property
    def planes(self) -> list[tuple[int, int]]:
        """Height and width of every scan, without reading it."""
        return [(height, width) for height, width in self._mask.shapes]


def store_scans(
    scans: Iterable[Scan],
    folder: Path,
    references: bool,
    recipe: Mapping[str, Any] | None = None,
    noise: bool = False,
) -> PreparedScans:
    """Write scans into a new folder, which appears only when complete; one scan is held in memory at a time.

    References are kept if asked for: without them, a method that learns from undersampled scans alone finds nothing to
    peek at. The recipe says how the scans came about, for :func:`made_by_recipe`. With ``noise``, all slices of a file
    get one level of noise (:func:`with_noise`), unless they have it already. Raises
    ``FileError`` for a scan without a reference where references are to be kept, or of several coils without maps, and
    ``SettingError`` if there is no scan.
    """
    metas: list[ScanMeta] = []
    found: list[Noise] = []
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
                if noise:
                    found.append(estimate_noise(scan.kspace, scan.mask))
                if reference is not None:
                    reference.append(full_reference(scan))
        if not metas:
            raise SettingError("no file has a usable slice: look at the files with 'sansref info FILE'")
        if noise:
            metas = with_noise(metas, found)
        (part / "scans.json").write_text(json.dumps([asdict(meta) for meta in metas]))
        if recipe is not None:
            (part / "recipe.json").write_text(json.dumps(recipe))
    return PreparedScans(folder)


def with_noise(metas: Sequence[ScanMeta], found: Sequence[Noise]) -> list[ScanMeta]:
    """Give the slices of each file one level of noise, of what was found in each; a level that is known stays.

    Simulated slices keep their own: each has noise in proportion to its own signal.
    """
    files: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for item, (meta, noise) in enumerate(zip(metas, found, strict=True)):
        files[meta.source, len(noise.level), meta.slice if meta.synthetic else -1].append(item)
    known = list(metas)
    for items in files.values():
        levels = pooled_levels([found[item] for item in items], [metas[item].scale for item in items])
        for item, level in zip(items, levels, strict=True):
            if metas[item].noise is None:
                known[item] = replace(metas[item], noise=tuple(level.flatten().tolist()))
    return known


def made_by_recipe(folder: Path, recipe: Mapping[str, Any]) -> PreparedScans:
    """Scans that an earlier command has prepared, if it did so in the same way.

    Raises ``FileError`` if it did not, naming the setting, or they are damaged.
    """
    cure = "Restore the settings, or choose another --out"
    found, wanted = read_json(folder / "recipe.json", cure), json.loads(json.dumps(recipe))
    if not isinstance(found, dict):
        raise FileError(folder / "recipe.json", "does not say how the scans were prepared", cure)
    # An update may have brought new settings.
    differing = [name for name in wanted if name in found and found[name] != wanted[name]]
    if differing:
        raise FileError(folder, f"holds scans that were prepared with another {', '.join(differing)}", cure)
    return PreparedScans(folder)


def full_reference(scan: Scan) -> Tensor:
    """The reference of a scan that must have one; raises ``FileError`` where it has none."""
    if scan.reference is None:
        raise FileError(scan.meta.source, "has no full reference", "Train 'ssdu' or 'idr' on it, with --score held_out")
    return scan.reference


def _meta_from_json(entry: dict[str, Any]) -> ScanMeta:
    pairs = (name for name in ("spacing", "crop", "columns", "noise") if entry.get(name) is not None)
    values = {**entry, **{name: tuple(entry[name]) for name in pairs}}
    if entry["geometry"] is not None:
        stored = entry["geometry"]
        values["geometry"] = Geometry(**{**stored, "affine": tuple(tuple(row) for row in stored["affine"])})
    return ScanMeta(**values)
