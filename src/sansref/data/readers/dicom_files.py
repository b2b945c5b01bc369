"""DICOM files: their magic, and what stands before their pixels, decoded by pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sansref.data.readers.guard import reading
from sansref.errors import FileError, SansrefError, SettingError

FORMAT = "DICOM"
PREAMBLE = 128
MAGIC = b"DICM"
#: Of a bare data set: the last element with which one begins, and the longest value of that.
LAST_ELEMENT, LONGEST_VALUE = 0x0018, 64
DIRECTORY = "1.2.840.10008.1.3.10"
DEFLATED = "1.2.840.10008.1.2.1.99"


def is_dicom(path: Path) -> bool:
    """Whether a file has the magic of DICOM files, or begins as they do behind it."""
    try:
        if not path.is_file():  # to open a pipe could take for ever
            return False
        with path.open("rb") as file:
            head = file.read(PREAMBLE + len(MAGIC))
        return head[PREAMBLE:] == MAGIC or bare(head)
    except OSError:  # whoever opens it says why
        return False


def bare(head: bytes) -> bool:
    """Whether a file begins with elements of DICOM's first groups, as from a network, without preamble and magic."""
    group, element, kind = head[:2], int.from_bytes(head[2:4], "little"), head[4:6]
    explicit = kind in (b"UL", b"UI", b"CS", b"SH", b"DA", b"TM")
    short = 0 < int.from_bytes(head[4:8], "little") <= LONGEST_VALUE
    return group in (b"\2\0", b"\x08\0") and element <= LAST_ELEMENT and (explicit or (group == b"\x08\0" and short))


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
        raise SettingError("reading DICOM needs the package pydicom: pip install pydicom") from None
    with reading(path, FORMAT):
        with path.open("rb") as file:
            head = file.read(PREAMBLE + len(MAGIC))
        if head[PREAMBLE:] != MAGIC and bare(head):
            problem = "is DICOM without the header of a file, as sent over a network"
            raise FileError(path, problem, "Write it as a file, for example by dcmconv")
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
