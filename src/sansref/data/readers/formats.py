"""The formats that are read, and the choice of a reader by content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from sansref.data.readers.arrays import MAPS_CURE, ArrayReader
from sansref.data.readers.bart import BartReader
from sansref.data.readers.damage import (
    IsolatedReader,
    Result,
    blamed_on,
    check_file,
    head_of,
    in_child,
    items_in_child,
    minding_memory,
)
from sansref.data.readers.dicom import DicomReader, series_of
from sansref.data.readers.fastmri import FastMRIReader
from sansref.data.readers.hdf5_arrays import Hdf5ArraysReader, Matlab73Reader, dialect
from sansref.data.readers.ismrmrd import IsmrmrdReader
from sansref.data.readers.matlab import MatlabReader
from sansref.data.readers.nifti import NiftiReader
from sansref.data.readers.numpy_arrays import NpyReader, NpzReader
from sansref.data.readers.reader import (
    NO_MAPS,
    FileInfo,
    FormatReader,
    ImageSlice,
    Reader,
    ReaderOptions,
    SliceChoice,
    chosen_slices,
)
from sansref.data.readers.subjects import stem_of
from sansref.data.readers.twix import TwixReader
from sansref.errors import FileError, printable
from sansref.hdf5 import is_hdf5, open_hdf5
from sansref.kspace.coils import rss
from sansref.kspace.grid import center_fit
from sansref.scan import Scan

FORMATS = "fastMRI HDF5, MRD, Siemens twix, NIfTI, DICOM, NumPy (.npy, .npz), MATLAB (.mat) or BART (.cfl)"
"""What is read, for people."""

PEAK = 8.0
"""How far the center of k-space stands above its median, at least."""

ARRAYS = "BART (.cfl), NumPy (.npy, .npz), MATLAB (.mat) or HDF5"
"""What coil maps are read from."""

#: How MRD's second version begins, as a binary stream and as lines of JSON (https://github.com/ismrmrd/mrd).
STREAMS = (b"yardl", b'{"yardl":')
MRD2 = "is MRD 2 (as mrd-python writes it), of which only the first version, ISMRMRD in HDF5, is read"
MRD2_CURE = "Convert it to ISMRMRD (HDF5)"


def open_scan_file(path: Path, options: ReaderOptions | None = None) -> Reader:
    """Find the reader of a file by its content.

    Raises ``FileError`` if it is missing, a folder, empty, may not be read, or is in no format that is read.
    """
    options = options or ReaderOptions()
    reader = _reader(path, options)
    if options.maps in (None, NO_MAPS):
        return reader
    return _WithMaps(reader, Path(options.maps or ""), options.axes)


def _reader(path: Path, options: ReaderOptions) -> Reader:
    check_file(path)
    if is_hdf5(path):
        return _hdf5_reader(path, options)
    readers: tuple[FormatReader, ...] = (
        *(NiftiReader(options.plane), DicomReader(options.plane), TwixReader()),
        *(NpyReader(options), NpzReader(options), MatlabReader(options), BartReader(options)),
    )
    for reader in readers:
        if reader.recognises(path):
            # scipy, too, crashes over damaged files, and decoders of images are libraries in C as well.
            fragile = _compressed(path) if isinstance(reader, DicomReader) else isinstance(reader, MatlabReader)
            return IsolatedReader(reader) if fragile else _MindingMemory(reader)
    head = head_of(path, 4096)
    if head.replace(b" ", b"").startswith(STREAMS):
        raise FileError(path, MRD2 if b'"Mrd"' in head else "is a stream of yardl that is not MRD", MRD2_CURE)
    raise FileError(path, "is not in a format that sansref reads", f"Give {FORMATS}")


def _compressed(path: Path) -> bool:
    """Whether any file of the series of a DICOM file is."""
    try:
        return series_of(path).is_compressed
    except FileError:  # whoever reads it says what is wrong
        return False


def _hdf5_reader(path: Path, options: ReaderOptions) -> Reader:
    """Of the readers of HDF5, which a damaged file can hang or crash, the first that knows the file."""
    matlab, fastmri, arrays = Matlab73Reader(options), FastMRIReader(options), Hdf5ArraysReader(options)
    readers: tuple[FormatReader, ...] = (matlab, fastmri, IsmrmrdReader(), arrays)

    def look() -> tuple[int | None, str | None]:
        number = next((number for number, reader in enumerate(readers) if reader.recognises(path)), None)
        plain = number is None or readers[number] in (fastmri, arrays)
        return number, _other_format(path) if plain else None

    number, other = in_child(path, look)
    if other is not None and other.startswith("MRD 2"):
        raise FileError(path, MRD2, MRD2_CURE)
    if other is not None:
        raise FileError(path, f"is HDF5 of {other} that sansref does not read", f"Give {FORMATS}")
    if number is None:
        raise FileError(path, "is HDF5 without an array of numbers", f"Give {FORMATS}")
    return IsolatedReader(readers[number])


@dataclass(frozen=True, slots=True)
class _MindingMemory:
    """A reader in this process, for which memory that runs out is one line; a child process minds it anyway."""

    reader: Reader

    def describe(self, path: Path) -> FileInfo:
        with minding_memory(path):
            return self.reader.describe(path)

    def read(self, path: Path, slices: SliceChoice = None) -> Iterator[Scan | ImageSlice]:
        with minding_memory(path):
            yield from self.reader.read(path, slices)


def _other_format(path: Path) -> str | None:
    """The format that HDF5 without a header of MRI is in, if it says so."""
    try:
        with open_hdf5(path) as file:
            return None if "ismrmrd_header" in file else dialect(path, file)
    except FileError:
        raise
    except Exception:  # whatever a damaged file raises: the reader names it
        return None


@dataclass(frozen=True, slots=True)
class _WithMaps:
    """A reader whose k-space of several coils gets its maps, or a calibration scan for them, from other files.

    ``place`` is a file of maps, which must fit each scan, or k-space of a smaller matrix; or a folder of such files
    that are named as the scans are. ``axes`` are words for the axes of the scans; maps may have the same.
    """

    reader: Reader
    place: Path
    axes: str | None

    def describe(self, path: Path) -> FileInfo:
        """Describe the scans, and see whether there are maps that fit them."""
        info = self.reader.describe(path)
        if info.kind != "k-space" or info.coils == 1:
            return replace(info, notes=(*info.notes, "Maps are without effect: there is one coil."))
        file = maps_file(path, self.place)
        with _blamed_on(path, file):
            (note,) = self._from(file, lambda reader: [_aid_note(reader, file, info)])
        return replace(info, notes=(*info.notes, note))

    def read(self, path: Path, slices: SliceChoice = None) -> Iterator[Scan | ImageSlice]:
        """Yield the chosen slices; scans of several coils have maps."""
        info = self.reader.describe(path)
        chosen = chosen_slices(slices, info.slices)
        if info.kind != "k-space" or info.coils == 1:
            yield from self.reader.read(path, chosen)
            return
        file = maps_file(path, self.place)
        aids = self._from(file, lambda reader: _aids(reader, file, info, chosen))
        for item in self.reader.read(path, chosen):
            with _blamed_on(path, file):
                kind, found = next(aids)
            assert isinstance(item, Scan)
            if kind == "maps":
                yield replace(item, maps=found)
            else:
                size = (item.mask.shape[0], item.mask.shape[1])
                yield replace(item, calibration=center_fit(found, size))

    def _from(self, file: Path, call: Callable[[ArrayReader], Iterable[Result]]) -> Iterator[Result]:
        reader = _arrays_reader(file, ReaderOptions(axes=self.axes))
        if isinstance(reader, MatlabReader | Hdf5ArraysReader):
            return items_in_child(file, lambda: call(reader))
        return iter(call(reader))


def _aid_note(reader: ArrayReader, file: Path, info: FileInfo) -> str:
    if _calibration_slices(reader, file, info):
        return f"Coil maps are estimated from the calibration scan {printable(str(file))}."
    return reader.maps_note(file, info)


def _aids(reader: ArrayReader, file: Path, info: FileInfo, slices: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    """For each slice its maps, complex64 (coils, height, width), or k-space of a calibration scan, and which it is."""
    count = _calibration_slices(reader, file, info)
    if not count:
        yield from (("maps", maps) for maps in reader.read_maps(file, info, slices))
        return
    for scan in reader.read(file, [0 if count == 1 else index for index in slices]):
        assert isinstance(scan, Scan)
        yield "calibration", scan.kspace


def _calibration_slices(reader: ArrayReader, file: Path, info: FileInfo) -> int:
    """How many slices of a calibration scan a file holds, k-space of the same coils in a smaller matrix; 0 for none."""
    try:
        aid = reader.describe(file)
    except FileError:
        return 0
    sizes = (aid.height, aid.width), (info.height, info.width)
    smaller = sizes[0] != sizes[1] and all(own <= size for own, size in zip(*sizes, strict=True))
    fits = aid.kind == "k-space" and aid.coils == info.coils and aid.slices in (1, info.slices)
    if not (smaller and fits):
        return 0
    (first,) = reader.read(file, [0])
    return aid.slices if isinstance(first, Scan) and _is_peaked(rss(first.kspace)) else 0


def _is_peaked(power: Tensor) -> bool:
    """Whether an array (height, width) is highest near its center, far above the rest, as k-space is and no map."""
    row, column = divmod(int(power.argmax()), power.shape[1])
    central = all(abs(at - size // 2) <= size // 4 for at, size in zip((row, column), power.shape, strict=True))
    return central and float(power.max()) > PEAK * float(power[power > 0].median())


def maps_file(path: Path, place: Path) -> Path:
    """The file of maps of a scan: ``place``, or the one in this folder that is named as the scan is.

    Where scans lie in several folders, the maps of each folder lie in a folder of its name. Raises ``FileError`` where
    there is none, or several.
    """
    if not place.is_dir():
        check_file(place)
        return place
    for folder in (place / path.resolve().parent.name, place):
        inside = folder.iterdir() if folder.is_dir() else ()
        named = (file for file in inside if stem_of(file) == stem_of(path) and file.suffix != ".hdr")
        files = sorted(file for file in named if file.is_file())
        if len(files) == 1:
            return files[0]
        if files:
            names = printable(", ".join(file.name for file in files))[:200]
            raise FileError(path, f"has several files of coil maps in {folder} ({names})", "Leave one of them there")
    cure = f"Put a file of that name there ({ARRAYS}), or give --maps none to estimate them"
    raise FileError(path, f"has no coil maps in {place}, where none is named {printable(stem_of(path))}", cure)


def _arrays_reader(path: Path, options: ReaderOptions) -> ArrayReader:
    """The reader of a file of maps."""
    check_file(path)
    kinds: tuple[type[ArrayReader], ...] = (NpyReader, NpzReader, MatlabReader, BartReader)
    if is_hdf5(path):
        kinds = (Matlab73Reader, Hdf5ArraysReader)
    for kind in kinds:
        reader = kind(options)
        asked = partial(reader.recognises, path)
        if in_child(path, asked) if is_hdf5(path) else asked():
            return reader
    raise FileError(path, "is not in a format from which coil maps can be read", f"Give {ARRAYS}")


def _blamed_on(path: Path, maps: Path) -> AbstractContextManager[None]:
    """What is wrong with the maps of a scan is a fault of the scan: it may be left out, as an unreadable one."""
    return blamed_on(path, f"cannot have its coil maps from {maps}", MAPS_CURE)
