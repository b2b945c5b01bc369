"""Writing a reconstruction as an MRD (ISMRMRD) image series, a slice at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sansref import __version__
from sansref.data.placement import Placement, placement_of
from sansref.data.provenance import WARNING, Provenance
from sansref.data.readers.reader import FileInfo
from sansref.errors import SettingError
from sansref.files import atomic_path, unrefused
from sansref.outputs.writers import PutSlice, mapped_array, put_into
from sansref.scan import ScanMeta

GROUP, SERIES = "dataset", "image_0"


@contextmanager
def mrd_slices(
    path: str | Path, shape: tuple[int, int, int], info: FileInfo, meta: ScanMeta, made: Provenance
) -> Iterator[PutSlice]:
    """An MRD file with one series ``dataset/image_0`` of float32 magnitudes, one image a slice.

    Rows, which are the readout where there is one, become MRD's x axis, the fastest; the position is that of the
    centre, pixel ``n // 2`` of each axis. Slices are gathered in an array on disk, to be written in order.

    Parameters
    ----------
    path
        The file.
    shape
        Slices, height and width.
    info, meta
        The file that was reconstructed, and any of its scans.
    made
        By what.

    Yields
    ------
    PutSlice
        Slices that are never put are zero.

    Raises
    ------
    FileError
        If the source's place cannot be told in MRD, or the system refuses to write.
    SettingError
        If the package ismrmrd is not installed.
    ValueError
        If a slice is not real, finite and 2-D.
    """
    try:
        import ismrmrd
    except ImportError:
        raise SettingError("writing MRD needs the package ismrmrd: pip install ismrmrd") from None
    place = placement_of(info.path, meta.geometry, meta.spacing)
    attributes = ismrmrd.Meta(
        DataRole="Image",
        ImageProcessingHistory=["sansref", __version__, made.method],
        ImageComments=[WARNING, *made.sentences(info, meta)],
        SequenceDescription=" ".join(filter(None, (info.contrast, made.name))),
        PatientPlacement="known" if place.known else "unknown",
    )
    with atomic_path(path) as temporary, mapped_array(temporary.with_suffix(".array"), shape) as slices:
        yield put_into(slices)
        with unrefused(temporary) as target, closing(ismrmrd.Dataset(target, GROUP, mode="w")) as file:
            for index, image in enumerate(slices):
                file.append_image(SERIES, _image(image, index, place, attributes))
                target.check()


def _image(image: npt.NDArray[np.float32], index: int, place: Placement, attributes: Any) -> Any:
    import ismrmrd

    height, width = image.shape
    rows, columns, slices = place.spacing
    normal = np.cross(place.down, place.across) / (rows * columns)
    # Slices follow each other along the direction that is given for them.
    normal *= np.sign(normal @ place.through)
    made = ismrmrd.Image(meta=attributes, data=np.ascontiguousarray(image.T)[None, None])
    head = made.getHead()
    head.version = 1
    head.image_type = ismrmrd.IMTYPE_MAGNITUDE
    head.field_of_view = (rows * height, columns * width, slices)
    head.position = tuple(place.pixel(index, height // 2, width // 2))
    head.read_dir, head.phase_dir = tuple(place.down / rows), tuple(place.across / columns)
    head.slice_dir = tuple(normal)
    head.repetition, head.slice = place.count(index)
    head.image_index = index
    head.attribute_string_len = len(made.attribute_string.encode())
    made.setHead(head)
    return made
