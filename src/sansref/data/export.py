"""How a NIfTI file and a PNG are saved; :mod:`sansref.data.slices` writes them slice by slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sansref.data.placement import for_people, is_placing
from sansref.errors import FileError
from sansref.scan import Geometry

Array = npt.NDArray[np.floating]

DISPLAY_PERCENTILE = 99.8
"""Upper end of what is shown: a few bright vessels must not darken the rest."""


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
        Row and column spacing in millimetres, used without ``geometry`` only; None is 1 mm. The
        distance of the slices is then written as 1 mm.
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
        image.set_sform(affine, code="scanner")
        image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


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

    Raises
    ------
    ValueError
        If the image is not real, finite and 2-D, or the window is empty.
    """
    from PIL import Image

    array = real_image(image)
    if window is not None and not window[0] < window[1]:
        raise ValueError(f"window must rise, got {window}")
    low, high = window or (0.0, float(np.percentile(array, DISPLAY_PERCENTILE)))
    array = for_people(array, geometry)
    # A blank image has an empty default window, and stays black.
    grey = np.clip((array - low) / (high - low), 0, 1) if high > low else np.zeros_like(array)
    Image.fromarray(np.rint(255 * grey).astype(np.uint8)).save(path, format="PNG")


def real_image(data: Tensor | Array) -> npt.NDArray[np.float32]:
    """As float32 in memory, (height, width); raises ``ValueError`` if it is not real, finite and 2-D."""
    array = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
    if array.ndim != 2 or np.iscomplexobj(array):
        raise ValueError(f"image must be real with 2 axes, got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("image has NaN or infinite values")
    return array.astype(np.float32)
