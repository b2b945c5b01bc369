"""DICOM files: their magic, and what stands before their pixels, decoded by pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sansref.data.readers.guard import reading
from sansref.errors import FileError, SansrefError, SettingError

FORMAT = "DICOM"
PREAMBLE = 128
MAGIC = b"DICM"
DIRECTORY = "1.2.840.10008.1.3.10"
DEFLATED = "1.2.840.10008.1.2.1.99"


def is_dicom(path: Path) -> bool:
    """Whether a file has the magic of DICOM files."""
    try:
        if not path.is_file():  # to open a pipe could take for ever
            return False
        with path.open("rb") as file:
            return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError:  # whoever opens it says why
        return False


def header_of(path: Path, keywords: tuple[str, ...]) -> Any:
    """These attributes, of all that stands before the pixels, as a pydicom dataset; values are decoded on access.

    Raises
    ------
    FileError
        If it cannot be read.
    SettingError
        If pydicom is not installed.
    """
    try:
        from pydicom import dcmread
        from pydicom.filereader import read_file_meta_info
    except ImportError:
        raise SettingError("reading DICOM needs the package pydicom: pip install 'sansref[raw]'") from None
    with reading(path, FORMAT):
        # Expanding it could take any amount of memory, and nobody stores MR images so.
        if str(read_file_meta_info(path).get("TransferSyntaxUID")) == DEFLATED:
            problem = "is deflated as a whole, which is not read here"
            raise FileError(path, problem, "Convert it, for example by dcmconv +te")
        return dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))


def is_compressed(path: Path) -> bool:
    """Whether the pixels of a DICOM file are compressed, as far as that can be told."""
    try:
        from pydicom.filereader import read_file_meta_info

        with reading(path, FORMAT):
            return bool(read_file_meta_info(path).TransferSyntaxUID.is_compressed)
    except (FileError, ImportError):  # whoever reads it says what is wrong
        return False


def is_directory(path: Path) -> bool:
    """Whether a DICOM file only lists others (DICOMDIR)."""
    try:
        with reading(path, FORMAT):
            return str(header_of(path, ("SOPClassUID",)).file_meta.get("MediaStorageSOPClassUID")) == DIRECTORY
    except SansrefError:
        return False
