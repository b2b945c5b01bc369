"""Arrays in HDF5: MATLAB 7.3 (``save -v7.3``), and files of other programs that hold named arrays.

MATLAB stores the axes of an array in reverse, which is undone, and complex numbers as pairs (real, imag); it marks its
arrays with the attribute ``MATLAB_class``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sansref.data.readers.array_slices import Array, Stored
from sansref.data.readers.arrays import ArrayReader, Entry
from sansref.data.readers.damage import check_plausible_size, head_of, reading
from sansref.errors import FileError, printable
from sansref.hdf5 import bytes_behind, objects_of, open_hdf5, text_of

MARK = "MATLAB_class"
MATLAB_TITLE = b"MATLAB 7.3 MAT-file"
NUMBERS = frozenset(("double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))))

#: What formats of their own leave in a file: members of groups, and attributes of groups and arrays.
MEMBERS = {
    **{"$yardl_schema": "MRD 2", "minc-2.0": "MINC 2", "ITKImage": "ITK", "ITKVersion": "ITK", "OME": "OME"},
    **{"VTKHDF": "VTK", "HDFEOS": "HDF-EOS", "HDFEOS INFORMATION": "HDF-EOS", "DataSetInfo": "Imaris"},
    **{"model_weights": "Keras", "_layer_checkpoint_dependencies": "Keras", "_types": "JLD2", "formatVersion": "SNIRF"},
}
ATTRIBUTES = {
    **{"_NCProperties": "NetCDF-4", "_Netcdf4Dimid": "NetCDF-4", "_Netcdf4Coordinates": "NetCDF-4"},
    **{"NX_class": "NeXus", "encoding-type": "AnnData", "layer_names": "Keras", "pandas_type": "pandas"},
    **{"ImarisDataSet": "Imaris", "OCTAVE_GLOBAL": "Octave", "OCTAVE_NEW_FORMAT": "Octave"},
}
#: Members of a group of MRD's images.
IMAGES = frozenset(("header", "data", "attributes"))
#: Attributes that say how the numbers of an array are to be changed before they are values.
CHANGED = frozenset(
    (
        *("scale_factor", "add_offset", "scl_slope", "scl_inter", "rescale_slope", "rescale_intercept"),
        *("rescaleslope", "rescaleintercept", "slope", "intercept", "image-min", "image-max"),
    )
)
#: Words of attributes that name a format, and of versions that name none.
FORMAT_WORDS = frozenset(("format", "formats", "convention", "conventions", "schema", "dialect", "specification"))
OF_PROGRAMS = frozenset(
    (
        *("software", "program", "code", "sequence", "protocol", "scanner", "system", "baseline", "matlab", "library"),
        *("python", "numpy", "torch", "h5py", "hdf5", "git", "firmware", "package", "recon", "reconstruction"),
    )
)
#: General containers, whose arrays are plain ones.
CONTAINERS = frozenset(("PYTABLES_FORMAT_VERSION", "DEEPDISH_IO_VERSION"))


def dialect(path: Path, file: Any) -> str | None:
    """The format of its own that an open file says it is in, for people; None where nothing says so."""
    for name, item in objects_of(path, file):
        if found := _told_by(item):
            return f"{found} (by {printable(name)[:80] or 'its root'})"
    return None


def _told_by(item: Any) -> str | None:
    import h5py

    attributes = list(item.attrs)
    for name in attributes:
        if name in ATTRIBUTES:
            return ATTRIBUTES[name]
    if isinstance(item, h5py.Dataset):
        changed = [name for name in attributes if name.lower() in CHANGED]
        return f"a format with scaled numbers, by an attribute '{printable(changed[0])}'" if changed else None
    for name in MEMBERS:
        if name in item:
            return MEMBERS[name]
    if all(name in item for name in IMAGES):
        return "MRD images"
    named = [name for name in attributes if name not in CONTAINERS and _names_a_format(name)]
    return f"a format of its own, by an attribute '{printable(named[0])[:80]}'" if named else None


def _names_a_format(attribute: str) -> bool:
    words = [word.lower() for word in re.split(r"[_\W]+|(?<=[a-z])(?=[A-Z])", attribute)]
    version_of = words[-1:] == ["version"] and len(words) > 1 and not OF_PROGRAMS & set(words)
    return bool(FORMAT_WORDS & set(words)) or version_of or words[:2] == ["file", "type"]


class Hdf5ArraysReader(ArrayReader):
    """Reader of an array in HDF5 of any program."""

    format = "HDF5 arrays"

    def recognises(self, path: Path) -> bool:
        """Whether it is HDF5 that holds an array of numbers."""
        try:
            return bool(self.entries(path))
        except Exception:  # whatever a damaged file raises
            return False

    def entries(self, path: Path) -> list[Entry]:
        """Read the headers of its arrays of numbers, at any depth."""
        import h5py

        with reading(path, self.format), open_hdf5(path) as file:
            arrays = ((name, item) for name, item in objects_of(path, file) if isinstance(item, h5py.Dataset))
            return [entry for name, item in arrays if (entry := _entry(name, item))]

    @contextmanager
    def opened(self, path: Path, entry: Entry) -> Iterator[Stored]:
        """Open one array; the file is open meanwhile."""
        with reading(path, self.format):
            file = open_hdf5(path)
        with file:
            with reading(path, self.format):
                dataset = file[entry.name]
                check_plausible_size(path, math.prod(entry.shape) * entry.dtype.itemsize, bytes_behind(dataset))
                stored = Hdf5Array(path, dataset, entry, MARK in dataset.attrs)
            yield stored


class Matlab73Reader(Hdf5ArraysReader):
    """Reader of MATLAB 7.3, whatever its arrays are called."""

    format = "MATLAB 7.3"
    pads_axes = True

    def recognises(self, path: Path) -> bool:
        """Whether it has MATLAB's title, or marks of MATLAB on what it holds."""
        if head_of(path, len(MATLAB_TITLE)) == MATLAB_TITLE:
            return True
        try:
            with open_hdf5(path) as file:
                return any(MARK in item.attrs for item in file.values())
        except Exception:  # whatever a damaged file raises
            return False


