"""Pixels of DICOM slices, decoded by pydicom."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sansref.data.readers.dicom_files import FORMAT, header_of
from sansref.data.readers.dicom_headers import MULTI_FRAME, Frame, as_stored
from sansref.data.readers.dicom_series import Series
from sansref.data.readers.guard import reading
from sansref.errors import FileError, printable

Pixels = npt.NDArray[Any]

#: Transfer syntaxes, and markers of the stream (ISO/IEC 14495-1): frame header and end of image.
JPEG_LS = frozenset(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"))
FRAME_HEADER, END = b"\xff\xf7", b"\xff\xd9"


def check_decodable(series: Series) -> None:
    """Raise ``FileError`` if nothing that is installed can decode a slice's transfer syntax."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    for syntax in {frame.syntax for frame in series.frames}:
        uid = UID(syntax)
        try:
            available = get_decoder(uid).is_available
        except NotImplementedError:
            available = False
        if not available:
            problem = f"is stored in a way that cannot be decoded here ({printable(uid.name)[:80]})"
            raise FileError(series.path, problem, "Decompress it, for example by gdcmconv --raw")


def check_streams(series: Series) -> None:
    """Refuse JPEG-LS streams that are cut short or declare another size.

    The decoder works for many seconds on a stream without an end, and believes any size.

    Raises
    ------
    FileError
        Naming the series and the slice.
    """
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    for path in series.files:
        frames = [frame for frame in series.frames if frame.file == path]
        if frames[0].syntax not in JPEG_LS:
            continue
        with _naming(series.path, frames[0]):
            pixels = dcmread(path, specific_tags=["PixelData"]).PixelData
            for stream in generate_frames(pixels, number_of_frames=len(frames)):
                at = stream.find(FRAME_HEADER)
                if at < 0 or not stream.rstrip(b"\0").endswith(END):
                    raise FileError(path, "holds an image that is truncated", "Copy or download it again")
                if struct.unpack_from(">HH", stream, at + 5) != frames[0].stack.size:
                    raise FileError(path, "holds an image of another size than it says", "Copy or download it again")


def images(series: Series, indices: Sequence[int]) -> Iterator[npt.NDArray[np.float64]]:
    """Rescaled pixels of slices, float64 (height, width), one in memory at a time.

    Raises
    ------
    FileError
        Where a slice cannot be decoded, naming the series.
    """
    frames = [series.frames[index] for index in indices]
    for frame, stored in zip(frames, _stored(series.path, frames), strict=True):
        if frame.looked_up:
            with _naming(series.path, frame):
                image = _looked_up(frame.file, stored)
        else:
            image = stored.astype(np.float64) * frame.slope + frame.intercept
        if frame.padding is not None:
            image[(stored >= frame.padding[0]) & (stored <= frame.padding[1])] = 0
        yield image


def _looked_up(path: Path, stored: Pixels) -> npt.NDArray[np.float64]:
    """Values by a file's table (PS3.3, C.11.1), whose ends are those of stored values beyond them."""
    header = header_of(path, ("BitsAllocated", "BitsStored", "PixelRepresentation", "ModalityLUTSequence"))
    table = header.ModalityLUTSequence[0]
    count, said, _ = map(int, table.LUTDescriptor)
    count, first = count or 1 << 16, as_stored(said, header)
    entries = table.LUTData
    if isinstance(entries, bytes):
        wide = "<u2" if header.file_meta.TransferSyntaxUID.is_little_endian else ">u2"
        entries = np.frombuffer(entries, wide if len(entries) >= 2 * count else np.uint8)
    if len(entries) < count or first is None:
        raise ValueError("its lookup table is shorter than it says, or begins at a value that no pixel has")
    places = np.clip(stored.astype(np.int64) - first, 0, count - 1)
    return np.asarray(entries, dtype=np.float64)[places]


def _stored(path: Path, frames: Sequence[Frame]) -> Iterator[Pixels]:
    """Pixels as stored; a multi-frame file is opened once."""
    from pydicom.pixels.utils import iter_pixels, pixel_array

    if frames and frames[0].sop_class in MULTI_FRAME:
        decoded = iter_pixels(frames[0].file, indices=[frame.number for frame in frames])
        for frame in frames:
            with _naming(path, frame):
                image = next(decoded)
            yield image
        return
    for frame in frames:
        with _naming(path, frame):
            image = pixel_array(frame.file, index=0)
        yield image


@contextmanager
def _naming(path: Path, frame: Frame) -> Iterator[None]:
    """Let the fault of a slice's file be one of the file by which its series is named."""
    try:
        with reading(frame.file, FORMAT):
            yield
    except FileError as error:
        if frame.file == path:
            raise
        raise FileError(path, f"has in its series {frame.file.name}, which {error.problem}", error.cure) from error
