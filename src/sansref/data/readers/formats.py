"""The formats that are read, and the choice of a reader by content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sansref.data.readers.bart import BartReader
from sansref.data.readers.dicom import DicomReader
from sansref.data.readers.dicom_files import is_compressed
from sansref.data.readers.fastmri import FastMRIReader
from sansref.data.readers.guard import check_file, minding_memory
from sansref.data.readers.hdf5_arrays import Hdf5ArraysReader, Matlab73Reader, is_hdf5
from sansref.data.readers.ismrmrd import IsmrmrdReader
from sansref.data.readers.isolated import in_child, isolated
from sansref.data.readers.matlab import MatlabReader
from sansref.data.readers.nifti import NiftiReader
from sansref.data.readers.numpy_arrays import NpyReader, NpzReader
from sansref.data.readers.record import FileInfo, ImageSlice, Reader, ReaderOptions
from sansref.data.readers.twix import TwixReader
from sansref.errors import FileError
from sansref.scan import Scan

FORMATS = "fastMRI HDF5, MRD, Siemens twix, NIfTI, DICOM, NumPy (.npy, .npz), MATLAB (.mat) or BART (.cfl)"
"""What is read, for people."""


def open_scan_file(path: Path, options: ReaderOptions | None = None) -> Reader:
    """Find the reader of a file by its content.

    Parameters
    ----------
    path
        Any file.
    options
        How files are read, for the formats that leave a choice.

    Raises
    ------
    FileError
        If it is missing, a folder, empty, may not be read, or is in no format that is read.
    """
    check_file(path)
    options = options or ReaderOptions()
    if is_hdf5(path):
        return _hdf5_reader(path, options)
    readers: tuple[Reader, ...] = (
        *(NiftiReader(options.plane), DicomReader(options.plane), TwixReader()),
        *(NpyReader(options), NpzReader(options), MatlabReader(options), BartReader(options)),
    )
    for reader in readers:
        if reader.recognises(path):
            # scipy, too, crashes over damaged files, and decoders of images are libraries in C as well.
            fragile = is_compressed(path) if isinstance(reader, DicomReader) else isinstance(reader, MatlabReader)
            return isolated(reader) if fragile else _MindingMemory(reader)
    raise FileError(path, "is in no format that is read here", f"Give {FORMATS}")


def _hdf5_reader(path: Path, options: ReaderOptions) -> Reader:
    """Of the readers of HDF5, which a damaged file can hang or crash, the first that knows the file."""
    readers: tuple[Reader, ...] = (
        *(Matlab73Reader(options), FastMRIReader(options), IsmrmrdReader(), Hdf5ArraysReader(options)),
    )
    known = in_child(path, lambda: next((n for n, reader in enumerate(readers) if reader.recognises(path)), None))
    if known is None:
        raise FileError(path, "is HDF5 without an array of numbers", f"Give {FORMATS}")
    return isolated(readers[known])


@dataclass(frozen=True, slots=True)
class _MindingMemory:
    """A reader in this process, for which memory that runs out is one line; a child process minds it anyway."""

    reader: Reader

    @property
    def format(self) -> str:
        return self.reader.format

    def recognises(self, path: Path) -> bool:
        with minding_memory(path):
            return self.reader.recognises(path)

    def describe(self, path: Path) -> FileInfo:
        with minding_memory(path):
            return self.reader.describe(path)

    def read(self, path: Path, slices: Sequence[int] | None = None) -> Iterator[Scan | ImageSlice]:
        with minding_memory(path):
            yield from self.reader.read(path, slices)
