"""Sampling masks from files: NumPy, MATLAB (v5 and v7.3) and PNG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sansref.errors import FileError
from sansref.hdf5 import is_hdf5, open_hdf5
from sansref.kspace.grid import full_center
from sansref.kspace.masks.mask import SamplingMask, estimated_density

Values = NDArray[Any]
DCPlace = Literal["auto", "center", "corner"]

_NUMBERS = ("logical", "double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))

EVIDENCE = math.log(1000)
"""DC is found where chance would fully sample the low frequencies less than once in a thousand masks."""


def read_mask(path: str | Path, *, height: int | None = None, dc: DCPlace = "auto") -> SamplingMask:
    """Read a sampling mask.

    Parameters
    ----------
    path
        ``.npy``, ``.mat`` (the array whose name has "mask" in it, or else the only 2-D numeric one) or ``.png``.
        Values are 0 where not acquired, and 1 or 255 (in a PNG any one grey level) where acquired. Axes of length
        1 are dropped.
    height
        Rows of the grid, needed where the file holds a single line of columns.
    dc
        Where the file has DC: at index ``n // 2`` (``"center"``), at index 0 (``"corner"``, as the masks of
        ISTA-Net), or where the low frequencies are fully sampled (``"auto"``).

    Returns
    -------
    SamplingMask
        DC-centered. Its density is estimated by smoothing the mask itself, over rings around DC or over bands of
        columns (:func:`sansref.kspace.masks.mask.estimated_density`).

    Raises
    ------
    FileError
        If the file cannot be read, does not hold one mask, or does not show where DC is.
    """
    if dc not in ("auto", "center", "corner"):
        raise ValueError(f"dc must be 'auto', 'center' or 'corner', got {dc!r}")
    path = Path(path)
    array = _of_height(path, _binary(path, _load(path)), height)
    columns = bool((array == array[:1]).all())
    if _dc_in_corner(path, array, columns) if dc == "auto" else dc == "corner":
        array = torch.fft.fftshift(array)
    return SamplingMask(array, estimated_density(array, columns))


def _load(path: Path) -> Values:
    readers: dict[str, Callable[[Path], Values]] = {".npy": _read_npy, ".mat": _read_mat, ".png": _read_png}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise FileError(path, "is not a mask format that can be read", f"Save the mask as {', '.join(readers)}")
    if not path.is_file():
        raise FileError(path, "does not exist", "Check the path of the mask file")
    try:
        return reader(path)
    except FileError:
        raise
    except Exception as error:  # the format libraries raise errors of almost any type on damaged files
        problem = f"cannot be read as {path.suffix.lower()} ({type(error).__name__})"
        raise FileError(path, problem, "Save the mask again") from error


def _read_npy(path: Path) -> Values:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_mat(path: Path) -> Values:
    import h5py
    import scipy.io

    # Only what may be the mask is read: it can lie beside volumes.
    values: Values
    if not is_hdf5(path):
        names = [name for name, shape, kind in scipy.io.whosmat(path) if len(shape) == 2 and kind in _NUMBERS]
        arrays = scipy.io.loadmat(path, variable_names=names)
        values = arrays[_only_mask(path, [name for name in names if arrays[name].dtype.kind in "buif"])]
        return values
    with open_hdf5(path) as file:
        stored = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
        # Text is stored as numbers, and arrays by columns, so that HDF5 shows them transposed.
        numbers = {name: item for name, item in stored.items() if item.attrs.get("MATLAB_class") != b"char"}
        names = [name for name, item in numbers.items() if item.ndim == 2 and item.dtype.kind in "buif"]
        values = stored[_only_mask(path, names)][()].T
    return values


def _only_mask(path: Path, names: Sequence[str]) -> str:
    """Which of the 2-D arrays of numbers is the mask."""
    candidates = [name for name in names if "mask" in name.lower()] or list(names)
    if not candidates:
        raise FileError(path, "holds no 2-D numeric array", "Save the mask as a matrix named mask")
    if len(candidates) > 1:
        problem = f"holds several arrays ({', '.join(candidates)})"
        raise FileError(path, problem, "Keep only the mask in the file, or give the name mask to it alone")
    return candidates[0]


def _read_png(path: Path) -> Values:
    from PIL import Image

    with Image.open(path) as image:
        grey = np.asarray(image.convert("L"))
    levels = np.unique(grey)
    if len(levels) > 2 or (len(levels) == 2 and levels[0] != 0):
        problem = f"has {len(levels)} grey levels from {levels[0]} to {levels[-1]}"
        cure = "Save the mask in black (not acquired) and one other level, without smoothing"
        raise FileError(path, problem, cure)
    return grey > 0


def _binary(path: Path, values: Values) -> Values:
    if values.dtype.kind not in "buif":
        raise FileError(path, f"holds values of type {values.dtype}", "Save the mask as 0 and 1")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise FileError(path, "holds NaN or infinite values", "Save the mask as 0 and 1")
    acquired: Values = values != 0
    if not acquired.any():
        raise FileError(path, "acquires nothing: every value is 0", "Give a mask that is 1 where acquired")
    levels = np.unique(values[acquired])
    if len(levels) > 1 or levels[0] not in (1, 255):
        raise FileError(path, f"holds values other than 0 and 1, such as {levels[0]:g}", "Save the mask as 0 and 1")
    return acquired


def _of_height(path: Path, acquired: Values, height: int | None) -> Tensor:
    array = torch.from_numpy(np.ascontiguousarray(acquired.squeeze()))
    if array.ndim == 1:
        if height is None:
            problem = f"holds a single line of {len(array)} columns"
            raise FileError(path, problem, "Give the height of the grid or save a 2-D mask")
        return array.expand(height, -1).clone()
    if array.ndim != 2:
        raise FileError(path, f"has the shape {acquired.shape}", "Save one mask of shape (height, width)")
    return array


def _dc_in_corner(path: Path, array: Tensor, columns: bool) -> bool:
    center, corner = _evidence(array, columns), _evidence(torch.fft.fftshift(array), columns)
    if array.all() or (center >= EVIDENCE and center > 2 * corner):
        return False
    if corner >= EVIDENCE and corner > 2 * center:
        return True
    problem = "does not show whether DC is in the center or in the corner: neither alone is fully sampled"
    raise FileError(path, problem, "Say which with --mask-dc center or --mask-dc corner")


def _evidence(array: Tensor, columns: bool) -> float:
    """Minus the logarithm of the chance that uniform sampling would fill as large a box around DC."""
    rows, width = full_center(array)
    draws = width if columns else rows * width
    return -draws * math.log(float(array.double().mean()))
