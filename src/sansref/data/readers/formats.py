"""The formats that are read, and the choice of a reader by content."""

from __future__ import annotations

from pathlib import Path

from sansref.data.readers.fastmri import FastMRIReader
from sansref.data.readers.guard import check_file
from sansref.data.readers.nifti import NiftiReader
from sansref.data.readers.record import Reader, ReaderOptions
from sansref.errors import FileError


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
    readers: tuple[Reader, ...] = (FastMRIReader(), NiftiReader(options.plane))
    for reader in readers:
        if reader.recognises(path):
            return reader
    raise FileError(
        path,
        "is in no format that is read here",
        "Give fastMRI HDF5 (with a dataset 'kspace') or NIfTI (.nii, .nii.gz)",
    )
