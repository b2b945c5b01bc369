"""Reconstruct files with a trained run and write them in the formats their users know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sansref.data.export import write_fastmri, write_nifti, write_png
from sansref.data.prepare import Preparation, Selection
from sansref.data.readers import FileInfo, ReaderOptions, find_files, open_scan_file
from sansref.data.readers.names import stem_of
from sansref.errors import SettingError
from sansref.experiments.scores import magnitude
from sansref.methods import Method, measured, stack
from sansref.scan import ScanMeta
from sansref.training.run import RunDirectory

Format = Literal["source", "nifti", "hdf5", "png"]


def reconstruct_files(
    run: RunDirectory, files: Sequence[Path], out: Path, formats: Sequence[Format] = ("source",)
) -> Iterator[tuple[FileInfo, list[Path]]]:
    """Reconstruct every slice of every file, at full size.

    Parameters
    ----------
    run
        A finished run.
    files
        Scan files, or folders of them. Fully sampled k-space, or magnitude images, are undersampled first as
        the run's training scans were; undersampled k-space is used as it is.
    out
        Folder for the images.
    formats
        source is NIfTI for image volumes and fastMRI's HDF5 for k-space files.

    Yields
    ------
    tuple
        Description of each file, and what was written for it.

    Raises
    ------
    FileError
        For a file that cannot be read; files before it have been written.
    SettingError
        If an output would replace a scan or another output.
    """
    method = run.load()
    recipe = whole_files(run.config().preparation)
    for file in _scan_files(files, out):
        info = open_scan_file(file, ReaderOptions(recipe.selection.plane)).describe(file)
        volume, meta = reconstruct_volume(method, recipe, info)
        yield info, list(_write(volume, meta, info, out, formats))


def _scan_files(files: Sequence[Path], out: Path) -> list[Path]:
    """Look into folders, and see to it that nothing is written over a scan or written twice."""
    found = [path for file in files for path in (find_files(file) if file.is_dir() else [file])]
    first: dict[str, Path] = {}
    for path in found:
        if path.resolve().parent == out.resolve():
            raise SettingError(f"--out is the folder of {path}: choose another, so that no scan is replaced")
        if (other := first.setdefault(stem_of(path), path)) != path:
            raise SettingError(f"{other} and {path} have one name: reconstruct them into different folders")
    return found


def whole_files(recipe: Preparation) -> Preparation:
    """The same recipe for all slices at full size."""
    return replace(recipe, selection=Selection(plane=recipe.selection.plane))


def reconstruct_volume(method: Method, recipe: Preparation, info: FileInfo) -> tuple[Tensor, ScanMeta]:
    """Reconstruct a file slice by slice.

    Returns
    -------
    tuple
        Magnitudes in the file's units, float32 (slices, height, width), and the first scan's origin. Slices
        without any signal stay zero.
    """
    volume: Tensor | None = None
    origin: ScanMeta | None = None
    with torch.inference_mode():
        for scan in recipe.scans(info.path):
            image = magnitude(method.reconstruct(stack([measured(scan)]))[0], scan) * scan.meta.scale
            if volume is None:
                volume, origin = torch.zeros(info.slices, *image.shape), scan.meta
            volume[scan.meta.slice] = image
    assert volume is not None and origin is not None, "readers refuse files without any signal"
    return volume, origin


def _write(volume: Tensor, meta: ScanMeta, info: FileInfo, out: Path, formats: Sequence[Format]) -> Iterator[Path]:
    stem = stem_of(info.path)
    own: Format = "hdf5" if info.kind == "k-space" else "nifti"
    for wanted in dict.fromkeys(own if wanted == "source" else wanted for wanted in formats):
        if wanted == "nifti":
            path = out / f"{stem}_recon.nii.gz"
            write_nifti(path, volume, meta.geometry, meta.spacing)
            yield path
        elif wanted == "hdf5":
            path = out / f"{stem}.h5"
            write_fastmri(path, volume)
            yield path
        else:
            for index, image in enumerate(volume):
                path = out / f"{stem}_png" / f"slice-{index:03d}.png"
                write_png(path, image, upright=meta.geometry)
                yield path
