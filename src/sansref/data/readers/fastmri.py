"""fastMRI HDF5: one file per volume, Cartesian k-space of one or several coils.

Layout: Zbontar et al., "fastMRI: an open dataset and benchmarks for accelerated MRI", arXiv:1811.08839.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sansref.data.mrd.header import MrdHeader, identifier, parse_header
from sansref.data.readers.array_slices import EXPORT, Stored, check_kspace
from sansref.data.readers.arrays import Entry, inside_note, is_maps_name, map_axes, read_maps
from sansref.data.readers.damage import check_plausible_size, reading
from sansref.data.readers.hdf5_arrays import Hdf5Array
from sansref.data.readers.reader import (
    BY_NAME,
    BY_PATIENT,
    FileInfo,
    ReaderOptions,
    SliceChoice,
    acquired_samples,
    chosen_slices,
)
from sansref.data.readers.subjects import subject_of
from sansref.errors import FileError, printable
from sansref.hdf5 import bytes_behind, is_hdf5, is_one_text, open_hdf5, text_of
from sansref.kspace.fourier import fft1c, ifft1c, ifft2c
from sansref.kspace.grid import is_full
from sansref.scan import Scan, ScanMeta

Samples = npt.NDArray[np.bool_]

FORMAT = "fastMRI HDF5"
#: Image size of the fastMRI knee files, whose readout is twice as long, where a file says nothing of its own.
USUAL_SIZE = (320, 320)
HEADER_CURE = "Repair the header, or remove the dataset 'ismrmrd_header' to read the file without one"


@dataclass(frozen=True, slots=True)
class _Layout:
    info: FileInfo
    crop: tuple[int, int]
    allowed: Tensor  # bool, where there may be samples: (1, width) if only columns are left out, else (rows, width)


class FastMRIReader:
    """Reader of fastMRI HDF5 files.

    The readout (rows) is cut to the size of the reconstructed image, which removes its oversampling. Columns that are
    zero-padded, left out by the file's ``mask``, or exactly zero are not acquired. Where single samples are left out,
    as by two phase-encoding directions, rows are no readout and stay; what is exactly zero in all coils of a slice is
    not acquired. The scale of the k-space is that of the file. A fully sampled file of one coil also gives its image as
    ``reference``; of several coils it takes maps to make one. Axes that options name belong to other files: those with
    a dataset ``kspace`` and no ISMRMRD header.
    """

    format = FORMAT

    def __init__(self, options: ReaderOptions | None = None) -> None:
        self.options = options or ReaderOptions()

    def recognises(self, path: Path) -> bool:
        """Whether it is HDF5 with a dataset ``kspace``, or HDF5 too damaged to tell."""
        if not is_hdf5(path):
            return False
        try:
            with open_hdf5(path) as file:
                return "kspace" in file and (self.options.axes is None or "ismrmrd_header" in file)
        except Exception:  # whatever a damaged file raises: describe() names it
            return True

    def describe(self, path: Path) -> FileInfo:
        """Read headers, and the slice in the middle to find what was not acquired."""
        with _opened(path) as file:
            info = _layout(path, file, _kspace(path, file)).info
            maps = self._maps(path, file, info)
            return info if maps is None else replace(info, notes=(*info.notes, inside_note(maps[2])))

    def read(self, path: Path, slices: SliceChoice = None) -> Iterator[Scan]:
        """Yield one ``Scan`` per slice; the file is open only while the iterator lives."""
        with _opened(path) as file:
            dataset = _kspace(path, file)
            layout = _layout(path, file, dataset)
            maps = self._maps(path, file, layout.info)
            for index in chosen_slices(slices, layout.info.slices):
                scan = _scan(path, _samples(path, dataset, index), layout, index)
                yield scan if maps is None else replace(scan, maps=read_maps(*maps[:2], layout.info, index, maps[2]))

    def _maps(self, path: Path, file: Any, info: FileInfo) -> tuple[Stored, tuple[str, ...], str] | None:
        """Maps that stand beside the k-space: the array, what its axes are, its name."""
        import h5py

        if self.options.maps is not None or info.coils == 1:
            return None
        with reading(path, FORMAT):
            for name, item in file.items():
                if is_maps_name(name) and isinstance(item, h5py.Dataset) and item.dtype.kind == "c":
                    entry = Entry(name, item.shape, item.dtype)
                    if words := map_axes(item.shape, info):
                        check_plausible_size(path, item.nbytes, bytes_behind(item))
                        return Hdf5Array(path, item, entry), words, name
        return None


def _opened(path: Path) -> Any:
    with reading(path, FORMAT):
        return open_hdf5(path)


def _kspace(path: Path, file: Any) -> Any:
    import h5py

    with reading(path, FORMAT):
        dataset = file.get("kspace")
        if not isinstance(dataset, h5py.Dataset):
            names = printable(", ".join(file))[:200] or "nothing"
            problem = f"is HDF5 without a dataset 'kspace' (it holds {names})"
            raise FileError(path, problem, "Give a fastMRI file, or NIfTI")
        shape, dtype = dataset.shape, dataset.dtype
        if dtype.kind != "c":
            problem = f"holds 'kspace' as {dtype}, not as complex numbers"
            cure = "Store it as complex64, or name its axes, that of real and imaginary parts complex, such as"
            raise FileError(path, problem, f"{cure} --axes slice,row,column,complex")
        if shape is None or len(shape) not in (3, 4) or 0 in shape:
            problem = f"holds 'kspace' of shape {shape}, not (slices, rows, columns) or (slices, coils, rows, columns)"
            raise FileError(path, problem, "Store it in one of these shapes")
        check_plausible_size(path, math.prod(shape) * dtype.itemsize, bytes_behind(dataset))
        return dataset


def _layout(path: Path, file: Any, dataset: Any) -> _Layout:
    rows, width = dataset.shape[-2:]
    header = _header(path, file)
    notes: list[str] = [*header.notes] if header else []
    size = (header.recon[0], header.recon[1]) if header else _size_without_header(path, file, (rows, width), notes)
    crop = (min(size[0], rows), min(size[1], width))
    allowed, fraction = _sampling(path, file, dataset, header, notes)
    height = crop[0] if len(allowed) == 1 else rows
    if height < rows:
        notes.append(f"Readout oversampling {rows / height:.3g}x is removed ({rows} to {height} rows).")
    spacing = None
    if header:
        # The oversampling may have been cut off before the file was written: in the image, not in k-space.
        cut = rows == header.recon[0] != header.encoded[0]
        spacing = (header.recon_fov if cut else header.encoded_fov)[0] / rows, header.encoded_fov[1] / width
    patient = identifier(_attribute(path, file, "patient_id") or "")
    info = FileInfo(
        path=path,
        format=FORMAT,
        kind="k-space",
        slices=dataset.shape[0],
        height=height,
        width=width,
        coils=dataset.shape[1] if dataset.ndim == 4 else 1,
        subject=patient or subject_of(path),
        contrast=_attribute(path, file, "acquisition"),
        spacing=spacing,
        acquired_fraction=fraction,
        stored_rows=(rows, (rows - height) // 2) if height < rows else None,
        notes=tuple(notes),
        recognised_by=BY_PATIENT if patient else BY_NAME,
    )
    return _Layout(info, crop, torch.from_numpy(allowed))


def _header(path: Path, file: Any) -> MrdHeader | None:
    with reading(path, FORMAT):
        if "ismrmrd_header" not in file:
            return None
        dataset = file["ismrmrd_header"]
        if not is_one_text(dataset):
            raise FileError(path, "holds an 'ismrmrd_header' that is not one text", "Store the XML as one string")
        return parse_header(path, np.asarray(dataset[()]).item().decode("utf-8"), HEADER_CURE)


def _size_without_header(path: Path, file: Any, stored: tuple[int, int], notes: list[str]) -> tuple[int, int]:
    with reading(path, FORMAT):
        for name in ("reconstruction_esc", "reconstruction_rss", "target"):
            if name in file and len(file[name].shape) == 3 and 0 not in file[name].shape:
                notes.append(f"The file has no ISMRMRD header; the image size is that of '{name}'.")
                return (file[name].shape[1], file[name].shape[2])
    if stored[0] != 2 * USUAL_SIZE[0]:
        notes.append("The file has no ISMRMRD header; its readout is taken not to be oversampled.")
        return stored
    notes.append(f"The file has no ISMRMRD header; the image is taken to be {USUAL_SIZE[0]} x {USUAL_SIZE[1]}.")
    return USUAL_SIZE


def _sampling(path: Path, file: Any, dataset: Any, header: MrdHeader | None, notes: list[str]) -> tuple[Samples, float]:
    """What a layout calls allowed, and the fraction that the slice in the middle acquired."""
    inside = _inside(path, dataset.shape[-1], header, notes)
    allowed = inside & _stored_mask(path, file, dataset.shape[-2:])
    with reading(path, FORMAT):
        middle = np.asarray(dataset[dataset.shape[0] // 2]).reshape(-1, *dataset.shape[-2:])
        holds = acquired_samples(middle)
    possible = np.asarray(allowed.any(axis=0))
    if not holds.any():
        holds = np.ones_like(holds)
    columns = possible & holds.any(axis=0)
    if empty := int((possible & ~columns).sum()):
        notes.append(f"{empty} columns hold only zeros and are taken as not acquired.")
    if not columns.any():
        raise FileError(path, "has no acquired column", "Check its 'mask' and its ISMRMRD header")
    if (allowed & holds)[:, columns].all():
        return possible[None], float(columns.mean())
    notes.append("Single samples are left out: rows are not cut, and what is zero in all coils is not acquired.")
    return np.broadcast_to(allowed, holds.shape).copy(), float((allowed & holds).mean())


def _inside(path: Path, width: int, header: MrdHeader | None, notes: list[str]) -> Samples:
    """Columns that the encoding limits allow, bool (width,); the others are zero-padded."""
    inside = np.zeros(width, dtype=bool)
    if header is None:
        inside[:] = True
    elif header.encoded[1] != width:
        inside[:] = True
        notes.append(f"The header encodes {header.encoded[1]} columns, not {width}: its limits are not used.")
    else:
        steps = header.steps1
        shift = width // 2 - steps.center  # the central step lies at DC
        inside[max(shift + steps.minimum, 0) : max(shift + steps.maximum + 1, 0)] = True
        if not inside.any():
            limits = f"minimum {steps.minimum}, maximum {steps.maximum}, center {steps.center}"
            problem = f"has an ISMRMRD header whose limits ({limits}) leave no acquired column"
            raise FileError(path, problem, HEADER_CURE)
        if padded := width - int(inside.sum()):
            notes.append(f"{padded} zero-padded columns are not acquired.")
    return inside


def _stored_mask(path: Path, file: Any, plane: tuple[int, int]) -> Samples:
    """The file's own mask, bool (1, width) or (rows, width)."""
    with reading(path, FORMAT):
        if "mask" not in file:
            return np.ones((1, plane[1]), dtype=bool)
        stored = file["mask"]
        whole = tuple(stored.shape or ()) == plane
        usable = (whole or stored.size == plane[1]) and stored.dtype.kind in "biuf"
        mask = np.asarray(stored[()]).reshape(-1, plane[1]) if usable else np.full((1, 1), -1)
        if not np.isin(mask, (0, 1)).all():
            problem = f"holds a 'mask' of {stored.dtype} {stored.shape} that is not {plane[1]} zeros and ones"
            raise FileError(path, problem, "Store one value, 0 or 1, per k-space column, or per sample")
    kept: Samples = mask != 0
    return kept


