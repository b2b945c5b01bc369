"""Writing reconstructions a slice at a time, in any order, so that no volume is held in memory.

Each writer is a context that gives a function to put slices with. What is written appears under its name only when the
context ends well; one that fails leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sansref.data.export import Array, check_nifti_name, real_image, save_nifti, save_png
from sansref.files import atomic_folder, atomic_path, remove_made, unrefused
from sansref.scan import Geometry

PutSlice = Callable[[int, Tensor | Array], None]
"""Writes one real slice (height, width) at an index."""


@contextmanager
def nifti_slices(
    path: str | Path,
    shape: tuple[int, int, int],
    geometry: Geometry | None = None,
    spacing: tuple[float, float] | None = None,
) -> Iterator[PutSlice]:
    """A float32 NIfTI volume, in the place of the patient that it was cut from; a fourth axis counts several volumes.

    Slices may lie along any axis of the file, so they are gathered in an array on disk, beside the file.

    Parameters
    ----------
    path
        Ends in .nii or .nii.gz.
    shape
        Slices, height and width.
    geometry, spacing
        As in :func:`~sansref.data.export.save_nifti`; the array's axes are put back in the source's order.

    Yields
    ------
    PutSlice
        Slices that are never put are zero.

    Raises
    ------
    FileError
        If the name has another ending, or the system refuses to write.
    ValueError
        If a slice is not real, finite and 2-D.
    """
    path = check_nifti_name(path)
    slice_axis = 2 if geometry is None else geometry.slice_axis
    stack = (geometry and geometry.stack) or shape[0]
    sizes = list(shape[1:])
    sizes.insert(slice_axis, stack)
    sizes += [shape[0] // stack] if stack < shape[0] else []
    # In the order in which NIfTI stores voxels.
    with atomic_path(path) as temporary, mapped_array(temporary.with_suffix(".array"), tuple(sizes), "F") as array:
        volumes = array.reshape(*array.shape[:3], -1, order="F")
        slices = np.moveaxis(volumes, (3, slice_axis), (0, 1))

        def put(index: int, image: Tensor | Array) -> None:
            slices[divmod(index, stack)] = real_image(image)

        yield put
        save_nifti(temporary, array, geometry, spacing)


@contextmanager
def mapped_array(
    path: Path, shape: tuple[int, ...], order: Literal["C", "F"] = "C"
) -> Iterator[npt.NDArray[np.float32]]:
    """A float32 array of zeros on disk, removed at the end; its last axis varies fastest, or with "F" its first."""
    try:
        with path.open("w+b") as file:
            # Without room reserved for it, writing to a mapped file on a full disk kills the process.
            os.posix_fallocate(file.fileno(), 0, np.dtype(np.float32).itemsize * prod(shape))
            yield np.memmap(file, np.float32, "r+", shape=shape, order=order)
    finally:
        path.unlink(missing_ok=True)


def put_into(slices: Any) -> PutSlice:
    """Put slices at their places in an array or HDF5 dataset (slices, height, width)."""

    def put(index: int, image: Tensor | Array) -> None:
        slices[index] = real_image(image)

    return put


@contextmanager
def fastmri_slices(path: str | Path, shape: tuple[int, int, int]) -> Iterator[PutSlice]:
    """HDF5 as fastMRI submissions are: float32 ``reconstruction`` (slices, height, width).

    Parameters
    ----------
    path
        The file.
    shape
        Slices, height and width.

    Yields
    ------
    PutSlice
        Slices that are never put are zero.

    Raises
    ------
    FileError
        If the system refuses to write.
    ValueError
        If a slice is not real, finite and 2-D.
    """
    import h5py

    with atomic_path(path) as temporary, unrefused(temporary) as target, h5py.File(target, "w") as file:
        put_there = put_into(file.create_dataset("reconstruction", shape, np.float32))

        def put(index: int, image: Tensor | Array) -> None:
            put_there(index, image)
            target.check()

        yield put


@contextmanager
def png_slices(folder: str | Path, geometry: Geometry | None = None) -> Iterator[PutSlice]:
    """A folder of 8-bit images as :func:`~sansref.data.export.save_png` writes them, named by :func:`png_name`.

    Parameters
    ----------
    folder
        Appears whole, in the place of one that there was before.
    geometry
        Placement by which images are turned upright; None leaves them as they are.

    Yields
    ------
    PutSlice
        Slices that are never put have no file.

    Raises
    ------
    FileError
        If the system refuses to write.
    ValueError
        If a slice is not real, finite and 2-D.
    """
    with atomic_folder(Path(folder)) as temporary:
        yield lambda index, image: save_png(temporary / png_name(index), image, geometry=geometry)
        remove_made(Path(folder), r"slice-\d+\.png")  # a folder cannot be renamed to one that holds something


def png_name(index: int) -> str:
    """File name of a slice's image."""
    return f"slice-{index:03d}.png"
