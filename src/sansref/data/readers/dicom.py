"""DICOM MR images: a series of single-slice files in one folder, or one multi-frame file.

A series is named by any of its files; folders list the first by name. Slices are gathered from the files of one folder,
in the order in which they lie, and decoded.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sansref.data.mrd.header import identifier
from sansref.data.readers.array_slices import check_images
from sansref.data.readers.damage import blamed_on, reading
from sansref.data.readers.dicom_headers import (
    FORMAT,
    MULTI_FRAME,
    Frame,
    Stack,
    as_stored,
    frames_of,
    header_of,
    is_dicom,
    is_directory,
    settled,
)
from sansref.data.readers.reader import BY_PATIENT, BY_STUDY, FileInfo, ImageSlice, Plane, SliceChoice, chosen_slices
from sansref.errors import FileError, SansrefError, printable
from sansref.scan import Geometry

#: Slices may lie this far from their place in an even row: part of their distance, and millimetres, but at most a part.
UNEVEN = (0.02, 0.1, 0.2)
PLANES = ("sagittal", "coronal", "axial")
FOLDERS_KEPT = 8

Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Series:
    """A volume, named by one of its files: its slices along the normal of their plane.

    ``geometry`` is that of an array (rows, columns, slices), ``plane`` the one that the slices are nearest to.
    """

    path: Path
    frames: tuple[Frame, ...]
    geometry: Geometry
    plane: str

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold it, each once."""
        return tuple(dict.fromkeys(frame.file for frame in self.frames))

    @property
    def is_compressed(self) -> bool:
        """Whether the pixels of any file are compressed."""
        from pydicom.uid import UID

        return any(UID(syntax).is_compressed for syntax in {frame.syntax for frame in self.frames})


def series_of(path: Path) -> Series:
    """Gather the volume that a file belongs to: a multi-frame file alone, a single-slice one with those beside it.

    Slices belong together that are of one series, orientation, matrix, image type, echo time, time point and b-value,
    but for rounding. Raises ``FileError`` if the file is no MR image, or its slices make no volume.
    """
    frames = settled(frames_of(path))
    stacks = {frame.stack for frame in frames}
    if len(stacks) > 1:
        problem = f"holds {len(stacks)} volumes in one file (several echoes, time points, b-values or orientations)"
        raise FileError(path, problem, "Split it into one file per volume, or into single-slice files")
    if frames[0].sop_class not in MULTI_FRAME:
        frames = _beside(frames[0])
    return _ordered(path, frames)


def first_files(paths: Iterable[Path]) -> list[Path]:
    """Leave one file of each DICOM volume, the first given; keep all that is not DICOM, or not readable as such.

    DICOMDIR files, which only list others, are left out.
    """
    kept: list[Path] = []
    seen: set[tuple[Path, Stack]] = set()
    folders: dict[Path, dict[str, Frame]] = {}
    for path in paths:
        if is_dicom(path):
            if path.parent not in folders:
                folders[path.parent] = _folder_of(path)
            frame = folders[path.parent].get(path.name)
            volume = None if frame is None else (path.parent, frame.stack)
            if volume in seen or (volume is None and is_directory(path)):
                continue
            if volume is not None:
                seen.add(volume)
        kept.append(path)
    return kept


def _beside(first: Frame) -> list[Frame]:
    *others, first = settled([*_folder_of(first.file).values(), first])
    found = {frame.file.name: frame for frame in others if frame.stack == first.stack}
    # The file itself counts even if it is hidden or a link to one that is listed under another name.
    return list({first.file.name: first, **found}.values())


def _folder_of(path: Path) -> dict[str, Frame]:
    """The single-slice DICOM files of a file's folder by name; those that cannot be used say why when they are read."""
    folder = path.parent
    try:
        with os.scandir(folder) as entries:
            files = sorted((entry.name, entry.stat()) for entry in entries if entry.is_file() and entry.name[0] != ".")
    except OSError as error:
        problem = f"lies in a folder that cannot be listed ({error.strerror})"
        raise FileError(path, problem, "Ask for permission to read it, or wait until it is filled") from error
    return _indexed(folder, tuple((name, state.st_size, state.st_mtime_ns) for name, state in files))


@lru_cache(maxsize=FOLDERS_KEPT)
def _indexed(folder: Path, signature: Signature) -> dict[str, Frame]:
    """The index of a folder; kept, since every volume of the folder asks for it several times."""
    found: dict[str, Frame] = {}
    for name, _, _ in signature:
        path = folder / name
        if not is_dicom(path):
            continue
        try:
            frames = frames_of(path)
        except SansrefError:
            continue
        if frames[0].sop_class not in MULTI_FRAME:
            found[name] = frames[0]
    return dict(zip(found, settled(found.values()), strict=True))


