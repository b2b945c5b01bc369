"""MRD (ISMRMRD) raw data in HDF5: an XML header and a list of acquisitions.

Inati et al., "ISMRM Raw Data Format: A Proposed Standard for MRI Raw Datasets", Magn Reson Med 77(1), 2017.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sansref.data.mrd.acquisitions import HEAD, Data, Heads, compact, first_encoding
from sansref.data.mrd.header import parse_header
from sansref.data.readers.acquisitions import Integers, RawFile, RawReader
from sansref.data.readers.damage import check_plausible_size, reading
from sansref.errors import FileError, printable
from sansref.hdf5 import is_hdf5, is_one_text, open_hdf5, text_of

FORMAT = "MRD (ISMRMRD) HDF5"
#: The name that every writer gives to the group, unless it is told otherwise.
USUAL_GROUP = "dataset"
#: Lines read at a time.
BLOCK = 1024


class IsmrmrdReader(RawReader):
    """Reader of MRD files: raw data of any vendor, as converters and scanners' exports give them.

    The headers of all lines are read first, then the samples of one image at a time.
    """

    format = FORMAT

    def recognises(self, path: Path) -> bool:
        """Whether it is HDF5 in which a group holds an ``xml`` header."""
        if not is_hdf5(path):
            return False
        try:
            with open_hdf5(path) as file:
                return bool(_groups(file))
        except Exception:  # whatever a damaged file raises; the reader of fastMRI files names it
            return False

    @contextmanager
    def opened(self, path: Path) -> Iterator[RawFile]:
        """Read the XML header, and the headers of all lines."""
        with reading(path, FORMAT):
            file = open_hdf5(path)
        with file:
            with reading(path, FORMAT):
                group, notes = _group(path, file)
                text = _xml(path, group)
                acquisitions = _acquisitions(path, group)
                heads = _heads(path, acquisitions)
                header = parse_header(path, text, encoding=first_encoding(heads))

            def fetch(indices: Integers) -> list[Data]:
                with reading(path, FORMAT):
                    return [line for run in _runs(indices) for line in _samples(path, acquisitions, heads, run)]

            yield RawFile(path, FORMAT, header, heads, fetch, notes=notes)


def _groups(file: Any) -> list[str]:
    import h5py

    return [name for name in file if file.get(name, getclass=True) is h5py.Group and "xml" in file[name]]


def _group(path: Path, file: Any) -> tuple[Any, tuple[str, ...]]:
    """The group to read, and a note where there are others."""
    names = _groups(file)
    others = printable(", ".join(name for name in names if name != USUAL_GROUP))[:200]
    if USUAL_GROUP in names:
        return file[USUAL_GROUP], (f"The group '{USUAL_GROUP}' is read; there are others: {others}.",) if others else ()
    if len(names) != 1:
        problem = f"holds several measurements ({others}) and none is named '{USUAL_GROUP}'"
        problem = problem if names else "holds no group with an 'xml' header"
        raise FileError(path, problem, "Give one measurement a file")
    return file[names[0]], ()


def _xml(path: Path, group: Any) -> str:
    if not is_one_text(stored := group["xml"]):
        raise FileError(path, "holds an 'xml' header that is not one text", "Export it again")
    return text_of(np.asarray(stored[()]).item())


def _acquisitions(path: Path, group: Any) -> Any:
    import h5py

    dataset = group.get("data")
    if dataset is None:
        raise FileError(path, "holds MRD without raw data (no 'data'; perhaps images)", "Give a file of acquisitions")
    if not isinstance(dataset, h5py.Dataset) or not {"head", "data"} <= set(dataset.dtype.names or ()):
        raise FileError(path, "holds 'data' that are not acquisitions with 'head' and 'data'", "Export it again")
    if h5py.check_vlen_dtype(dataset.dtype["data"]) != np.float32 or dataset.ndim != 1 or dataset.size == 0:
        problem = f"holds acquisitions of shape {dataset.shape} whose samples are {dataset.dtype['data']}"
        raise FileError(path, problem, "Store a list of them, with samples in single precision")
    check_plausible_size(path, dataset.size * dataset.dtype.itemsize)
    return dataset


def _heads(path: Path, dataset: Any) -> Heads:
    heads = np.empty(len(dataset), HEAD)
    plain = dataset.chunks is not None and dataset.id.get_create_plist().get_nfilters() == 0
    chunk = dataset.chunks[0] if plain else 1
    step = max(BLOCK // chunk, 1) * chunk
    for first in range(0, len(dataset), step):
        stop = min(first + step, len(dataset))
        if plain:
            stored = _stored(dataset, first, stop)
            heads[first:stop] = compact(stored["head"])
            _check_numbers(path, heads[first:stop], stored["data"], first)
        else:
            heads[first:stop] = compact(dataset.fields("head")[first:stop])
    declared = 8 * int((heads["number_of_samples"].astype(np.int64) * heads["active_channels"]).sum())
    if declared > path.stat().st_size:  # HDF5 does not compress data of variable length
        problem = f"declares {declared} bytes of samples, more than its {path.stat().st_size} bytes can hold"
        raise FileError(path, problem, "Copy or download it again")
    return heads


def _stored(dataset: Any, first: int, stop: int) -> Heads:
    """Lines as they are stored in chunks: headers as ``head``, and in ``data`` how many numbers follow elsewhere.

    Asked for the headers alone, HDF5 would read all samples too, and make room for as many as a damaged file tells.
    """
    fields = dataset.dtype.fields
    formats = {"head": fields["head"][0], "data": np.dtype("<u4")}
    offsets = [fields[name][1] for name in formats]
    layout = {"names": list(formats), "formats": list(formats.values()), "offsets": offsets}
    record: Any = np.dtype({**layout, "itemsize": dataset.dtype.itemsize})  # type: ignore[call-overload]
    raw = b"".join(dataset.id.read_direct_chunk((at,))[1] for at in range(first, stop, dataset.chunks[0]))
    lines: Heads = np.frombuffer(raw, record)[: stop - first]
    return lines


def _check_numbers(path: Path, heads: Heads, numbers: Any, first: int) -> None:
    """Refuse lines whose samples are not as many as their headers tell."""
    expected = 2 * heads["number_of_samples"].astype(np.int64) * heads["active_channels"]
    wrong = np.flatnonzero(numbers != expected)
    if len(wrong):
        line, head = int(wrong[0]), heads[wrong[0]]
        shape = f"{head['active_channels']} coils x {head['number_of_samples']} samples"
        problem = f"holds {numbers[line]} numbers in line {first + line}, not 2 x {shape}"
        raise FileError(path, problem, "Copy or download it again")


def _runs(indices: Integers) -> list[Integers]:
    """Split ascending indices into runs of neighbours, which are read at once."""
    jumps = np.flatnonzero(np.diff(indices) != 1) + 1
    return [run[at : at + BLOCK] for run in np.split(indices, jumps) for at in range(0, len(run), BLOCK)]


def _samples(path: Path, dataset: Any, heads: Heads, run: Integers) -> Iterator[Data]:
    first, last = int(run[0]), int(run[-1])
    for index, stored in zip(run, dataset.fields("data")[first : last + 1], strict=True):
        shape = (int(heads["active_channels"][index]), int(heads["number_of_samples"][index]))
        _check_numbers(path, heads[index : index + 1], np.array([stored.size]), int(index))
        yield np.ascontiguousarray(stored, dtype=np.float32).view(np.complex64).reshape(shape)
