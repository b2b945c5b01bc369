"""Reconstruct files with a trained run and write them in the formats their users know."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from rich.console import Console
from torch import Tensor

from sansref.commands.denoised import DenoisedFile, with_samples
from sansref.commands.error_map import MappedFile, options_for
from sansref.commands.output_files import (
    Format,
    Outputs,
    begun,
    check_finite,
    made_by,
    output_names,
    whole_path,
    write_images,
)
from sansref.data.prepare import Preparation
from sansref.data.provenance import OF_SOURCE, RELATIVE, file_digest
from sansref.data.readers import FileInfo, find_files
from sansref.data.readers.dicom import first_files
from sansref.data.readers.dicom_headers import FORMAT as DICOM
from sansref.data.readers.fastmri import FORMAT as FASTMRI
from sansref.data.readers.ismrmrd import FORMAT as ISMRMRD
from sansref.data.readers.nifti import FORMAT as NIFTI
from sansref.data.readers.reader import Kind
from sansref.data.readers.twix import FORMAT as TWIX
from sansref.data.slices import Slices
from sansref.errors import FileError, SettingError
from sansref.files import keep_outside
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import estimate_noise, pooled_levels
from sansref.machine import device_of
from sansref.methods import Method
from sansref.metrics.error_maps import ErrorMapOptions
from sansref.results.scorer import magnitude
from sansref.scan import Scan, ScanMeta
from sansref.training.config import RunConfig
from sansref.training.progress import with_bar
from sansref.training.run import RunDirectory

Accelerator = Literal["auto", "cpu", "gpu"]

SELF_EXPLAINED = frozenset((DICOM, FASTMRI, ISMRMRD, NIFTI, TWIX))
"""Formats that say themselves what their axes are."""

FULL = 0.9
"""Share of the grid below which a scan is undersampled rather than full with a few samples lost."""

NOISE_SLICES = 8
"""Slices, spread over a file, that the level of its noise is found in."""


@dataclass(frozen=True)
class Job:
    """What is done with every file.

    Attributes
    ----------
    run
        A finished run.
    out
        Folder for the images.
    formats
        source is DICOM for DICOM, NIfTI for other image volumes and fastMRI's HDF5 for k-space files.
    accelerator
        Device for the network; auto uses a GPU if there is one.
    array, axes
        How files of arrays are read, where it is another way than that of the run's training data.
    maps
        Coil maps of these files, see :class:`sansref.data.slices.Slices`; never those of the training data.
    error_map
        How error maps beside the images are made; None makes none.
    """

    run: RunDirectory
    out: Path
    formats: Sequence[Format] = ("source",)
    accelerator: Accelerator = "auto"
    array: str | None = None
    axes: str | None = None
    maps: str | None = None
    error_map: ErrorMapOptions | None = None


@dataclass(frozen=True)
class Reconstructed:
    """One file that is done, and its images; whether they were there already.

    ``emulated`` says whether it was undersampled here before it was reconstructed, which is not known of earlier ones;
    ``notes`` say how it was read, what its error maps tell, or what became of its noise, a line each. ``idle`` are what
    the job names of array, axes and maps, and this file has no use for.
    """

    path: Path
    kind: Kind
    written: tuple[Path, ...]
    earlier: bool = False
    emulated: bool = False
    notes: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()


FileOutcome = Reconstructed | FileError
"""What became of one file: done, or why it cannot be read."""


def reconstruct_files(
    job: Job,
    files: Sequence[Path],
    on_bad: Callable[[FileError], None] | None = None,
    address: str | None = None,
    console: Console | None = None,
) -> Iterator[Reconstructed]:
    """Reconstruct every slice of every file, at full size. The same call goes on where a killed one was.

    Raises ``FileError`` for a file that cannot be read and may not be left out; those done before are kept; and if
    another process works on the folder for the images. Raises ``SettingError`` if an output would replace a scan or
    another output, or lie among the run's data, the folder holds another reconstruction, or no file can be used; if
    there is no such GPU or cluster.

    Parameters
    ----------
    job
        What is done with every file.
    files
        Scan files, or folders of them. Where names of files occur twice, their images lie in subfolders as the
        files do. Fully sampled k-space, or magnitude images, are undersampled first as the run's settings say, see
        :func:`~sansref.commands.output_files.law_of`; undersampled k-space is used as it is.
    on_bad
        Called for an unreadable file, which is then left out; None stops at the first.
    address
        Of a Ray cluster whose nodes all see the files, the run and the folder for the images: HOST:PORT, auto, or
        local; None works without Ray.
    console
        Where progress is drawn.

    Yields
    ------
    Reconstructed
        Each file; on a cluster, in the order in which they are done.
    """
    console = console or Console(stderr=True)
    for name in ("folder", "full"):
        _keep_out_of(job.run.folder(name), job.out)
    names = _scan_files(files, job.out)
    # Nothing is begun with a run that cannot be used.
    if address is None:
        outcomes = _here(Worker(job), names, console)
    else:
        from sansref.commands.ray import on_cluster

        job.run.load()
        outcomes = with_bar(on_cluster(job, names, address), "files", len(names), console)
    bound = None if job.error_map is None else job.error_map.bound
    bad, usable = [], False
    ready = begun(job.out, job.run.weights, job.formats, names, (job.array, job.axes), job.maps, bound)
    # Closed at once, whatever ends the loop: a cluster must not stay connected.
    with ready, closing(outcomes):
        for outcome in outcomes:
            if isinstance(outcome, Reconstructed):
                usable = True
                yield outcome
            elif on_bad is None:
                outcome.one_of_many = len(names) > 1
                raise outcome
            else:
                bad.append(outcome)
                on_bad(outcome)
    if not usable:
        raise SettingError(f"none of the {len(bad)} file(s) can be used; the first: {bad[0]}").after(bad)


def _here(worker: Worker, files: Mapping[Path, str], console: Console) -> Generator[FileOutcome]:
    for number, (path, name) in enumerate(files.items(), start=1):
        yield worker.outcome(path, name, console, f"{number}/{len(files)} {path.name}")


def _keep_out_of(data: str | None, out: Path) -> None:
    """See to it that no image lies among the scans that the run learned from, where the next training would take it."""
    if data and Path(data).is_dir() and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(data)):
        place = f"lies inside {data}, which the run learned from"
        raise SettingError(f"--out {out} {place}, where its files would pass for scans: move it out")


def _scan_files(files: Sequence[Path], out: Path) -> dict[Path, str]:
    """Look into folders, name outputs, and see to it that nothing is written over a scan, among scans or twice."""
    for folder in (file for file in files if file.is_dir()):
        keep_outside(out, folder)
    listed = [path for file in files for path in (find_files(file) if file.is_dir() else [file])]
    scans = first_files({whole_path(path): path for path in listed}.values())
    roots = [whole_path(file if file.is_dir() else file.parent) for file in files]
    names = output_names(scans, Path(os.path.commonpath(roots)), out)
    taken = {folder: path for path in scans for folder in (path.parent.resolve(), path.resolve().parent)}
    for folder in {(out / name).parent for name in names.values()}:
        if (path := taken.get(folder.resolve())) is not None:
            raise SettingError(f"--out is the folder of {path}: choose another, so that no scan is replaced")
    return names


def whole_files(
    recipe: Preparation, array: str | None = None, axes: str | None = None, maps: str | None = None
) -> Preparation:
    """The same recipe for all slices at full size, of files that may be read by another ``array`` and ``axes``.

    Coil maps are of those who were scanned, and the noise is that of their scan: those of the training data are of no
    use here.
    """
    read = recipe.slices.reader_options
    chosen = Slices(plane=read.plane, array=array or read.array, axes=axes or read.axes, maps=maps)
    return replace(recipe, slices=chosen, noise=None)


def reconstruct_slices(
    method: Method, recipe: Preparation, path: Path, device: torch.device | None = None
) -> Iterator[tuple[Tensor, ScanMeta]]:
    """Yield the magnitude of each slice that holds a signal, float32 (height, width) in the file's units.

    The method must be on ``device``, None is the CPU; the images are on the CPU.
    """
    for scan in recipe.scans(path):
        yield reconstruct_scan(method, scan, device or torch.device("cpu")), scan.meta


def whole_volume(images: Iterable[tuple[Tensor, ScanMeta]], info: FileInfo) -> Iterator[tuple[Tensor, ScanMeta]]:
    """Yield images of a file as they come, and then zeros for its slices without any signal.

    Raises ``FileError`` if there is no image.
    """
    blank, image, meta = set(range(info.slices)), torch.empty(0), None
    for image, meta in images:
        blank.discard(meta.slice)
        yield image, meta
    if meta is None:
        raise FileError(info.path, "has only one grey value in each of its slices", "Leave it out")
    for index in sorted(blank):
        yield torch.zeros_like(image), replace(meta, slice=index)


def reconstruct_scan(method: Method, scan: Scan, device: torch.device) -> Tensor:
    """The magnitude of a prepared scan on the CPU, float32 (height, width) in the file's units.

    Raises ``FileError`` if it is not finite, as damaged weights can make it.
    """
    with torch.inference_mode():
        image = magnitude(method.reconstruct(scan.batch().to(device))[0].cpu(), scan) * scan.meta.scale
    check_finite(image, scan)
    return image


def usable_device(accelerator: Accelerator) -> torch.device:
    """Where networks work; SettingError if there is no GPU where one is asked for."""
    if accelerator not in get_args(Accelerator):
        raise SettingError(f"accelerator must be one of {', '.join(get_args(Accelerator))}, got {accelerator!r}")
    device = device_of(accelerator)
    if accelerator == "gpu" and device.type == "cpu":
        raise SettingError("accelerator 'gpu' cannot be used: PyTorch sees no GPU; use --accelerator auto")
    return device


class Worker:
    """A trained method at work on files.

    Raises ``FileError`` if the run cannot be used, and ``SettingError`` if there is no GPU where one is asked for.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.device = job, usable_device(job.accelerator)
        self.method = job.run.load().to(self.device)
        self.made = replace(made_by(job.run), units=RELATIVE if self.method.relative else OF_SOURCE)
        if how := [word for word in (job.array, job.axes, job.maps) if word]:  # other images of the same file
            if job.maps and Path(job.maps).is_file():
                how.append(file_digest(Path(job.maps)))
            settings = hashlib.sha256(json.dumps([self.made.settings, *how]).encode()).hexdigest()
            self.made = replace(self.made, settings=settings)
        self.maps = None if job.error_map is None else options_for(self.method, job.run.config(), job.error_map)
        self.recipe = whole_files(job.run.config().preparation, job.array, job.axes, job.maps)

    def outcome(self, path: Path, name: str, console: Console | None = None, title: str = "") -> FileOutcome:
        """Reconstruct a file, unless that is done; its own fault is returned, what else goes wrong is raised."""
        try:
            return self._reconstructed(path, name, console, title)
        except FileError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENAMETOOLONG:
                return FileError(path, f"has images whose path would be too long ({error.path.parent})", error.cure)
            if error.path != path:
                raise
            return error

    def _reconstructed(self, path: Path, name: str, console: Console | None, title: str) -> Reconstructed:
        info = self.recipe.describe(path)
        done = replace(self._images(info, name, console, title), idle=self._idle(info))
        if self.method.relative:
            done = replace(done, notes=(*done.notes, f"{RELATIVE[0].lower()}{RELATIVE[1:]}"))
        if info.axes is None or self.job.axes is not None:
            return done
        told = f"the axes of the array are read as {info.axes}, as in the run's training data (--axes names others)"
        return replace(done, notes=(told, *done.notes))

    def _idle(self, info: FileInfo) -> tuple[str, ...]:
        job, arrays = self.job, info.format not in SELF_EXPLAINED
        maps = info.kind == "k-space" and info.coils > 1
        used = {"array": arrays, "axes": arrays or bool(maps and job.maps), "maps": maps}  # maps are arrays, too
        return tuple(name for name, has_effect in used.items() if getattr(job, name) and not has_effect)

    def _images(self, info: FileInfo, name: str, console: Console | None, title: str) -> Reconstructed:
        path = info.path
        outputs = Outputs(info, self.job.out, self.job.formats, self.made, name)
        if self.method.denoises:
            return self._denoised(path, outputs, console, title)
        mapped = None if self.maps is None else MappedFile(outputs, self.maps)
        if (mapped or outputs).complete:
            return Reconstructed(path, info.kind, outputs.paths(), earlier=True)
        if mapped is not None:
            return self._mapped(mapped, console, title)
        images = with_bar(reconstruct_slices(self.method, self.recipe, path, self.device), title, info.slices, console)
        emulated = write_images(outputs, whole_volume(images, info))
        return Reconstructed(path, info.kind, outputs.paths(), emulated=emulated)

    def _mapped(self, mapped: MappedFile, console: Console | None, title: str) -> Reconstructed:
        info, family = mapped.outputs.info, self.job.run.config().sampling.family
        self._announce(mapped, console)
        scans = with_file_noise(self.recipe, info)
        slices = with_bar(mapped.slices(self.reconstruct, scans, family), title, info.slices, console)
        emulated = mapped.write(whole_volume(slices, info))
        notes = (*mapped.notes(), *self._learned(info))
        return Reconstructed(info.path, info.kind, mapped.paths(), emulated=emulated, notes=notes)

    def reconstruct(self, given: Measurement) -> Tensor:
        """Images on the CPU, complex (batch, height, width)."""
        with torch.inference_mode():
            return self.method.reconstruct(given.to(self.device)).cpu()

    def _announce(self, mapped: MappedFile, console: Console | None) -> None:
        info = mapped.outputs.info
        if console is not None:
            for scan in self.recipe.scans(info, [info.slices // 2]):
                console.print(mapped.announcement(self.reconstruct, scan))

    def _learned(self, info: FileInfo) -> Iterator[str]:
        if self.job.run.folder() == str(info.path.resolve()):
            yield "the run learned from this very scan: contradictions without reason are to be expected here"

    def _denoised(self, path: Path, outputs: Outputs, console: Console | None, title: str) -> Reconstructed:
        """Write two images of each slice: one that keeps the samples as they were measured, and one without noise.

        Error maps are those of the second, whose noise is an error where it is left; a slice that was left alone has
        its noise.
        """
        file, info = DenoisedFile(outputs), outputs.info
        mapped = None if self.maps is None else MappedFile(file.clean, self.maps)
        clean = mapped or file.clean
        written = (*file.outputs.paths(), *clean.paths())
        if file.outputs.complete and clean.complete and file.page.exists():
            return Reconstructed(path, info.kind, written, earlier=True)
        if mapped is not None:
            self._announce(mapped, console)
        scans = with_file_noise(self.recipe, info)
        images = with_bar(file.slices(self.method.reconstruct, scans, self.device), title, info.slices, console)
        emulated = file.write(whole_volume(images, info))
        facts = {"Slices": str(info.slices), "Run": str(self.job.run.path)}
        file.write_page(f"{info.path.name}, without its noise", facts)
        notes = [*file.notes()]
        if not emulated and (info.acquired_fraction or 1.0) < FULL and self.recipe.sampling.acceleration == 1:
            notes.append("the run learned from full scans: what this undersampled scan lacks, nothing fills in")
        if mapped is not None:
            family = self.job.run.config().sampling.family

            def with_maps() -> Iterator[tuple[Tensor, ScanMeta]]:
                again = with_file_noise(self.recipe, info)
                for scan, (_, one) in zip(again, file.found, strict=True):
                    reconstruct = with_samples(self.reconstruct) if one.left_alone else self.reconstruct
                    yield mapped.slice(reconstruct, scan, family(scan.meta.emulated)), scan.meta

            mapped.write(whole_volume(with_bar(with_maps(), f"{title} maps", info.slices, console), info))
            notes += [*mapped.notes(), *self._learned(info)]
        return Reconstructed(path, info.kind, written, emulated=emulated, notes=tuple(notes))


def scans_of(config: RunConfig, info: FileInfo, wanted: Sequence[int] | None = None) -> Iterator[Scan]:
    """The scans of a file; of a method that denoises with one level of noise for all, as it was taught."""
    if config.denoises:
        return with_file_noise(config.preparation, info, wanted)
    return config.preparation.scans(info, wanted)


def with_file_noise(recipe: Preparation, info: FileInfo, wanted: Sequence[int] | None = None) -> Iterator[Scan]:
    """The scans of a file, each with the level of noise that is found in a few of its slices, unless it is known.

    These are of the slices that the recipe takes; ``wanted`` are the numbers of those to give, None for all of them.
    """
    taken = recipe.slices.indices(info.slices)
    few = [*recipe.scans(info, sorted({taken[len(taken) * place // NOISE_SLICES] for place in range(NOISE_SLICES)}))]
    if any(scan.meta.synthetic for scan in few):  # with noise in proportion to the signal of each slice
        few = []
    noises = [estimate_noise(scan.kspace, scan.mask) for scan in few]
    alike = [(scan, noise) for scan, noise in zip(few, noises, strict=True) if len(scan.kspace) == len(few[0].kspace)]
    levels = [noise for _, noise in alike], [scan.meta.scale for scan, _ in alike]
    pooled = pooled_levels(*levels)[0] * few[0].meta.scale if few else None
    for scan in recipe.scans(info, wanted):
        if pooled is not None and scan.meta.noise is None and len(pooled) == len(scan.kspace):
            level = tuple((pooled / scan.meta.scale).flatten().tolist())
            scan = replace(scan, meta=replace(scan.meta, noise=level))
        yield scan
