"""DICOM MR images: a series of single-slice files in one folder, or one multi-frame file.

A series is named by any of its files; folders list the first by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from sansref.data.mrd.header import identifier
from sansref.data.readers.checked_slice import check_images
from sansref.data.readers.damage import reading
from sansref.data.readers.dicom_headers import FORMAT, header_of, is_dicom
from sansref.data.readers.dicom_series import Series, check_decodable, check_streams, images, series_of
from sansref.data.readers.reader import BY_PATIENT, BY_STUDY, FileInfo, ImageSlice, Plane, chosen_slices
from sansref.errors import FileError, printable
from sansref.scan import ScanMeta

ABOUT = ("PatientID", "StudyInstanceUID", "SeriesDescription", "ProtocolName", "LossyImageCompression")


class DicomReader:
    """Reader of DICOM MR magnitude images.

    The subject is the PatientID, never a name. Slices lie along the normal of their plane, their values are rescaled.

    Parameters
    ----------
    plane
        The plane of the slices; only that in which the series was acquired can be had.
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

    def read(self, path: Path, slices: Sequence[int] | None = None) -> Iterator[ImageSlice]:
        """Yield one ``ImageSlice`` per slice; one is held in memory at a time.

        All slices are looked at first, so that what is no magnitude is refused before the first.
        """
        series = series_of(path)
        info = self._described(series)
        chosen = chosen_slices(slices, info.slices)
        check_streams(series)
        check_images(series.path, images(series, range(len(series.frames))))
        for index, image in zip(chosen, images(series, chosen), strict=True):
            meta = ScanMeta(
                info.subject, str(path), index, spacing=info.spacing, synthetic=True, geometry=series.geometry
            )
            yield ImageSlice(torch.from_numpy(image.astype(np.float32)).clamp_(min=0), meta)

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
            coils=1,
            # Names of files and folders on a disc (IM0001) are those of every other patient, too.
            subject=known or study or frames[0].stack.series,
            contrast=series_name or protocol or None,
            spacing=(rows, columns),
            acquired_fraction=None,
            notes=tuple(notes),
            recognised_by=BY_PATIENT if known else BY_STUDY,
        )