def _ordered(path: Path, frames: list[Frame]) -> Series:
    along_row, along_column = np.reshape(frames[0].orientation, (2, 3))
    normal = np.cross(along_row, along_column)
    lengths = [float(np.linalg.norm(vector)) for vector in (along_row, along_column, normal)]
    if not np.allclose(lengths, 1, atol=1e-2):
        raise FileError(path, "has an ImageOrientationPatient that is not a pair of directions", "Export it again")
    frames = sorted(frames, key=lambda frame: (float(normal @ frame.position), frame.file.name, frame.number))
    positions = np.array([frame.position for frame in frames])
    step = _step(path, frames, positions, normal)
    rows, columns = frames[0].stack.spacing
    axes = np.stack([along_column * rows, along_row * columns, step, positions[0]], axis=1)
    affine = np.vstack([np.diag([-1.0, -1.0, 1.0]) @ axes, [0, 0, 0, 1]])
    geometry = Geometry(tuple(tuple(row) for row in affine.tolist()), slice_axis=2, thickness=frames[0].thickness)
    return Series(path, tuple(frames), geometry, PLANES[int(np.abs(normal).argmax())])


def _step(path: Path, frames: list[Frame], positions: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """From a slice to the next; refuses volumes with missing, repeated or uneven slices."""
    if len(frames) == 1:
        return normal * abs(frames[0].gap or frames[0].thickness or 1.0)
    depths = positions @ normal
    gaps = np.diff(depths)
    usual = float(np.median(gaps))
    if gaps.min() < 0.01 * max(usual, 0.01):
        twins = ", ".join(frame.file.name for frame in frames[int(gaps.argmin()) :][:2])
        problem = f"belongs to a series with several images at one place ({twins})"
        raise FileError(path, problem, "Put repetitions and copies into separate folders")
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    even = positions[0] + np.arange(len(frames))[:, None] * step
    if np.abs(positions - even).max() > max(UNEVEN[0] * usual, min(UNEVEN[1], UNEVEN[2] * usual)):
        distances = f"{gaps.min():.4g} to {gaps.max():.4g} mm"
        problem = f"belongs to a series of {len(frames)} slices at uneven distances ({distances})"
        raise FileError(path, problem, "Look for missing slices in its folder")
    return np.asarray(step)


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
    """Refuse JPEG-LS streams that are cut short or declare another size, naming the series and the slice.

    The decoder works for many seconds on a stream without an end, and believes any size.
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

    Raises ``FileError`` where a slice cannot be decoded, naming the series.
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
    with blamed_on(path, f"has in its series {frame.file.name}"), reading(frame.file, FORMAT):
        yield


ABOUT = ("PatientID", "StudyInstanceUID", "SeriesDescription", "ProtocolName", "LossyImageCompression")


class DicomReader:
    """Reader of DICOM MR magnitude images, in the plane in which they were acquired.

    The subject is the PatientID, never a name. Slices lie along the normal of their plane, their values are rescaled.
    """

    format = FORMAT

    def __init__(self, plane: Plane = "native") -> None:
        self.plane = plane

    def recognises(self, path: Path) -> bool:
        """Whether it has the magic of DICOM files."""
        return is_dicom(path)

    def describe(self, path: Path) -> FileInfo:
        """Read the headers of the file and, for a single-slice one, of those beside it."""
        return self._described(series_of(path))

    def read(self, path: Path, slices: SliceChoice = None) -> Iterator[ImageSlice]:
        """Yield one ``ImageSlice`` per slice; one is held in memory at a time.

        All slices are looked at first, so that what is no magnitude is refused before the first.
        """
        series = series_of(path)
        info = self._described(series)
        chosen = chosen_slices(slices, info.slices)
        check_streams(series)
        check_images(series.path, images(series, range(len(series.frames))))
        for index, image in zip(chosen, images(series, chosen), strict=True):
            yield ImageSlice(
                torch.from_numpy(image.astype(np.float32)).clamp_(min=0), info.meta(index, series.geometry)
            )

    def _described(self, series: Series) -> FileInfo:
        path, frames = series.path, series.frames
        if self.plane not in ("native", series.plane):
            problem = f"is a DICOM series of {series.plane} slices, not of {self.plane} ones"
            raise FileError(path, problem, "Use --plane native, or convert it to NIfTI to cut it otherwise")
        check_decodable(series)
        with reading(path, FORMAT):
            header = header_of(path, ABOUT)
            patient, study, series_name, protocol, lossy = (printable(str(header.get(name) or "")) for name in ABOUT)
        known = identifier(patient)
        height, width = frames[0].stack.size
        rows, columns = frames[0].stack.spacing
        notes = [f"The slices are {series.plane} ones, in {len(series.files)} file(s); their k-space is simulated."]
        if known is None:
            notes.append("It has no PatientID: its study counts as one person.")
        if lossy == "01":
            notes.append("Its images were compressed with loss.")
        return FileInfo(
            path=path,
            format=FORMAT,
            kind="magnitude",
            slices=len(frames),
            height=height,
            width=width,
            # Names of files and folders on a disc (IM0001) are those of every other patient, too.
            subject=known or study or frames[0].stack.series,
            contrast=series_name or protocol or None,
            spacing=(rows, columns),
            notes=tuple(notes),
            recognised_by=BY_PATIENT if known else BY_STUDY,
        )
