"""From files to scans ready for use: read, simulate where needed, undersample, find coil maps, scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sansref.data.coil_maps import CoilOptions, with_coils
from sansref.data.placement import recut
from sansref.data.provenance import contents
from sansref.data.readers import FileInfo, ImageSlice, open_scan_file
from sansref.data.readers.subjects import subject_of
from sansref.data.scan_store import PreparedScans, made_by_recipe, store_scans
from sansref.data.simulate import Sampling, Simulation, simulate
from sansref.data.slices import Slices, resized_image, resized_kspace
from sansref.errors import FileError, SizeError
from sansref.kspace.coils import rss
from sansref.kspace.fourier import ifft2c
from sansref.kspace.grid import is_full
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta
from sansref.settings import by_name

RANGE = (1e-30, 1e30)
"""Of the largest value of an image; beyond it, sums over pixels and coils leave the range of single precision."""


@dataclass(frozen=True)
class Preparation:
    """Everything that turns a file into undersampled scans, or into full ones.

    Attributes
    ----------
    slices, simulation, sampling
        Which slices; how magnitudes become k-space; how full k-space is undersampled.
    magnitude
        Reduce measured k-space to root-sum-of-squares magnitude images and simulate from those, as the
        single-coil emulations in the literature do.
    seed
        Of the simulation and of masks that are drawn per scan.
    undersampled
        False keeps full scans full: the full half of unpaired data.
    coils
        How measured k-space of several coils gets its sensitivity maps and its reference.
    noise
        Standard deviation of the noise in the real, and of the imaginary, part of a sample, in the units of the file's
        k-space in the orthonormal convention; None leaves it to be found.
    """

    slices: Slices = field(default_factory=Slices)
    simulation: Simulation = field(default_factory=Simulation)
    sampling: Sampling = field(default_factory=Sampling)
    magnitude: bool = False
    seed: int = 0
    undersampled: bool = True
    coils: CoilOptions = field(default_factory=CoilOptions)
    noise: float | None = None

    def flat(self) -> dict[str, Any]:
        """Names and values of all settings; of a file or folder that a setting names, what it holds."""
        return by_name(asdict(self)) | {name: contents(path) for name, path in self.named.items() if path.exists()}

    @property
    def named(self) -> dict[str, Path]:
        """Files and folders that settings name by their absolute path, such as a mask, by the setting."""
        paths = {name: Path(value) for name, value in by_name(asdict(self)).items() if isinstance(value, str | Path)}
        return {name: path for name, path in paths.items() if path.is_absolute()}

    def describe(self, path: Path) -> FileInfo:
        """What a file holds, read as the scans are; ``FileError`` if it cannot be read."""
        return open_scan_file(path, self.slices.reader_options).describe(path)

    def scans(self, file: Path | FileInfo, slices: Sequence[int] | None = None) -> Iterator[Scan]:
        """Yield a file's scans, undersampled and scaled, one at a time; without ``slices``, those of ``self.slices``.

        A scan has its reference where the file is fully sampled, and keeps its own mask where it is not. Its subject is
        that of a description. Raises ``FileError`` if the file cannot be read, is undersampled where full scans are
        wanted, is too small for the settings, does not show what its coils see, or holds numbers out of the range of
        single precision.
        """
        path, subject = (file.path, file.subject) if isinstance(file, FileInfo) else (file, None)
        reader = open_scan_file(path, self.slices.reader_options)
        for item in reader.read(path, self.slices.indices if slices is None else slices):
            if subject is not None:
                item = replace(item, meta=replace(item.meta, subject=subject))
            scan = self.ready(item)
            if scan is not None:
                yield scan

    def ready(self, item: Scan | ImageSlice) -> Scan | None:
        """What a slice, as a reader gives it, is to methods; None beside the head, where there is nothing to see.

        Raises ``FileError`` as for :meth:`scans`.
        """
        if isinstance(item, Scan) and not (self.undersampled or is_full(item.mask)):
            problem = "is undersampled, but full scans are wanted here"
            raise FileError(item.meta.source, problem, "Give it as undersampled data")
        if isinstance(item, Scan) and self.magnitude:
            item = magnitude_of(item)
        if isinstance(item, Scan):
            item = self._with_noise(item)
        try:
            whole = self._whole(item)
            if whole is None:
                return None
            scan = self.sampling.undersample(whole, self._stream("mask", whole.meta)) if self.undersampled else whole
        except SizeError as error:  # the file may be left out, as an unreadable one
            problem = f"does not go with the settings ({error})"
            raise FileError(item.meta.source, problem, "Change them, or leave the file out") from None
        if len(scan.kspace) > 1:
            _brightest(scan)  # before libraries that fail over infinite numbers
        scan = with_coils(scan, whole if is_full(whole.mask) else None, self.coils)
        return scaled(scan)

    def _with_noise(self, scan: Scan) -> Scan:
        """A scan whose noise is known, if the user knows it; as it is in the file, before anything is resized."""
        if self.noise is None:
            return scan
        return replace(scan, meta=replace(scan.meta, noise=(self.noise / scan.meta.scale,) * len(scan.kspace)))

    def _whole(self, item: Scan | ImageSlice) -> Scan | None:
        """K-space before it is undersampled, measured or simulated."""
        if isinstance(item, Scan):
            return resized_kspace(item, self.slices)
        chosen = self.slices.bounded(item.image.shape)
        image = resized_image(item.image, chosen)
        if image.max() == image.min():
            return None
        meta = recut(item.meta, item.image.shape, chosen.crop, chosen.matrix)
        return self._with_noise(simulate(image, self.simulation, self._stream("simulate", meta), meta))

    def _stream(self, purpose: str, meta: ScanMeta) -> torch.Generator:
        """Depends on whose file it is and on its name, so that a folder may be moved."""
        name = Path(meta.source).name
        # Names that do not say whose file it is, such as IM0001, are those of files of everybody.
        whose = () if subject_of(Path(name)) == meta.subject else (meta.subject,)
        return seeded(self.seed, purpose, *whose, name, meta.slice)


def magnitude_of(scan: Scan) -> ImageSlice:
    """Root-sum-of-squares magnitude of a fully sampled scan, cropped to the part that is scored."""
    if not is_full(scan.mask):
        problem = "is undersampled and has no full image"
        raise FileError(scan.meta.source, problem, "Train without --magnitude to use the measured k-space")
    image = scan.meta.cropped(rss(ifft2c(scan.kspace)))
    return ImageSlice(image, replace(scan.meta, synthetic=True, crop=None, noise=None))


def scaled(scan: Scan) -> Scan:
    """Divide a scan by the largest magnitude of its zero-filled image, so that networks see one range.

    Raises ``FileError`` if single precision does not hold it.
    """
    scale = _brightest(scan)
    reference = None if scan.reference is None else scan.reference / scale
    noise = None if scan.meta.noise is None else tuple(level / scale for level in scan.meta.noise)
    meta = replace(scan.meta, scale=scan.meta.scale * scale, noise=noise)
    return replace(scan, kspace=scan.kspace / scale, reference=reference, meta=meta)


def _brightest(scan: Scan) -> float:
    """The largest magnitude of the zero-filled image, refused where single precision does not hold it."""
    largest = float(rss(ifft2c(scan.kspace)).max())
    if not RANGE[0] < largest < RANGE[1]:
        problem = f"has a zero-filled image in slice {scan.meta.slice} whose largest value is {largest:g}"
        raise FileError(scan.meta.source, problem, "Export it again on another scale, or leave it out")
    return largest


def prepare(
    files: Iterable[FileInfo],
    recipe: Preparation,
    folder: Path,
    references: bool,
    on_bad: Callable[[FileError], None] | None = None,
    noise: bool = False,
) -> PreparedScans:
    """Write the scans of ``files`` into ``folder``, or reuse it if it is already there and was made in the same way.

    Memory stays bounded by one slice, or by one file where bad ones are left out. Raises ``FileError`` for an
    unreadable file, or a file without full sampling where references are needed, and ``SettingError`` if no file gave a
    scan.

    Parameters
    ----------
    folder
        New folder; it appears only when complete.
    references
        Keep the full references. False writes none at all: a method that learns from undersampled scans alone finds
        nothing to peek at.
    on_bad
        Called with the error of an unreadable file, which is then left out; None lets the error stop.
    noise
        Find one level of noise for all slices of a file.
    """
    way = {**recipe.flat(), "references": references}
    if folder.exists():
        return made_by_recipe(folder, way)
    return store_scans(_usable(files, recipe, on_bad), folder, references, way, noise)


def _usable(
    files: Iterable[FileInfo], recipe: Preparation, on_bad: Callable[[FileError], None] | None
) -> Iterator[Scan]:
    for info in files:
        if on_bad is None:
            yield from recipe.scans(info)
            continue
        try:
            scans = list(recipe.scans(info))  # a whole file or nothing, also where it breaks midway
        except FileError as error:
            on_bad(error)
            continue
        yield from scans
