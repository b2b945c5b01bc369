"""The slices of a DICOM volume, gathered from the files of one folder, in the order in which they lie."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from sansref.data.readers.dicom_files import is_dicom, is_directory
from sansref.data.readers.dicom_headers import MULTI_FRAME, Frame, Stack, frames_of, settled
from sansref.errors import FileError, SansrefError
from sansref.scan import Geometry

#: Slices may lie this far from their place in an even row: part of their distance, and millimetres.
UNEVEN = (0.02, 0.1)
PLANES = ("sagittal", "coronal", "axial")
FOLDERS_KEPT = 8

Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Series:
    """A volume.

    Attributes
    ----------
    path
        The file by which it is named.
    frames
        Its slices, along the normal of their plane.
    geometry
        Of an array (rows, columns, slices).
    plane
        Of the slices: the one that they are nearest to.
    """

    path: Path
    frames: tuple[Frame, ...]
    geometry: Geometry
    plane: str

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold it, each once."""
        return tuple(dict.fromkeys(frame.file for frame in self.frames))


def series_of(path: Path) -> Series:
    """Gather the volume that a file belongs to: a multi-frame file alone, a single-slice one with those beside it.

    Slices belong together that are of one series, orientation, matrix, image type, echo time, time point and b-value,
    but for rounding.

    Raises
    ------
    FileError
        If the file is no MR image, or its slices make no volume.
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
            if frame is None and is_directory(path):
                continue
            if frame is not None:
                volume = (path.parent, frame.stack)
                if volume in seen:
                    continue
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
        raise FileError(path, problem, "Ask for the right to read it, or wait until it is filled") from error
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
        raise FileError(path, "has an ImageOrientationPatient that is no pair of directions", "Export it again")
    frames = sorted(frames, key=lambda frame: (float(normal @ frame.position), frame.file.name, frame.number))
    positions = np.array([frame.position for frame in frames])
    step = _step(path, frames, positions, normal)
    rows, columns = frames[0].stack.spacing
    axes = np.stack([along_column * rows, along_row * columns, step, positions[0]], axis=1)
    affine = np.vstack([np.diag([-1.0, -1.0, 1.0]) @ axes, [0, 0, 0, 1]])
    geometry = Geometry(tuple(tuple(row) for row in affine.tolist()), slice_axis=2)
    return Series(path, tuple(frames), geometry, PLANES[int(np.abs(normal).argmax())])


def _step(path: Path, frames: list[Frame], positions: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """From a slice to the next; refuses volumes with missing, repeated or uneven slices."""
    if len(frames) == 1:
        return normal * abs(frames[0].gap or frames[0].thickness or 1.0)
    depths = positions @ normal
    gaps = np.diff(depths)
    usual = float(np.median(gaps))
    if gaps.min() < 0.01 * max(usual, 0.01):
        twins = frames[int(gaps.argmin())].file.name, frames[int(gaps.argmin()) + 1].file.name
        problem = f"belongs to a series with several images at one place ({twins[0]}, {twins[1]})"
        raise FileError(path, problem, "Put repetitions and copies into folders of their own")
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    even = positions[0] + np.arange(len(frames))[:, None] * step
    if np.abs(positions - even).max() > max(UNEVEN[0] * usual, UNEVEN[1]):
        problem = (
            f"belongs to a series of {len(frames)} slices at uneven distances ({gaps.min():.4g} to {gaps.max():.4g} mm)"
        )
        raise FileError(path, problem, "Look for slices that are missing from its folder")
    return np.asarray(step)
