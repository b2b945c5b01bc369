"""What every reader gives: a description of a file, and its slices one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from sansref.data.readers.axes import parse_axes
from sansref.data.readers.names import check_rule
from sansref.scan import Scan, ScanMeta

Kind = Literal["k-space", "magnitude"]
Plane = Literal["native", "sagittal", "coronal", "axial"]
NO_MAPS = "none"
"""In the place of a file of coil maps: none are taken, not even those that stand in the file of a scan."""

BY_NAME, BY_PATIENT, BY_STUDY = "name of the file", "patient id in the file", "DICOM study without patient id"
"""How a file by itself says whose it is."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a file holds, as told by its headers.

    Attributes
    ----------
    path
        The file, as given.
    format
        Name of the format, for people.
    kind
        Whether the file holds measured k-space or magnitude images.
    slices, height, width
        Number of slices, and the size of a slice as it is read (for k-space after readout oversampling
        has been removed).
    coils
        Number of receive channels, 1 for magnitude images.
    subject
        The person (or object) scanned.
    contrast
        The sequence or weighting as the file names it, None where it does not.
    spacing
        Row and column spacing in millimetres, None where the file does not say.
    acquired_fraction
        For k-space, the part of the encoded grid that was measured; None for magnitude images.
    stored_rows
        How many rows the file has, and the first that is kept, where the reader cuts off oversampling of the readout.
    notes
        What a person should know about how the file is read, as sentences.
    recognised_by
        How the subject was recognised, in words.
    """

    path: Path
    format: str
    kind: Kind
    slices: int
    height: int
    width: int
    coils: int
    subject: str
    contrast: str | None
    spacing: tuple[float, float] | None
    acquired_fraction: float | None
    stored_rows: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    recognised_by: str = BY_NAME


@dataclass(frozen=True, slots=True)
class ImageSlice:
    """One slice of a magnitude volume, from which k-space can be simulated.

    Attributes
    ----------
    image
        Magnitude, float32 (height, width), in the units of the file, not negative.
    meta
        Where the slice comes from, marked as synthetic.
    """

    image: Tensor
    meta: ScanMeta


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """How files are read, for the formats that leave a choice.

    Attributes
    ----------
    plane
        The plane in which volumes are cut into slices; ``native`` cuts across the axis with the fewest samples.
    array
        Name of the array in files of several (MATLAB, ``.npz``, HDF5); None takes the only one that can be meant.
    axes
        What the axes of an array are, such as ``coil,row,column``, see :func:`sansref.data.readers.axes.parse_axes`;
        None goes by rules, where they are safe.
    subject_from
        Who the files of a folder are of: ``folder``, ``file`` or a regular expression whose first group names the
        person in a path; None goes by the rules of :mod:`sansref.data.readers.subjects`.
    maps
        File, or folder of files, of coil maps; ``none`` for none; None takes those that stand in the file of a scan.

    Raises
    ------
    SettingError
        If ``axes`` or ``subject_from`` cannot be understood.
    """

    plane: Plane = "native"
    array: str | None = None
    axes: str | None = None
    subject_from: str | None = None
    maps: str | None = None

    def __post_init__(self) -> None:
        check_rule(self.subject_from)
        if self.axes is not None:
            parse_axes(self.axes)


class Reader(Protocol):
    """Reads one file format."""

    @property
    def format(self) -> str:
        """Name of the format, for people."""
        ...

    def recognises(self, path: Path) -> bool:
        """Whether the content of a file, never its name alone, is of this format.

        A damaged file of the format's container counts, so that :meth:`describe` can say what is wrong with it.
        """
        ...

    def describe(self, path: Path) -> FileInfo:
        """Read the headers only; raises ``FileError`` where the file cannot be used."""
        ...

    def read(self, path: Path, slices: Sequence[int] | None = None) -> Iterator[Scan | ImageSlice]:
        """Yield the chosen slices (all of them by default), one at a time, in the order given.

        Raises
        ------
        FileError
            Where the file, or a slice when its turn comes, cannot be used.
        ValueError
            If a slice index is not in the file.
        """
        ...


def chosen_slices(slices: Sequence[int] | None, count: int) -> Sequence[int]:
    """Check slice indices against the number of slices of a file; None chooses all.

    Raises
    ------
    ValueError
        If an index is negative or too large.
    """
    if slices is None:
        return range(count)
    outside = [index for index in slices if not 0 <= index < count]
    if outside:
        raise ValueError(f"slices must lie in 0..{count - 1}, got {outside}")
    return slices
