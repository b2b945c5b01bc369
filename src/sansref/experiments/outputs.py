"""What a reconstruction writes for its files, and the record by which the same command goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from sansref.data.dicom_export import dicom_name, dicom_slices
from sansref.data.mrd_export import mrd_slices
from sansref.data.provenance import Provenance, files_behind
from sansref.data.readers import FileInfo
from sansref.data.readers.dicom_files import FORMAT as DICOM
from sansref.data.readers.dicom_files import is_dicom
from sansref.data.readers.formats import maps_file
from sansref.data.readers.names import stem_of
from sansref.data.readers.record import NO_MAPS
from sansref.data.slices import PutSlice, fastmri_slices, nifti_slices, png_name, png_slices
from sansref.errors import FileError, SettingError
from sansref.files import remove_leftovers, remove_made, write_text
from sansref.kspace.masks import MASK_LAWS
from sansref.scan import ScanMeta
from sansref.training.run import RunDirectory
from sansref.yaml_json import read_json

Format = Literal["source", "nifti", "hdf5", "png", "dicom", "mrd"]

VERSION = 1
"""Of the record's layout."""

RECORD = "reconstruction.json"
"""Name of the record in the folder of images."""

ENDINGS: dict[Format, str] = {
    **{"nifti": "_recon.nii.gz", "hdf5": ".h5", "png": "_png"},
    **{"dicom": "_dicom", "mrd": ".mrd"},
}
"""What follows the name of an input in the name of its output; those of PNG and DICOM are folders."""

SLICE_NAMES = {"png": png_name, "dicom": dicom_name}
"""Of the files in those folders."""


@dataclass(frozen=True)
class Outputs:
    """What is written for one file.

    Attributes
    ----------
    info
        The file.
    out
        Folder for the images.
    formats
        As the user names them.
    made
        By what the images were made.
    """

    info: FileInfo
    out: Path
    formats: Sequence[Format]
    made: Provenance

    def open(self, opened: ExitStack, image: Tensor, meta: ScanMeta) -> list[PutSlice]:
        """Writers of slices like the first one, a real ``image``; outputs are complete when ``opened`` is closed."""
        shape = (self.info.slices, image.shape[0], image.shape[1])
        writers = {
            "nifti": lambda path: nifti_slices(path, shape, meta.geometry, meta.spacing),
            "hdf5": lambda path: fastmri_slices(path, shape),
            "png": lambda path: png_slices(path, meta.geometry),
            "dicom": lambda path: dicom_slices(path, shape, self.info, meta, self.made),
            "mrd": lambda path: mrd_slices(path, shape, self.info, meta, self.made),
        }
        return [opened.enter_context(writers[name](path)) for name, path in self._targets().items()]

    @property
    def complete(self) -> bool:
        """Whether all is there; outputs appear whole or not at all."""
        return all(path.exists() for path in self._targets().values())

    def paths(self) -> tuple[Path, ...]:
        """All files, in the order of the formats."""
        found: list[Path] = []
        for name, path in self._targets().items():
            inside = SLICE_NAMES.get(name)
            found += [path / inside(index) for index in range(self.info.slices)] if inside else [path]
        return tuple(found)

    def _targets(self) -> dict[Format, Path]:
        own: Format = "dicom" if self.info.format == DICOM else "hdf5" if self.info.kind == "k-space" else "nifti"
        names = dict.fromkeys(own if name == "source" else name for name in self.formats)
        return {name: self.out / f"{output_name(self.info.path)}{ENDINGS[name]}" for name in names}


def output_name(path: Path) -> str:
    """How the names of a file's outputs begin: as its own, and for DICOM as its folder's, since any disc has an IM0001.

    Nothing that stands in a file has a say in where outputs go.
    """
    return f"{path.parent.resolve().name}_{stem_of(path)}" if is_dicom(path) else stem_of(path)


