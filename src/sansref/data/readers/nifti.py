"""NIfTI-1 and NIfTI-2 volumes of magnitude images, plain or gzipped.

Format: https://nifti.nimh.nih.gov; headers are decoded by nibabel.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sansref.data.readers.guard import check_plausible_size, reading
from sansref.data.readers.names import contrast_of, subject_of
from sansref.data.readers.planes import check_images
from sansref.data.readers.record import FileInfo, ImageSlice, Plane, chosen_slices
from sansref.errors import FileError
from sansref.scan import Geometry, ScanMeta

FORMAT = "NIfTI"
GZIP_MAGIC = b"\x1f\x8b"
LONGEST_HEADER = 540
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

    Parameters
    ----------
    plane
        The plane of the slices. ``native`` cuts across the axis with the fewest samples (the last of equals),
        which is how 2-D multi-slice volumes and most 3-D ones were acquired; the others follow the affine.
    """

    format = FORMAT

    def __init__(self, plane: Plane = "native") -> None:
        if plane != "native" and plane not in ACROSS:
            raise ValueError(f"plane must be native, sagittal, coronal or axial, got {plane!r}")
        self.plane = plane

    def recognises(self, path: Path) -> bool:
        """Whether it has the magic of single-file NIfTI, or is gzip too damaged to tell."""
        try:
            return _header_class(_head(path)) is not None
        except (EOFError, zlib.error, gzip.BadGzipFile):  # describe() names what is wrong
            return True

    def describe(self, path: Path) -> FileInfo:
        """Read the header; of a gzipped file only its beginning is decompressed."""
        return self._volume(path).info

    def read(self, path: Path, slices: Sequence[int] | None = None) -> Iterator[ImageSlice]:
        """Yield one ``ImageSlice`` per slice.

        The volume is held in memory once, as it is stored; the file is open only while the iterator lives.
        """
        volume = self._volume(path)
        chosen = chosen_slices(slices, volume.info.slices)
        with _opened(path) as stream:
            stored = _stored(path, stream, volume)
            _check_magnitude(path, stored, volume)
            for index in chosen:
                yield ImageSlice(_image(stored, volume, index), _meta(volume, index))

    def _volume(self, path: Path) -> _Volume:
        with reading(path, FORMAT):
            head = _head(path)
            kind = _header_class(head)
            if kind is None:
                raise FileError(path, "is not single-file NIfTI", "Give a .nii or .nii.gz file")
            header = kind(head[: kind.sizeof_hdr])
            dtype = header.get_data_dtype()
            stored_shape = tuple(int(size) for size in header.get_data_shape())
            slope, intercept = header.get_slope_inter()
            offset = header.get_data_offset()
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        shape = _checked_shape(path, stored_shape, dtype)
        _check_size(path, offset, math.prod(shape) * dtype.itemsize)
        if not np.isfinite(affine).all():
            raise FileError(path, "has a header whose affine is not finite", "Repair its sform and qform")
        axis = _slice_axis(path, shape, affine, self.plane)
        rows, columns = (other for other in range(3) if other != axis)
        info = FileInfo(
            path=path,
            format=FORMAT,
            kind="magnitude",
            slices=shape[axis],
            height=shape[rows],
            width=shape[columns],
            coils=1,
            subject=subject_of(path),
            contrast=contrast_of(path),
            spacing=_spacing(affine, rows, columns),
            acquired_fraction=None,
            notes=(f"Slices are cut across array axis {axis}{_plane_name(affine, axis)}; their k-space is simulated.",),
        )
        rows_of_affine = tuple(cast("tuple[float, float, float, float]", tuple(row)) for row in affine.tolist())
        geometry = Geometry(rows_of_affine, axis)
        return _Volume(info, shape, dtype, offset, geometry, 1.0 if slope is None else slope, intercept or 0.0)


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def _opened(path: Path) -> BufferedReader | gzip.GzipFile:
    return gzip.open(path) if _is_compressed(path) else path.open("rb")


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


def _checked_shape(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, int, int]:
    if dtype.kind not in "biuf":
        raise FileError(path, f"holds {dtype} voxels, not magnitudes", "Convert it to a magnitude volume of numbers")
    if len(shape) < 3 or min(shape) < 1:
        raise FileError(path, f"has the shape {shape}, which is no 3-D volume", "Convert it to a 3-D volume")
    if math.prod(shape[3:]) != 1:
        problem = f"has the shape {shape}: several volumes in one file"
        raise FileError(path, problem, "Split it into one file per volume, for example with nibabel.four_to_three")
    return shape[0], shape[1], shape[2]


def _check_size(path: Path, offset: int, data_bytes: int) -> None:
    check_plausible_size(path, data_bytes)
    if _is_compressed(path):
        return  # the size before compression is only known once it has been read
    size = path.stat().st_size
    if size < offset + data_bytes:
        problem = f"is truncated: it has {size} bytes, its header promises {offset + data_bytes}"
        raise FileError(path, problem, "Copy or download it again")


def _slice_axis(path: Path, shape: tuple[int, int, int], affine: np.ndarray[Any, Any], plane: Plane) -> int:
    if plane == "native":
        return min(range(3), key=lambda axis: (shape[axis], -axis))
    for axis, code in enumerate(_axis_codes(affine)):
        if code and code in ACROSS[plane]:
            return axis
    raise FileError(path, f"has an affine that shows no {plane} plane", "Repair its sform or use the native plane")


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


def _stored(path: Path, stream: BufferedReader | gzip.GzipFile, volume: _Volume) -> np.ndarray[Any, Any]:
    """Voxels as stored, before scaling, in the volume's 3-D shape."""
    from nibabel.volumeutils import array_from_file

    with reading(path, FORMAT):
        # Not memory-mapped: a mapping outlives the file handle, and kills the process if the file is cut meanwhile.
        stored = array_from_file(volume.shape, volume.dtype, stream, volume.offset, mmap=False)
        if isinstance(stream, gzip.GzipFile):
            while stream.read(1 << 20):  # the checksum is only compared at the end of the stream
                pass
    return stored


def _check_magnitude(path: Path, stored: np.ndarray[Any, Any], volume: _Volume) -> None:
    with np.errstate(all="ignore"):
        ends = np.array([stored.min(), stored.max()], dtype=np.float64) * volume.slope + volume.intercept
    check_images(path, [ends])


def _image(stored: np.ndarray[Any, Any], volume: _Volume, index: int) -> Tensor:
    plane = np.moveaxis(stored, volume.geometry.slice_axis, 0)[index]
    scaled = plane.astype(np.float64) * volume.slope + volume.intercept
    return torch.from_numpy(scaled.astype(np.float32, order="C")).clamp_(min=0)


def _meta(volume: _Volume, index: int) -> ScanMeta:
    info = volume.info
    return ScanMeta(
        info.subject, str(info.path), slice=index, spacing=info.spacing, synthetic=True, geometry=volume.geometry
    )