def _attribute(path: Path, file: Any, name: str) -> str | None:
    """Text (or whole number) of an attribute, None where it is missing, empty or something else."""
    with reading(path, FORMAT):
        stored = file.attrs.get_id(name) if name in file.attrs else None
        if stored is None or not (is_one_text(stored) or (stored.dtype.kind in "iu" and stored.shape == ())):
            return None
        return printable(text_of(np.asarray(file.attrs[name]).item())) or None


def _samples(path: Path, dataset: Any, index: int) -> Tensor:
    """K-space of one slice as stored, complex64 (coils, rows, width)."""
    with reading(path, FORMAT):
        block = np.asarray(dataset[index], dtype=np.complex64)
    check_kspace(path, block, f"slice {index}")
    return torch.from_numpy(block.reshape(-1, *block.shape[-2:]))


def _scan(path: Path, stored: Tensor, layout: _Layout, index: int) -> Scan:
    info, holds = layout.info, torch.from_numpy(acquired_samples(stored.numpy()))
    # Slice by slice, since masks may differ.
    acquired = layout.allowed & (holds if len(layout.allowed) > 1 else holds.any(dim=0))
    kspace = stored * acquired
    if (rows := kspace.shape[-2]) > info.height:  # readout oversampling
        first = (rows - info.height) // 2
        kspace = fft1c(ifft1c(kspace, -2)[..., first : first + info.height, :], -2)
    if not kspace.any():
        raise FileError(path, f"holds only zeros in the k-space of slice {index}", EXPORT)
    meta = ScanMeta(info.subject, str(path), slice=index, spacing=info.spacing, crop=layout.crop)
    mask = acquired.expand(info.height, -1).clone()
    reference = ifft2c(kspace)[0] if info.coils == 1 and is_full(mask) else None
    return Scan(kspace, mask, meta, reference=reference)
