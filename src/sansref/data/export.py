"""Writing whole reconstructions: NIfTI, fastMRI's HDF5 and PNG; see :mod:`sansref.data.slices` for slice by slice.

A file appears under its name only when it is complete: it is written under a temporary name in the
same folder and then renamed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sansref.errors import FileError
from sansref.files import atomic_path
from sansref.scan import Geometry

Array = npt.NDArray[np.floating]

DISPLAY_PERCENTILE = 99.8
"""Upper end of a PNG's grey values: a few bright vessels must not darken the rest."""

DISPLAY_DIRECTIONS = {"L": "L", "R": "L", "A": "P", "P": "P", "S": "I", "I": "I"}
"""Where rows and columns lead on a radiologist's screen: to the patient's left, to posterior, to inferior."""

VERTICAL_PREFERENCE = "LPI"
"""Of the two directions of a slice, the later one here runs down the screen."""


def write_nifti(
    path: str | Path,
    volume: Tensor | Array,
    geometry: Geometry | None = None,
    spacing: tuple[float, float] | None = None,
    offset: tuple[int, int, int] = (0, 0, 0),
    step: int = 1,
) -> None:
    """Write a volume as float32 NIfTI, in the place of the patient that it was cut from.

    Parameters
    ----------
    path
        Ends in .nii or .nii.gz.
    volume
        Real, (slices, height, width).
    geometry
        Placement of the source. The array's axes are put back in the source's order, and its affine
        is carried over. None: the array is written as (height, width, slices), with unknown placement.
    spacing
        Row and column spacing in millimetres, used without ``geometry`` only; None is 1 mm. The
        distance of the slices is then written as 1 mm.
    offset
        Slice, row and column in the source of the volume's first voxel (first slice, in-plane crop);
        used with ``geometry`` only, as is ``step``.
    step
        Slices of the source from one slice of the volume to the next.

    Raises
    ------
    FileError
        If the name has another ending, or the system refuses to write.
    ValueError
        If the volume is not real, finite and 3-D.
    """
    path = check_nifti_name(path)
    array = real_array(volume, "volume", ndim=3)
    slice_axis = 2 if geometry is None else geometry.slice_axis
    with atomic_path(path) as temporary:
        save_nifti(temporary, np.moveaxis(array, 0, slice_axis), geometry, spacing, offset, step)


def check_nifti_name(path: str | Path) -> Path:
    """The path, if it ends as NIfTI must; raises ``FileError`` otherwise."""
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise FileError(path, "is not a NIfTI name", "Let it end in .nii or .nii.gz")
    return path


def save_nifti(
    path: Path,
    array: npt.NDArray[np.float32],
    geometry: Geometry | None,
    spacing: tuple[float, float] | None,
    offset: tuple[int, int, int] = (0, 0, 0),
    step: int = 1,
) -> None:
    """Save an array, its axes in the file's order, under exactly this name; the rest is as in :func:`write_nifti`."""
    import nibabel

    affine = None if geometry is None else _placed_affine(geometry, offset, step)
    image: Any = nibabel.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]
    if affine is None:
        image.header.set_zooms((*(spacing or (1.0, 1.0)), 1.0))
    else:
        image.set_sform(affine, code="scanner")
        image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def write_fastmri(path: str | Path, volume: Tensor | Array) -> None:
    """Write a volume as fastMRI submissions are: HDF5 with float32 ``reconstruction`` (slices, height, width).

    Raises
    ------
    FileError
        If the system refuses to write.
    ValueError
        If the volume is not real, finite and 3-D.
    """
    import h5py

    array = real_array(volume, "volume", ndim=3)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("reconstruction", data=array)


def write_png(
    path: str | Path,
    image: Tensor | Array,
    window: tuple[float, float] | None = None,
    upright: Geometry | None = None,
) -> None:
    """Write an image as 8-bit greyscale.

    Parameters
    ----------
    path
        The file.
    image
        Real, (height, width). Pixels are not resampled to square ones.
    window
        Values shown black and white; None is 0 to the 99.8th percentile.
    upright
        Placement by which the image is turned for display, in the radiological convention: superior
        (in an axial slice, anterior) up, the patient's right on the left; anterior on the left of a
        sagittal slice. None leaves rows and columns as they are.

    Raises
    ------
    FileError
        If the system refuses to write.
    ValueError
        If the image is not real, finite and 2-D, or the window is empty.
    """
    with atomic_path(path) as temporary:
        save_png(temporary, image, window, upright)


def save_png(
    path: Path,
    image: Tensor | Array,
    window: tuple[float, float] | None = None,
    upright: Geometry | None = None,
) -> None:
    """The same as :func:`write_png`, under exactly this name."""
    from PIL import Image

    array = real_array(image, "image", ndim=2)
    if window is not None and not window[0] < window[1]:
        raise ValueError(f"window must rise, got {window}")
    low, high = window or (0.0, float(np.percentile(array, DISPLAY_PERCENTILE)))
    if upright is not None:
        array = _turned_upright(array, upright)
    # A blank image has an empty default window, and stays black.
    grey = np.clip((array - low) / (high - low), 0, 1) if high > low else np.zeros_like(array)
    Image.fromarray(np.rint(255 * grey).astype(np.uint8)).save(path, format="PNG")


def real_array(data: Tensor | Array, name: str, ndim: int) -> npt.NDArray[np.float32]:
    """As float32 in memory; raises ``ValueError`` if it is not real, finite and of ``ndim`` axes."""
    array = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
    if array.ndim != ndim or np.iscomplexobj(array):
        raise ValueError(f"{name} must be real with {ndim} axes, got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has NaN or infinite values")
    return array.astype(np.float32)


def _placed_affine(geometry: Geometry, offset: tuple[int, int, int], step: int) -> npt.NDArray[np.float64]:
    """The source's affine, moved to the first voxel kept and stretched by the slice step."""
    rows, columns = _in_plane_axes(geometry)
    first = np.zeros(3)
    first[[geometry.slice_axis, rows, columns]] = offset
    affine = np.array(geometry.affine, dtype=np.float64)
    affine[:3, 3] += affine[:3, :3] @ first
    affine[:3, geometry.slice_axis] *= step
    return affine


def _in_plane_axes(geometry: Geometry) -> tuple[int, int]:
    rows, columns = (axis for axis in range(3) if axis != geometry.slice_axis)
    return rows, columns


def _turned_upright(image: Array, geometry: Geometry) -> Array:
    """Flip and transpose (height, width) so that it stands as a radiologist expects it."""
    import nibabel

    codes = nibabel.aff2axcodes(np.array(geometry.affine))  # type: ignore[no-untyped-call]
    if None in codes:  # A degenerate affine names no directions.
        return image
    directions = []
    for image_axis, source_axis in enumerate(_in_plane_axes(geometry)):
        wanted = DISPLAY_DIRECTIONS[codes[source_axis]]
        if codes[source_axis] != wanted:
            image = np.flip(image, image_axis)
        directions.append(VERTICAL_PREFERENCE.index(wanted))
    return image if directions[0] > directions[1] else image.T
