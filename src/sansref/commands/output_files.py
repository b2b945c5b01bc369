"""What a reconstruction writes for its files, and the record by which the same command goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from sansref.data.provenance import DEVIATIONS, Provenance, file_digest, files_behind
from sansref.data.readers import FileInfo
from sansref.data.readers.dicom_headers import FORMAT as DICOM
from sansref.data.readers.dicom_headers import is_dicom
from sansref.data.readers.formats import maps_file
from sansref.data.readers.reader import NO_MAPS
from sansref.data.readers.subjects import stem_of
from sansref.data.scan_store import PreparedScans
from sansref.errors import FileError, SettingError
from sansref.files import LONGEST_NAME, claimed, fitting, locked, remove_leftovers, remove_made, write_text
from sansref.kspace.masks.laws import MASK_LAWS
from sansref.outputs.dicom import dicom_name, dicom_slices
from sansref.outputs.overlay import OVERLAYS, Overlay
from sansref.outputs.writers import (
    Array,
    PutSlice,
    fastmri_slices,
    mrd_slices,
    nifti_slices,
    png_name,
    png_slices,
)
from sansref.scan import Scan, ScanMeta
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

MAPS_RECORD = "_error_maps.json"
"""What follows the name of an input in the name of the numbers that belong to its maps."""

IN_ONE: tuple[Format, ...] = ("hdf5", "mrd")
"""Formats in which maps lie in the file of their images, as datasets and series of their own."""

DENOISED = "_denoised"
"""What follows the name of an input in the names of its images without noise."""

DENOISED_PAGE = "_denoised.html"
"""What follows it in the name of the page that compares both images."""

SLICE_NAMES = {"png": png_name, "dicom": dicom_name}
"""Of the files in those folders."""


@dataclass(frozen=True)
class Outputs:
    """What is written for one file into the folder ``out``, in formats as the user names them.

    ``name`` is how the names of the outputs begin, from the folder on, see :func:`output_names`; None is
    :func:`output_name`. ``maps`` says what each map of :data:`OVERLAYS` is that goes with the images, a sentence;
    ``overlay`` is how one is laid over them, in the outputs of a map.
    """

    info: FileInfo
    out: Path
    formats: Sequence[Format]
    made: Provenance
    name: str | None = None
    overlay: Overlay | None = None
    maps: Mapping[str, str] = field(default_factory=dict)

    def open(self, opened: ExitStack, image: Tensor, meta: ScanMeta) -> list[PutSlice]:
        """Writers of slices like the first one, a real ``image``; outputs are complete when ``opened`` is closed.

        With ``maps``, slices are an image and these maps, (1 + maps, height, width); with an ``overlay``, pairs (2,
        height, width) of an image and the map that is written.
        """
        shape = (self.info.slices, image.shape[-2], image.shape[-1])
        said = " ".join(self.made.sentences(self.info, meta))
        writers = {
            "nifti": lambda path: nifti_slices(path, shape, meta.geometry, meta.spacing, self.made.brief),
            "hdf5": lambda path: fastmri_slices(path, shape, self.maps, said),
            "png": lambda path: png_slices(path, meta.geometry, self.overlay),
            "dicom": lambda path: dicom_slices(path, shape, self.info, meta, self.made),
            "mrd": lambda path: mrd_slices(path, shape, self.info, meta, self.made, [*map(self._made, self.maps)]),
        }
        puts = {name: opened.enter_context(writers[name](path)) for name, path in self._targets().items()}
        if self.overlay is not None:
            return [put if name == "png" else _layer(put, 1) for name, put in puts.items()]
        return [put if name in IN_ONE or not self.maps else _layer(put, 0) for name, put in puts.items()]

    def of_map(self, name: str) -> Outputs:
        """The outputs of one of the ``maps``, beside those of the images."""
        return replace(self, name=f"{self.begin}_{name}", made=self._made(name), overlay=OVERLAYS[name], maps={})

    def _made(self, name: str) -> Provenance:
        units = self.made.units if OVERLAYS[name].of_maximum else DEVIATIONS
        return replace(self.made, shows=name.replace("_", " "), meaning=self.maps[name], units=units)

    @property
    def begin(self) -> str:
        """How all names begin."""
        return self.name or output_name(self.info.path)

    @property
    def complete(self) -> bool:
        """Whether all is there; outputs appear whole or not at all."""
        return all(map(os.path.exists, self._targets().values()))  # also where a path is too long to be one

    def paths(self) -> tuple[Path, ...]:
        """All files, in the order of the formats."""
        files: list[Path] = []
        for name, path in self._targets().items():
            inside = SLICE_NAMES.get(name)
            files += [path / inside(index) for index in range(self.info.slices)] if inside else [path]
        return tuple(files)

    def _targets(self) -> dict[Format, Path]:
        own: Format = "dicom" if self.info.format == DICOM else "hdf5" if self.info.kind == "k-space" else "nifti"
        names = dict.fromkeys(own if name == "source" else name for name in self.formats)
        if self.overlay is not None:
            names = {name: None for name in names if name not in IN_ONE}
        return {name: self.out / f"{self.begin}{ENDINGS[name]}" for name in names}


def write_images(
    outputs: Outputs | Sequence[Outputs], images: Iterator[tuple[Tensor | Sequence[Tensor], ScanMeta]]
) -> bool:
    """Write slices as they come, one in memory at a time; tells whether any of them was undersampled here.

    With several outputs, a slice holds what each of them is given, such as (outputs, height, width).
    """
    several = (outputs,) if isinstance(outputs, Outputs) else outputs
    puts: list[list[PutSlice]] | None = None
    emulated = False
    with ExitStack() as opened:
        for image, meta in images:
            layers = [image] if isinstance(image, Tensor) and isinstance(outputs, Outputs) else image
            if puts is None:
                puts = [one.open(opened, layer, meta) for one, layer in zip(several, layers, strict=True)]
            for layer, own in zip(layers, puts, strict=True):
                for put in own:
                    put(meta.slice, layer)
            emulated |= meta.emulated
    return emulated


def _layer(put: PutSlice, layer: int) -> PutSlice:
    def put_layer(index: int, layers: Tensor | Array) -> None:
        put(index, layers[layer])

    return put_layer


def output_name(path: Path) -> str:
    """How the names of a file's outputs begin: as its own, and for DICOM as its folder's, since any disc has an IM0001.

    Nothing that stands in a file has a say in where outputs go. Names that would become too long with their ending are
    cut, with a digest of what they were.
    """
    name = f"{path.parent.resolve().name}_{stem_of(path)}" if is_dicom(path) else stem_of(path)
    return fitting(name, LONGEST_NAME - max(map(len, _endings())))


def _endings() -> list[str]:
    """All that may follow the name of an input."""
    own = list(ENDINGS.values())
    all_own = [*own, MAPS_RECORD, *(f"_{name}{ending}" for name in OVERLAYS for ending in own)]
    return [*all_own, DENOISED_PAGE, *(f"{DENOISED}{ending}" for ending in all_own)]


def output_names(files: Iterable[Path], root: Path, out: Path) -> dict[Path, str]:
    """How the names of the outputs of files begin, in which folder of ``out`` they lie.

    Outputs lie in one folder where the names of files allow it; else in subfolders, as their files lie below ``root``:
    a DICOM series beside its folder's place, other files in their own folder. A file that ``out`` has images of already
    keeps their name. Raises ``SettingError`` if two files have one name all the same, or one's output or folder the
    name of another's output, and ``FileError`` if the record of ``out`` cannot be read.
    """
    record = _read(out / RECORD)
    names_of: dict[str, list[str]] = {}
    for name, identity in record["inputs"].items() if record else ():
        names_of.setdefault(identity[0], []).append(name)
    alone = {path: output_name(path) for path in files}
    mirrored = len(set(alone.values())) < len(alone)
    names: dict[str, Path] = {}
    for path, own in alone.items():
        name = own
        if mirrored:
            folder = whole_path(path).parent
            folder = folder.parent if is_dicom(path) and folder != root else folder
            name = (folder.relative_to(root) / own).as_posix()
        earlier = names_of.get(str(path.resolve()), [name])
        name = name if name in earlier else earlier[0]
        if (other := names.setdefault(name, path)) != path:
            raise SettingError(
                f"{other} and {path} would have the same output name: reconstruct them into different folders"
            )
    folders = {str(folder): path for name, path in names.items() for folder in Path(name).parents}
    targets: dict[str, Path] = {}
    for name, path in names.items():
        for target in (f"{name}{ending}" for ending in _endings()):
            if (inside := folders.get(target)) is not None:
                raise SettingError(f"{path} and the folder of {inside} would have the same name in {out}: rename one")
            if (other := targets.setdefault(target, path)) != path:
                raise SettingError(
                    f"{other} and {path} could both write {target}: reconstruct them into different folders"
                )
    return {path: name for name, path in names.items()}


def whole_path(path: Path) -> Path:
    """From the root on, without looking where links lead."""
    return Path(os.path.normpath(path.absolute()))


def made_by(run: RunDirectory) -> Provenance:
    """What the images of a finished run say of how they came about.

    Raises ``FileError`` if its configuration cannot be read.
    """
    config, unseen = run.config(), bool(law_of(run)[1])
    digests = file_digest(run.weights), file_digest(run.config_file)
    return Provenance(config.method, *digests, config.sampling.in_words(), unseen)


def law_of(run: RunDirectory) -> tuple[str, str]:
    """How full scans are undersampled for a finished run, as the end of a sentence, and a warning, or nothing.

    The warning is of a law that the run has never seen, since a scanner had undersampled all that it learned from.
    Where its prepared scans are gone, nothing is known of that.
    """
    sampling, places = run.config().sampling, [run.path / "data" / "training"]
    stays_full = sampling.acceleration == 1 and sampling.mask in MASK_LAWS
    if claimed(run.path.parent) == "zeroshot":
        places.append(run.path.parent / "scans")
    for place in filter(Path.exists, places):
        with suppress(FileError):
            if any(meta.emulated for meta in PreparedScans(place).metas) or stays_full:
                return "as in training", ""
            law = sampling.in_words()
            seen = "the scans that the run learned from were undersampled by the scanner"
            return f"by {law}", f"warning: {seen}: it has never seen the mask that full scans are given here ({law})"
    return "as the run's settings say", ""


def check_finite(image: Tensor, scan: Scan, cure: str = "Check the run with 'sansref evaluate'") -> None:
    """Refuse an image of a scan, or several, that holds NaN or infinite values, with a ``FileError`` and the cure."""
    if not image.isfinite().all():
        problem = f"is reconstructed to NaN or infinite values in slice {scan.meta.slice}"
        raise FileError(scan.meta.source, problem, cure)


@contextmanager
def begun(
    out: Path,
    weights: Path,
    formats: Iterable[Format],
    files: Mapping[Path, str],
    reading: tuple[str | None, str | None] = (None, None),
    maps: str | None = None,
    error_map: float | None = None,
) -> Iterator[None]:
    """Make a folder ready for the images of files, or check that it holds the same reconstruction; keep others off it.

    What killed commands have left half written is removed, and so are the images of files that have changed since or
    are read another way now: by other ``reading`` (array and axes), or with other coil maps. Raises ``SettingError`` if
    the folder holds images of other weights, in other formats, with another ``error_map`` (the share of its bound, or
    None), of other files, or of unknown origin, or what another command made, and ``FileError`` if the record cannot be
    read, the folder not be written, or another process is at work there.
    """
    settings: dict[str, object] = {"weights": file_digest(weights), "formats": sorted(set(formats))}
    settings |= {} if error_map is None else {"error_map": error_map}
    identities = {
        path: [*_identity(path), *(word for word in reading if word), *_maps(path, maps)]
        for path in filter(os.path.exists, files)
    }
    lock = out / "reconstruction"
    if out.exists() and not lock.with_suffix(".lock").exists():
        _known(out, settings, files, identities)  # what cannot be used is left without a lock, too
    with locked(lock):
        inputs = _known(out, settings, files, identities)
        clean(out, inputs)
        changed: list[Path] = []
        for path, identity in identities.items():
            if inputs.get(files[path], identity) != identity:
                changed += _there(out, files[path])
            inputs[files[path]] = identity
        for target in changed:  # before the record says that they belong to what the files hold now
            if target.is_dir():
                remove_made(target, r"slice-\d+\.(png|dcm)")
            else:
                target.unlink()
        write_text(out / RECORD, json.dumps({"version": VERSION, **settings, "inputs": inputs}, indent=1))
        yield
        clean(out, files.values())  # of processes that died on the way


def _known(
    out: Path, settings: Mapping[str, object], files: Mapping[Path, str], identities: Mapping[Path, list[str | int]]
) -> dict[str, list[str | int]]:
    """The files whose images the folder may hold, by name; refused as by :func:`begun`."""
    if kind := claimed(out):
        raise SettingError(f"{out} holds the {kind} of another command: choose another --out")
    record = _read(out / RECORD)
    inputs: dict[str, list[str | int]] = record["inputs"] if record else {}
    for name in ("weights", "formats", "error_map"):
        # Where a command failed before its first image, any other may take its place.
        if record and record.get(name) != settings.get(name) and any(_there(out, one) for one in inputs):
            raise SettingError(f"{out} holds a reconstruction with other {name}: choose another --out")
    for path, identity in identities.items():
        there, earlier = _there(out, files[path]), inputs.get(files[path])
        if there and earlier is None:
            raise SettingError(f"{there[0]} was not written by this command: choose another --out")
        if there and earlier and earlier[0] != identity[0]:
            raise SettingError(f"{out} holds the images of {earlier[0]}, not of {path}: choose another --out")
    return inputs


def _there(out: Path, name: str) -> list[Path]:
    """What lies in the folder under the name of an input."""
    return list(filter(os.path.exists, (out / f"{name}{ending}" for ending in _endings())))


def clean(out: Path, names: Iterable[str]) -> None:
    """Remove what killed commands have left half written, in the folders of images of these names alone."""
    for folder in {(out / name).parent for name in names}:
        remove_leftovers(folder, deep=False)


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


def _read(path: Path) -> Any:
    """The record, or None where there is none."""
    if not path.exists():
        return None
    cure = "Choose another --out"
    with suppress(FileError, KeyError, TypeError, AttributeError):
        record = read_json(path, cure)
        inputs = record["inputs"].items() if record.keys() >= {"weights", "formats"} else [("", None)]
        # Whoever wrote it, outputs must lie in their folder.
        inside = all(not Path(name).is_absolute() and ".." not in Path(name).parts for name, _ in inputs)
        if record["version"] == VERSION and inside and all(isinstance(entry, list) and entry for _, entry in inputs):
            return record
    raise FileError(path, "is not a record of a reconstruction that this version can continue", cure)
