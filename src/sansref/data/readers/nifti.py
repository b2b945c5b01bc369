"""NIfTI-1 and NIfTI-2 volumes of magnitude images in single files, plain or gzipped.

Format: https://nifti.nimh.nih.gov (nifti1.h); headers are decoded by nibabel. Where a header contradicts itself or the
length of the file, the file is refused, or what is done instead stands in its description.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from sansref.data.placement import is_placing
from sansref.data.readers.array_slices import FlatFile, InMemory, Stored, check_fits, check_images
from sansref.data.readers.damage import check_plausible_size, head_of, reading
from sansref.data.readers.reader import FileInfo, ImageSlice, Plane, SliceChoice, chosen_slices
from sansref.data.readers.subjects import contrast_of, subject_of
from sansref.errors import FileError
from sansref.machine import available_memory
from sansref.scan import Geometry

FORMAT = "NIfTI"
GZIP_MAGIC = b"\x1f\x8b"
LONGEST_HEADER = 540
#: Units of length by the lowest three bits of ``xyzt_units``, in millimetres; others are not defined, mostly not said.
UNITS = {1: ("metres", 1e3), 2: ("millimetres", 1.0), 3: ("micrometres", 1e-3)}
#: Voxels of MRI are within these, in millimetres: beyond, the units are not those that the header names.
SIZES = (1e-4, 500.0)
#: Codes of the spaces that a volume may lie in, as nifti1.h has them.
SPACES = range(1, 6)
#: Part of the free memory that the voxels of an uncompressed file may take.
MOST_HELD = 0.25
#: Bytes that may follow the voxels of a gzipped file, at least.
MOST_BEHIND = 1 << 26
BLOCK = 1 << 20
#: The two ends of the patient axis that each plane is cut across (nibabel's axis codes).
ACROSS = {"sagittal": "LR", "coronal": "PA", "axial": "IS"}


@dataclass(frozen=True, slots=True)
class _Volume:
    info: FileInfo
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    geometry: Geometry
    slope: float
    intercept: float


class NiftiReader:
    """Reader of NIfTI volumes.

    The plane ``native`` cuts slices across the axis with the fewest samples (the last of equals), which is how 2-D
    multi-slice volumes and most 3-D ones were acquired; the others follow the affine.
    """

    format = FORMAT

    def __init__(self, plane: Plane = "native") -> None:
        if plane != "native" and plane not in ACROSS:
            raise ValueError(f"plane must be native, sagittal, coronal or axial, got {plane!r}")
        self.plane = plane

    def recognises(self, path: Path) -> bool:
        """Whether it is NIfTI or Analyze, so that what cannot be used is named, or gzip too damaged to tell."""
        try:
            return _header_class(_head(path)) is not None or _in_two_files(path) is not None
        except (EOFError, zlib.error, gzip.BadGzipFile):  # describe() names what is wrong
            return True

    def describe(self, path: Path) -> FileInfo:
        """Read the header; of a gzipped file only its beginning is decompressed."""
        return self._volume(path).info

    def read(self, path: Path, slices: SliceChoice = None) -> Iterator[ImageSlice]:
        """Yield one ``ImageSlice`` per slice.

        The volume is held in memory once, as it is stored; an uncompressed one that is large for the free memory is
        read by the slice. The file is open only while the iterator lives.
        """
        volume = self._volume(path)
        chosen = chosen_slices(slices, volume.info.slices)
        with _opened(path) as stream:
            stored = _stored(path, stream, volume)
            _check_magnitude(path, stored, volume)
            for index in chosen:
                yield ImageSlice(_image(stored, volume, index), volume.info.meta(index, volume.geometry))

    def _volume(self, path: Path) -> _Volume:
        with reading(path, FORMAT):
            head = _head(path)
        kind = _header_class(head)
        if kind is None:
            problem = _in_two_files(path) or "is not single-file NIfTI"
            raise FileError(path, problem, "Give a .nii or .nii.gz file")
        with reading(path, FORMAT):
            # nibabel's own checks would mend some fields without a word and log others.
            header = kind(head[: kind.sizeof_hdr], _byte_order(head, kind.sizeof_hdr), check=False)
            dtype = header.get_data_dtype()
            slope, intercept = header.get_slope_inter()
        shape = _checked_shape(path, header, dtype)
        offset, notes = _place_of_voxels(path, head, header, math.prod(shape) * dtype.itemsize)
        with np.errstate(all="ignore"):  # as for any number of a damaged header
            affine, space, about = _affine(path, header, shape)
        axis = _slice_axis(path, shape, affine, self.plane)
        rows, columns = (other for other in range(3) if other != axis)
        info = FileInfo(
            path=path,
            format=FORMAT,
            kind="magnitude",
            slices=shape[axis],
            height=shape[rows],
            width=shape[columns],
            subject=subject_of(path),
            contrast=contrast_of(path),
            spacing=_spacing(affine, rows, columns),
            notes=(
                f"Slices are cut across array axis {axis}{_plane_name(affine, axis)}; their k-space is simulated.",
                *about,
                *notes,
            ),
        )
        rows_of_affine = tuple(cast("tuple[float, float, float, float]", tuple(row)) for row in affine.tolist())
        geometry = Geometry(rows_of_affine, axis, known=space > 0, space=space or 1)
        return _Volume(info, shape, dtype, offset, geometry, 1.0 if slope is None else slope, intercept or 0.0)


def _is_compressed(path: Path) -> bool:
    return head_of(path, 2) == GZIP_MAGIC


def _opened(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path)) if _is_compressed(path) else path.open("rb")


def _head(path: Path) -> bytes:
    with _opened(path) as stream:
        return stream.read(LONGEST_HEADER)


def _header_class(head: bytes) -> Any:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    if head[344:348] == b"n+1\0":
        return Nifti1Header
    if head[4:8] == b"n+2\0" and len(head) == LONGEST_HEADER:
        return Nifti2Header
    return None


def _byte_order(head: bytes, size: int) -> str | None:
    """As the size of the header tells, which stands first; None leaves it to nibabel."""
    return next((order for order in "<>" if struct.unpack(f"{order}i", head[:4])[0] == size), None)


def _in_two_files(path: Path) -> str | None:
    """What is wrong with a header whose voxels lie in another file, and with those voxels; None for other files."""
    beside = path.with_suffix(".hdr")
    head = _head(beside if path.suffix.lower() == ".img" and beside.is_file() else path)
    if head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0":
        return "is one half of a NIfTI pair (.hdr and .img), which is to be joined, for example by nibabel or FSL"
    order = _byte_order(head, 348) if len(head) >= 348 else None
    old = order is not None and 1 <= struct.unpack_from(f"{order}h", head, 40)[0] <= 7
    return "is Analyze 7.5, which does not say left from right; it is to be converted with care" if old else None


def _checked_shape(path: Path, header: Any, dtype: np.dtype[Any]) -> tuple[int, int, int]:
    if dtype.kind not in "biuf":
        what = "colours" if dtype.names else str(dtype)
        raise FileError(path, f"holds {what} voxels, not magnitudes", "Convert it to a magnitude volume of numbers")
    count, *sizes = map(int, header["dim"])
    if not 1 <= count <= 7:
        raise FileError(path, f"declares {count} dimensions in dim[0]", "Repair its header, or leave it out")
    # As nifti1_io.c of the format's authors has it, sizes of 0 behind the third say that there is no such axis.
    shape = (*sizes[: min(count, 3)], *(max(size, 1) for size in sizes[3:count]))
    if len(shape) < 3 or min(shape) < 1:
        raise FileError(path, f"has the shape {shape}, which is not a 3-D volume", "Convert it to a 3-D volume")
    if math.prod(shape[3:]) != 1:
        problem = f"has the shape {shape}: several volumes in one file"
        raise FileError(path, problem, "Split it into one file per volume, for example with nibabel.four_to_three")
    return shape[0], shape[1], shape[2]


def _place_of_voxels(path: Path, head: bytes, header: Any, data_bytes: int) -> tuple[int, list[str]]:
    """Where the voxels begin, and a note where something follows them.

    Voxels of single files begin behind the header and its four bytes that tell of extensions. Files in which
    ``vox_offset`` says less, mostly nothing, or leaves no room for an extension, are read where their length leaves no
    doubt.
    """
    said, size, first = float(header["vox_offset"]), int(header.sizeof_hdr), int(header.single_vox_offset)
    check_plausible_size(path, data_bytes)
    extended = any(head[size : size + 1])  # which leaves no room for voxels at the first place
    if said >= first + extended and said.is_integer():
        check_plausible_size(path, int(said) + data_bytes)
        if _is_compressed(path):
            return int(said), []  # the length before compression is only known once it has been read
        behind = _length(path) - int(said) - data_bytes
        if behind < 0:
            problem = f"is truncated: it has {_length(path)} bytes, its header promises {int(said) + data_bytes}"
            raise FileError(path, problem, "Copy or download it again")
        return int(said), [f"{behind} bytes behind its voxels are not read."] if behind else []
    offset = _length(path) - data_bytes
    if offset not in (size, first) and not (extended and offset > first and offset % 16 == 0):
        problem = f"does not say where its voxels begin (vox_offset {said:g}), nor does its length tell"
        raise FileError(path, problem, "Repair its header, or copy it again")
    return offset, []


def _length(path: Path) -> int:
    """Bytes of a file, decompressed."""
    if not _is_compressed(path):
        return path.stat().st_size
    with reading(path, FORMAT), gzip.open(path) as stream:
        return sum(map(len, iter(lambda: stream.read(BLOCK), b"")))


def _affine(path: Path, header: Any, shape: tuple[int, int, int]) -> tuple[np.ndarray[Any, Any], int, list[str]]:
    """From voxels to millimetres; the code of the space that it leads to, 0 where it says of none, and notes on it.

    The sform goes before the qform; where neither is there, or can be used, sizes are those of ``pixdim`` and the place
    is made up. Signs and zeros in ``pixdim``, and 0 in ``qfac``, are read as nifti1_io.c does.
    """
    from nibabel.volumeutils import shape_zoom_affine

    name, factor = UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    notes = [f"Its header gives lengths in {name}."] if factor != 1 else []
    pixdim = np.asarray(header["pixdim"], dtype=np.float64)
    stated = np.isfinite(pixdim[1:4]) & (pixdim[1:4] != 0)
    sizes = np.where(stated, np.abs(pixdim[1:4]), 1.0)
    header["pixdim"][:4] = (-1.0 if pixdim[0] < 0 else 1.0, *sizes)
    affine, space = np.asarray(shape_zoom_affine(shape, sizes, True), dtype=np.float64), 0
    for form, get in (("sform", header.get_sform), ("qform", header.get_qform)):
        if (code := int(header[f"{form}_code"])) <= 0:
            continue
        try:
            stated_affine = np.asarray(get(), dtype=np.float64)
        except Exception:  # quaternions that are none
            stated_affine = np.full((4, 4), np.nan)
        if is_placing(stated_affine):
            affine, space = stated_affine, code if code in SPACES else 1
            break
        notes.append(f"Its {form} cannot be used.")
    if not space:
        notes.append("It does not say where it lies in the patient: its place is made up.")
        if not stated.all():
            notes.append("It does not give all sizes of its voxels (pixdim): 1 is taken.")
    affine[:3] *= factor
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    if factor != 1 and not SIZES[0] <= voxel.min() <= voxel.max() <= SIZES[1]:
        problem = f"has voxels of {' x '.join(f'{size:.4g}' for size in voxel)} mm by its units, {name} (xyzt_units)"
        raise FileError(path, problem, "Correct its units")
    return affine, space, notes


def _slice_axis(path: Path, shape: tuple[int, int, int], affine: np.ndarray[Any, Any], plane: Plane) -> int:
    if plane == "native":
        return min(range(3), key=lambda axis: (shape[axis], -axis))
    for axis, code in enumerate(_axis_codes(affine)):
        if code and code in ACROSS[plane]:
            return axis
    raise FileError(path, f"has an affine without a {plane} plane", "Repair its sform or use the native plane")


def _axis_codes(affine: np.ndarray[Any, Any]) -> tuple[str | None, ...]:
    from nibabel.orientations import aff2axcodes

    try:
        with np.errstate(all="ignore"):
            return tuple(aff2axcodes(affine))  # type: ignore[no-untyped-call]
    except ValueError:  # a degenerate affine has no orientation
        return (None, None, None)


def _plane_name(affine: np.ndarray[Any, Any], axis: int) -> str:
    code = _axis_codes(affine)[axis]
    return next((f" ({plane} plane)" for plane, ends in ACROSS.items() if code and code in ends), "")


def _spacing(affine: np.ndarray[Any, Any], rows: int, columns: int) -> tuple[float, float] | None:
    with np.errstate(all="ignore"):
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
    spacing = float(sizes[rows]), float(sizes[columns])
    return spacing if all(0 < size < math.inf for size in spacing) else None


def _stored(path: Path, stream: BinaryIO, volume: _Volume) -> Stored:
    """Voxels as stored, before scaling, in the volume's 3-D shape."""
    size = math.prod(volume.shape) * volume.dtype.itemsize
    compressed = isinstance(stream, gzip.GzipFile)
    if compressed:
        check_fits(path, volume.shape, volume.dtype.itemsize, "Decompress it: a plain .nii is read slice by slice")
    elif (free := available_memory()) is not None and size > free * MOST_HELD:
        return FlatFile(path, stream, volume.offset, volume.shape, volume.dtype, fortran=True)
    with reading(path, FORMAT):
        # Not memory-mapped: a mapping outlives the file handle, and kills the process if the file is cut meanwhile.
        array = np.empty(math.prod(volume.shape), volume.dtype)
        stream.seek(volume.offset)
        room, filled = array.view(np.uint8), 0
        while filled < size:
            piece = stream.read(min(BLOCK, size - filled))
            if not piece:
                raise EOFError("the file ends before its voxels do")
            room[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
        behind = max(size, MOST_BEHIND)
        while compressed and (piece := stream.read(BLOCK)):  # the checksum is only compared at the end of the stream
            if (behind := behind - len(piece)) < 0:
                raise ValueError("it goes on long after its voxels")
    return InMemory(array.reshape(volume.shape, order="F"))


def _check_magnitude(path: Path, stored: Stored, volume: _Volume) -> None:
    """Refuse what is no magnitude, read along the last axis, which lies in one piece."""

    def ends() -> Iterator[np.ndarray[Any, Any]]:
        for index in range(volume.shape[2]):
            block = stored.piece(2, index, index + 1)
            yield np.array([block.min(), block.max()], dtype=np.float64) * volume.slope + volume.intercept

    check_images(path, ends())


def _image(stored: Stored, volume: _Volume, index: int) -> Tensor:
    axis = volume.geometry.slice_axis
    image = stored.piece(axis, index, index + 1).squeeze(axis)
    scaled = image.astype(np.float64) * volume.slope + volume.intercept
    return torch.from_numpy(scaled.astype(np.float32, order="C")).clamp_(min=0)
