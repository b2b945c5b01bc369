"""Writing images as NIfTI, HDF5, PNG and MRD, a slice at a time, in any order, so that no volume is held in memory.

Each writer is a context that gives a function to put slices with, a ``PutSlice`` ``(index, image)``. Images are real,
finite and (height, width), else a ValueError; slices that are never put are zero (in PNG, there is no file). What is
written appears under its name only when the context ends well; one that fails leaves nothing behind, and a FileError
says what the system refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sansref import __version__
from sansref.data.placement import MOST_SHEAR, Placement, for_people, is_placing, placement_of
from sansref.data.provenance import WARNING, Provenance
from sansref.data.readers.reader import FileInfo
from sansref.errors import SettingError, printable
from sansref.files import atomic_folder, atomic_path, remove_made, room_on_disk, unrefused
from sansref.outputs.overlay import DISPLAY_PERCENTILE, Overlay
from sansref.scan import Geometry, ScanMeta

Array = npt.NDArray[np.floating]


def save_nifti(
    path: Path,
    array: npt.NDArray[np.float32],
    geometry: Geometry | None,
    spacing: tuple[float, float] | None,
    about: str = "",
) -> None:
    """Save a volume, its axes in the file's order, as float32 NIfTI in the place of the patient it was cut from.

    Parameters
    ----------
    path
        Ends in .nii or .nii.gz.
    array
        Three axes, in the order of ``geometry``'s affine, and perhaps a fourth that counts volumes.
    geometry
        Placement of the array. None: it is (height, width, slices), with unknown placement. One that is not known, or
        gives voxels no place, leaves its sizes alone.
    spacing
        Row and column spacing in millimetres, used without ``geometry`` only; None is 1 mm. The distance of the slices
        is then written as 1 mm.
    about
        How it came about, for the header, which has room for 79 characters.
    """
    import nibabel

    affine = None
    zooms: tuple[float, ...] = (*(spacing or (1.0, 1.0)), 1.0)
    if geometry is not None:
        affine = np.array(geometry.affine, dtype=np.float64)
        if not (geometry.known and is_placing(affine)):
            zooms, affine = _sizes(affine), None
    image: Any = nibabel.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]
    if affine is None:
        image.header.set_zooms((*zooms, *[1.0] * (array.ndim - 3)))
    else:
        assert geometry is not None
        image.set_sform(affine, code=geometry.space)
        # A qform has no shear, such as that of a tilted stack: it is not to be used there.
        image.set_qform(affine, code=geometry.space if _is_orthogonal(affine) else "unknown")
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = about.encode("ascii", "replace")[:79]
    nibabel.save(image, path)


def _is_orthogonal(affine: npt.NDArray[np.float64]) -> bool:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(directions.T @ directions, np.eye(3), rtol=0, atol=MOST_SHEAR))


def _sizes(affine: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Sizes of voxels, 1 where there are none."""
    with np.errstate(all="ignore"):
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return tuple(float(size) if 0 < size < np.inf else 1.0 for size in sizes)


def save_png(
    path: Path,
    image: Tensor | Array,
    window: tuple[float, float] | None = None,
    geometry: Geometry | None = None,
) -> None:
    """Save an image as 8-bit greyscale.

    Raises ``ValueError`` if the image is not real, finite and 2-D, or the window is empty.

    Parameters
    ----------
    path
        The file.
    image
        Real, (height, width). Pixels are not resampled to square ones.
    window
        Values shown black and white; None is 0 to the 99.8th percentile.
    geometry
        Placement by which the image is turned for display, in the radiological convention: superior
        (in an axial slice, anterior) up, the patient's right on the left; anterior on the left of a
        sagittal slice. None leaves rows and columns as they are.
    """
    from PIL import Image

    array = real_image(image)
    if window is not None and not window[0] < window[1]:
        raise ValueError(f"window must rise, got {window}")
    black, white = window or (0.0, float(np.percentile(array, DISPLAY_PERCENTILE)))
    array = for_people(array, geometry)
    # A blank image has an empty default window, and stays black.
    grey = np.clip((array - black) / (white - black), 0, 1) if white > black else np.zeros_like(array)
    Image.fromarray(np.rint(255 * grey).astype(np.uint8)).save(path, format="PNG")