def made_by(run: RunDirectory) -> Provenance:
    """What the images of a finished run say of how they came about.

    Raises
    ------
    FileError
        If its configuration cannot be read.
    """
    config = run.config()
    sampling = config.sampling
    known = sampling.mask in MASK_LAWS
    law = f"{sampling.mask}, {sampling.acceleration:g}x" if known else f"mask file {Path(sampling.mask).name}"
    return Provenance(config.method, _digest(run.weights), _digest(run.config_file), law)


def begin(
    out: Path,
    weights: Path,
    formats: Iterable[Format],
    files: Iterable[Path],
    reading: tuple[str | None, str | None] = (None, None),
    maps: str | None = None,
) -> None:
    """Make a folder ready for the images of files, or check that it holds the same reconstruction.

    What killed commands have left half written is removed, and so are the images of files that have changed since or
    are read another way now.

    Parameters
    ----------
    out
        The folder.
    weights
        Of the trained run.
    formats
        What is written.
    files
        No two of one name.
    reading
        Their array and axes, where they are others than those of the run's training data.
    maps
        Where their coil maps lie, see :class:`sansref.data.selection.Selection`.

    Raises
    ------
    SettingError
        If the folder holds images of other weights, in other formats, of other files, or of unknown origin.
    FileError
        If the record cannot be read or the folder not be written.
    """
    wanted = {"weights": _digest(weights), "formats": sorted(set(formats))}
    found = _read(out / RECORD)
    for name, value in wanted.items():
        if found and found[name] != value:
            raise SettingError(f"{out} holds a reconstruction with other {name}: choose another --out")
    if out.exists():
        remove_leftovers(out)
    known: dict[str, list[str | int]] = found["inputs"] if found else {}
    changed: list[Path] = []
    for path in filter(Path.exists, files):
        name, identity = output_name(path), [*_identity(path), *(word for word in reading if word), *_maps(path, maps)]
        there = [target for ending in ENDINGS.values() if (target := out / f"{name}{ending}").exists()]
        if there and name not in known:
            raise SettingError(f"{there[0]} is no work of this command: choose another --out")
        if name in known and known[name][0] != identity[0]:
            raise SettingError(f"{out} holds the images of {known[name][0]}, not of {path}: choose another --out")
        if name in known and known[name] != identity:
            changed += there
        known[name] = identity
    # Before the record says that they belong to what the files hold now.
    for target in changed:
        _remove(target)
    write_text(out / RECORD, json.dumps({"version": VERSION, **wanted, "inputs": known}, indent=1))


def _identity(path: Path) -> list[str | int]:
    """Where a file lies; the size in bytes of all that it is read from, and when that was last changed."""
    try:
        files = files_behind(path)
    except FileError:  # whoever reads it says what is wrong with it
        files = (path,)
    states = [file.stat() for file in files]
    changed = max(state.st_mtime_ns for state in states)
    return [str(path.resolve()), sum(state.st_size for state in states), changed]


def _maps(path: Path, maps: str | None) -> list[str | int]:
    """The same of a scan's coil maps."""
    if maps in (None, NO_MAPS):
        return [f"maps {maps}"] if maps else []
    try:
        return _identity(maps_file(path, Path(str(maps))))
    except FileError:  # as above
        return [str(maps)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> Any:
    """The record, or None where there is none."""
    if not path.exists():
        return None
    cure = "Choose another --out"
    try:
        found = read_json(path, cure)
        inputs = found["inputs"].values() if found.keys() >= {"weights", "formats"} else [None]
        if found["version"] == VERSION and all(isinstance(entry, list) and entry for entry in inputs):
            return found
    except (FileError, KeyError, TypeError, AttributeError):
        pass
    raise FileError(path, "is no record of a reconstruction that this version can go on with", cure)


def _remove(target: Path) -> None:
    if target.is_dir():
        remove_made(target, r"slice-\d+\.(png|dcm)")
    else:
        target.unlink()
