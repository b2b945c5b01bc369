"""Memory-mapped collections of arrays on disk, larger than memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sansref.errors import FileError
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

    Raises
    ------
    FileError
        Where the collection is incomplete or its size does not match its index.
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
            size = int(self._starts[-1])
            # The system refuses to map an empty file.
            try:
                mapped = np.memmap(self._folder / _BYTES, self._dtype, mode="r") if size else np.empty(0, self._dtype)
            except OSError as error:  # removed since the index was read
                raise FileError(
                    self._folder, f"cannot be read ({error.strerror})", "Run the same command again"
                ) from None
            self._map = mapped
        place = range(len(self))[item]  # counts from the end, and refuses, as any sequence
        values = self._map[self._starts[place] : self._starts[place + 1]]
        return torch.from_numpy(np.array(values).reshape(self.shapes[place]))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_map": None}


def join(parts: Sequence[Path], folder: Path) -> None:
    """Make one collection of several of one dtype, which are used up: the arrays of each follow those before it.

    Parameters
    ----------
    parts
        Folders that :class:`ArrayWriter` wrote.
    folder
        An empty folder on the same file system.
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