def real_image(data: Tensor | Array) -> npt.NDArray[np.float32]:
    """As float32 in memory, (height, width); raises ``ValueError`` if it is not real, finite and 2-D."""
    array = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
    if array.ndim != 2 or np.iscomplexobj(array):
        raise ValueError(f"image must be real with 2 axes, got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("image has NaN or infinite values")
    return array.astype(np.float32)


PutSlice = Callable[[int, Tensor | Array], None]
"""Writes one real slice (height, width) at an index."""


@contextmanager
def nifti_slices(
    path: str | Path,
    shape: tuple[int, int, int],
    geometry: Geometry | None = None,
    spacing: tuple[float, float] | None = None,
    about: str = "",
) -> Iterator[PutSlice]:
    """A float32 NIfTI volume, in the place of the patient that it was cut from; a fourth axis counts several volumes.

    The shape is (slices, height, width); the array's axes are put back in the source's order, as :func:`save_nifti`
    does. Slices may lie along any axis of the file, so they are gathered in an array on disk, beside the file.
    """
    slice_axis = 2 if geometry is None else geometry.slice_axis
    stack = (geometry and geometry.stack) or shape[0]
    sizes = list(shape[1:])
    sizes.insert(slice_axis, stack)
    sizes += [shape[0] // stack] if stack < shape[0] else []
    # In the order in which NIfTI stores voxels.
    with atomic_path(path) as temporary, mapped_array(temporary.parent, tuple(sizes), "F") as array:
        volumes = array.reshape(*array.shape[:3], -1, order="F")
        slices = np.moveaxis(volumes, (3, slice_axis), (0, 1))

        def put(index: int, image: Tensor | Array) -> None:
            slices[divmod(index, stack)] = real_image(image)

        yield put
        save_nifti(temporary, array, geometry, spacing, about)


@contextmanager
def mapped_array(
    folder: Path, shape: tuple[int, ...], order: Literal["C", "F"] = "C"
) -> Iterator[npt.NDArray[np.float32]]:
    """A float32 array of zeros, in a nameless file in a folder; its last axis varies fastest, or with "F" its first."""
    with room_on_disk(np.dtype(np.float32).itemsize * prod(shape), folder) as file:
        yield np.memmap(file, np.float32, "r+", shape=shape, order=order)


def put_into(slices: Any) -> PutSlice:
    """Put slices at their places in an array or HDF5 dataset (slices, height, width)."""

    def put(index: int, image: Tensor | Array) -> None:
        slices[index] = real_image(image)

    return put


@contextmanager
def fastmri_slices(
    path: str | Path, shape: tuple[int, int, int], maps: Mapping[str, str] | None = None, about: str = ""
) -> Iterator[PutSlice]:
    """HDF5 as fastMRI submissions are: float32 ``reconstruction`` of the shape (slices, height, width).

    With ``maps``, a dataset of the same shape by each of their names, whose attribute ``meaning`` says what it is; then
    slices hold an image and these maps, (1 + maps, height, width). The file's attribute ``provenance`` says ``about``
    it how the images came about.
    """
    import h5py

    with atomic_path(path) as temporary, unrefused(temporary) as target, h5py.File(target, "w") as file:
        puts = [put_into(file.create_dataset(name, shape, np.float32)) for name in ("reconstruction", *(maps or {}))]
        file.attrs["provenance"] = printable(about)
        for name, meaning in (maps or {}).items():
            file[name].attrs["meaning"] = meaning

        def put(index: int, image: Tensor | Array) -> None:
            for put_layer, layer in zip(puts, image if maps else [image], strict=True):
                put_layer(index, layer)
            target.check()

        yield put


@contextmanager
def png_slices(
    folder: str | Path, geometry: Geometry | None = None, overlay: Overlay | None = None
) -> Iterator[PutSlice]:
    """A folder of 8-bit images as :func:`save_png` writes them, named by :func:`png_name`.

    It appears in the place of one that there was before. With an ``overlay``, slices are pairs (2, height, width) of an
    image and the map that is laid over it in colour.
    """
    from PIL import Image

    with atomic_folder(Path(folder)) as temporary:

        def put(index: int, image: Tensor | Array) -> None:
            path = temporary / png_name(index)
            if overlay is None:
                save_png(path, image, geometry=geometry)
                return
            below, values = (for_people(real_image(one), geometry) for one in image)
            Image.fromarray(overlay.over(below, values)).save(path, format="PNG")

        yield put
        remove_made(Path(folder), r"slice-\d+\.png")  # a folder cannot be renamed to one that holds something


def png_name(index: int) -> str:
    """File name of a slice's image."""
    return f"slice-{index:03d}.png"


GROUP, SERIES = "dataset", "image_{}"


@contextmanager
def mrd_slices(
    path: str | Path,
    shape: tuple[int, int, int],
    info: FileInfo,
    meta: ScanMeta,
    made: Provenance,
    maps: Sequence[Provenance] = (),
) -> Iterator[PutSlice]:
    """An MRD file with one series ``dataset/image_0`` of float32 magnitudes, one image a slice.

    The shape is (slices, height, width); ``meta`` is that of any scan of the file. Rows, which are the readout where
    there is one, become MRD's x axis, the fastest; the position is that of the center, pixel ``n // 2`` of each axis.
    With ``maps``, what each of them is, they are the series ``dataset/image_1`` and so on; then slices hold an image
    and these maps, (1 + maps, height, width). Slices are gathered in an array on disk, to be written in order. Raises
    ``FileError`` if the source's place cannot be told in MRD, and ``SettingError`` if the package ismrmrd is not
    installed.
    """
    try:
        import ismrmrd
    except ImportError:
        raise SettingError("writing MRD needs the package ismrmrd: pip install ismrmrd") from None
    place = placement_of(info.path, meta.geometry, meta.spacing)
    attributes = [
        ismrmrd.Meta(
            DataRole="Image",
            ImageProcessingHistory=["sansref", __version__, one.method],
            ImageComments=[WARNING, *one.sentences(info, meta)],
            SequenceDescription=" ".join(filter(None, (info.contrast, one.name))),
            PatientPlacement="known" if place.known else "unknown",
        )
        for one in (made, *maps)
    ]
    layers, height = len(attributes), shape[1]
    with (
        atomic_path(path) as temporary,
        mapped_array(temporary.parent, (shape[0], layers * height, shape[2])) as gathered,
    ):

        def put(index: int, image: Tensor | Array) -> None:
            for layer, own in enumerate(image if maps else [image]):
                gathered[index, layer * height : (layer + 1) * height] = real_image(own)

        yield put
        with unrefused(temporary) as target, closing(ismrmrd.Dataset(target, GROUP, mode="w")) as file:
            for layer, about in enumerate(attributes):
                for index, image in enumerate(gathered[:, layer * height : (layer + 1) * height]):
                    made_image = _image(image, index, place, about)
                    made_image.image_series_index = layer
                    file.append_image(SERIES.format(layer), made_image)
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
    head.image_type = ismrmrd.IMTYPE_REAL if bool((image < 0).any()) else ismrmrd.IMTYPE_MAGNITUDE
    head.field_of_view = (rows * height, columns * width, place.thickness or slices)
    head.position = tuple(place.pixel(index, height // 2, width // 2))
    head.read_dir, head.phase_dir = tuple(place.down / rows), tuple(place.across / columns)
    head.slice_dir = tuple(normal)
    head.repetition, head.slice = place.count(index)
    head.image_index = index
    head.attribute_string_len = len(made.attribute_string.encode())
    made.setHead(head)
    return made
