"""A file of scans as a list of its slices."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from pathlib import Path
from typing import overload

from torch import Tensor

from sansref.data.readers import FileInfo, ImageSlice, Plane, ReaderOptions, open_scan_file
from sansref.data.readers.folder import one_scan
from sansref.kspace.coils import rss
from sansref.kspace.fourier import ifft2c
from sansref.scan import Scan


class ScanFile:
    """Slices of a file, each read when it is asked for, as :func:`open_file` gives them.

    Attributes
    ----------
    info
        What the file holds, as told by its headers.
    """

    def __init__(self, path: Path, options: ReaderOptions) -> None:
        self._reader = open_scan_file(path, options)
        self.info: FileInfo = self._reader.describe(path)

    def __len__(self) -> int:
        return self.info.slices

    @overload
    def __getitem__(self, index: int) -> Scan | ImageSlice: ...

    @overload
    def __getitem__(self, index: slice) -> list[Scan | ImageSlice]: ...

    def __getitem__(self, index: int | slice) -> Scan | ImageSlice | list[Scan | ImageSlice]:
        """Read a slice: a :class:`~sansref.scan.Scan` of raw data, or an image with its place; of several, a list.

        Raises
        ------
        IndexError
            If the file has no such slice; counted from the end, the last is -1.
        FileError
            If the slice cannot be read.
        """
        if isinstance(index, slice):
            return list(self._reader.read(self.info.path, range(len(self))[index]))
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"slice {place} of {len(self)}")
        (found,) = self._reader.read(self.info.path, [place % len(self)])
        return found

    def __iter__(self) -> Iterator[Scan | ImageSlice]:
        """Read slice after slice, one in memory at a time."""
        return self._reader.read(self.info.path)

    def image(self, index: int) -> Tensor:
        """The magnitude of a slice, to look at: float32 (height, width), in the units of the file.

        Of raw data, the root of the sum of squares over the coils of the zero-filled image, and the part of it that
        is exported.
        """
        found = self[index]
        if isinstance(found, ImageSlice):
            return found.image
        return found.meta.cropped(rss(ifft2c(found.kspace)))

    def __repr__(self) -> str:
        info = self.info
        spacing = "" if info.spacing is None else ", {:.3g} x {:.3g} mm".format(*info.spacing)
        coils = f", {info.coils} coils" if info.coils > 1 else ""
        fraction = "" if info.acquired_fraction is None else f", {info.acquired_fraction:.0%} acquired"
        slices = "1 slice" if info.slices == 1 else f"{info.slices} slices"
        size = f"{slices} of {info.height} x {info.width}{spacing}"
        return f"<{info.path.name}: {info.format}, {info.kind}{coils}{fraction}, {size}>"


def open_file(
    path: str | Path,
    *,
    array: str | None = None,
    axes: str | None = None,
    maps: str | None = None,
    plane: Plane = "native",
) -> ScanFile:
    """Open a scan of any format that is read, chosen by its content.

    Parameters
    ----------
    path
        The file, or a folder that holds no other scan, such as that of a DICOM series.
    array
        Name of the array in files of several; None takes the only one that can be meant.
    axes
        What the axes of an array are, such as ``coil,row,column``; None goes by rules, where they are safe.
    maps
        Coil maps: a file, or a folder of files that are named as the scans are; ``none`` for none; None takes those
        in the scan's own file, if any.
    plane
        In which image volumes are cut into slices; ``native`` cuts across the axis with the fewest samples.

    Returns
    -------
    ScanFile
        With ``info``, a length, and slices by their index.

    Raises
    ------
    FileError
        If the file cannot be read, or a folder holds several scans.
    SettingError
        If ``axes`` cannot be understood.

    Examples
    --------
    >>> import numpy
    >>> numpy.save("coils.npy", numpy.ones((4, 16, 12), numpy.complex64))
    >>> file = open_file("coils.npy", axes="coil,row,column")
    >>> file
    <coils.npy: NumPy .npy, k-space, 4 coils, 100% acquired, 1 slice of 16 x 12>
    >>> file[0].kspace.shape, file[0].acceleration
    (torch.Size([4, 16, 12]), 1.0)
    >>> file.image(0).shape
    torch.Size([16, 12])
    """
    return ScanFile(one_scan(Path(path)), ReaderOptions(plane=plane, array=array, axes=axes, maps=maps))