@dataclass(frozen=True, slots=True)
class Hdf5Array:
    """An array in an open file; ``matlab`` where MATLAB has written it, with its axes in reverse."""

    path: Path
    dataset: Any
    entry: Entry
    matlab: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self.entry.shape

    def piece(self, axis: int, start: int, stop: int) -> Array:
        """Read ``start:stop`` of one axis."""
        with reading(self.path, "HDF5"):
            dimensions = self.dataset.ndim
            stored_axis = dimensions - 1 - axis if self.matlab else axis
            # An axis of length 1 that MATLAB left out does not exist to be cut.
            cut = (*[slice(None)] * stored_axis, slice(start, stop)) if 0 <= stored_axis < dimensions else ()
            block = np.asarray(self.dataset[cut])
        if block.dtype.names:
            block = (block["real"] + 1j * block["imag"]).astype(self.entry.dtype)
        block = block.transpose() if self.matlab else block
        shape = (*self.shape[:axis], stop - start, *self.shape[axis + 1 :])
        if block.size != math.prod(shape):
            raise FileError(self.path, f"holds an array '{self.entry.name}' unlike its header", "Copy it again")
        return block.reshape(shape)


def _entry(name: str, dataset: Any) -> Entry | None:
    shape, dtype = dataset.shape, dataset.dtype
    if shape is None or 0 in shape:
        return None
    if dtype.names == ("real", "imag") and all(dtype[part].kind in "fiu" for part in dtype.names):
        dtype = np.result_type(dtype["real"], np.complex64)
    if dtype.kind not in "iufc" or dtype.itemsize > 16:
        return None
    if MARK not in dataset.attrs:
        return Entry(name, tuple(shape), dtype)
    plain = text_of(dataset.attrs[MARK]) in NUMBERS and "MATLAB_empty" not in dataset.attrs
    return Entry(name, tuple(shape[::-1]), dtype) if plain else None
