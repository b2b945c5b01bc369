"""What MRD and Siemens raw files have in common: lines in one long list, to be sorted into images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sansref.data.coil_maps import SMALLEST, calibration_side
from sansref.data.mrd.acquisitions import Data, Heads, ImageKey, Lines, Role, check_head, is_role, key_of
from sansref.data.mrd.assemble import Layout, assemble, geometry_of, layout_of, stack_order
from sansref.data.mrd.calibration import NoiseScan, Whitening, lines_for
from sansref.data.mrd.gridding import ON_GRID, grid_mask, measured_lines, place, planar
from sansref.data.mrd.header import MrdHeader
from sansref.data.readers.reader import BY_NAME, BY_PATIENT, FileInfo, SliceChoice, chosen_slices
from sansref.data.readers.subjects import subject_of
from sansref.errors import FileError
from sansref.scan import Geometry, Scan, ScanMeta

Integers = npt.NDArray[np.int64]
Fetch = Callable[[Integers], list[Data]]


class RawReader(ABC):
    """Reader of a format of raw data.

    How lines become scans is told in :mod:`sansref.data.mrd.assemble`, and how the images of a file are counted in
    :class:`RawFile`.
    """

    @abstractmethod
    def opened(self, path: Path) -> AbstractContextManager[RawFile]:
        """Open a file and read the headers of all its lines; raises ``FileError`` where it cannot be used."""

    def describe(self, path: Path) -> FileInfo:
        """Read the headers, and the noise lines."""
        with self.opened(path) as raw:
            return raw.info()

    def read(self, path: Path, slices: SliceChoice = None) -> Iterator[Scan]:
        """Yield one ``Scan`` per slice; the file is open only while the iterator lives."""
        with self.opened(path) as raw:
            yield from raw.scans(slices)


@dataclass(frozen=True)
class RawFile:
    """The lines of a raw file: their headers, an array (lines,) of :data:`~sansref.data.mrd.acquisitions.HEAD`.

    The images of a file are counted as one list: slices in their order along the slice direction, then contrasts,
    repetitions, phases and sets; of 3-D slabs every partition counts as a slice. ``fetch`` reads the samples of lines,
    complex64 (coils, samples) each, by ascending index; ``noise`` are further noise lines, of another measurement in
    the file. Raises ``FileError`` for implausible lines, without an image, and where images differ in their coils.
    """

    path: Path
    format: str
    header: MrdHeader
    heads: Heads
    fetch: Fetch
    noise: NoiseScan | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        used = self.heads[~is_role(self.heads, Role.OTHER)]
        samples, coils = used["number_of_samples"].astype(np.int64), used["active_channels"].astype(np.int64)
        # All are checked by the largest and the smallest of them.
        for index in {int(np.argmax(samples * coils)), int(np.argmin(samples * coils))} if len(used) else ():
            check_head(self.path, used[index])
        image = self.heads[is_role(self.heads, Role.IMAGE)]
        if not len(image):
            raise FileError(self.path, "holds no imaging line", "Give a complete measurement")
        if len(numbers := np.unique(image["active_channels"])) > 1:
            problem = f"has images of {numbers[0]} and of {numbers[1]} coils"
            raise FileError(self.path, problem, "Give one file for each set of coils")

    def info(self) -> FileInfo:
        """Describe the file by the headers of its lines, and by its noise lines."""
        layout, whole = self._layout, self.header.encoded[0]
        return FileInfo(
            path=self.path,
            format=self.format,
            kind="k-space",
            slices=len(self._images) * layout.scans,
            height=layout.mask.shape[0],
            width=layout.mask.shape[1],
            coils=layout.coils,
            subject=self._subject,
            recognised_by=BY_PATIENT if self.header.subject else BY_NAME,
            contrast=self.header.contrast,
            lying=self.header.lying,
            spacing=self._shape.spacing[:2],
            acquired_fraction=float(layout.mask.float().mean()),
            stored_rows=(whole, whole // 2 - layout.mask.shape[0] // 2) if layout.cut else None,
            notes=(*self.header.notes, *self.notes, *self._notes()),
        )

    def scans(self, slices: SliceChoice) -> Iterator[Scan]:
        """Yield the chosen slices, the lines of one image in memory at a time."""
        each = self._layout.scans
        held, scans = -1, list[Scan]()
        for index in chosen_slices(slices, len(self._images) * each):
            if index // each != held:
                scans.clear()  # before the next image is made, which may be a large slab
                held, scans = index // each, self._assembled(index // each)
            yield scans[index % each]

    def _assembled(self, image: int) -> list[Scan]:
        chosen = self._images[image]
        lines = Lines(self.heads[chosen], self.fetch(chosen))
        first = image * self._layout.scans
        meta = ScanMeta(self._subject, str(self.path), slice=first, geometry=self._geometry)
        apart = self._calibration(image)
        others = Lines(self.heads[apart], self.fetch(apart)) if len(apart) else None
        scans = assemble(self.path, self.header, lines, meta, self._whitening[0], others)
        if len(scans) != self._layout.scans:
            problem = f"has images of {self._layout.scans} and of {len(scans)} partitions"
            raise FileError(self.path, problem, "Give a separate file for each kind, with complete measurements")
        return scans

    def _calibration(self, image: int) -> Integers:
        """Indices of the lines of other images that calibrate an image of several coils, if it does not itself."""
        none = np.zeros(0, np.int64)
        if self._layout.coils == 1:
            return none
        lines = self._images[image]
        heads = self.heads[lines]
        if self.header.calibration not in ON_GRID:
            if is_role(heads, Role.CALIBRATION).any():
                return none
        else:
            header, used = planar(self.header, heads), heads[measured_lines(self.header, heads)]
            mask = grid_mask(header, place(self.path, header, used))
            if calibration_side(torch.from_numpy(mask[0])) >= SMALLEST or is_role(heads, Role.CALIBRATION).any():
                return none
        found = lines_for(self.header, key_of(heads[0]), self._keyed, self.heads)
        return none if set(found) <= set(lines) else found

    @property
    def _subject(self) -> str:
        return self.header.subject or subject_of(self.path)

    @cached_property
    def _layout(self) -> Layout:
        return layout_of(self.path, self.header, self.heads[self._images[0]])

    @cached_property
    def _shape(self) -> MrdHeader:
        """How the images were encoded, by their lines: in two dimensions where the header says three."""
        return planar(self.header, self.heads[self._images[0]])

    @cached_property
    def _images(self) -> list[Integers]:
        """Indices of the lines of each image."""
        return [group for group in self._groups if is_role(self.heads[group], Role.IMAGE).any()]

    @cached_property
    def _groups(self) -> list[Integers]:
        """Indices of the image and calibration lines of each slice, contrast, repetition, ..."""
        fields = ImageKey._fields
        keys = np.stack([self.heads["idx"][name].astype(np.int64) for name in fields], axis=-1)
        # Slices by their place in the stack; counters without an image line come last.
        ranks = np.full(2**16, 2**16, np.int64)
        ranks[self.heads["idx"]["slice"][self._first_of_slice]] = np.arange(len(self._first_of_slice))
        keys[:, -1] = ranks[keys[:, -1]]
        used = np.flatnonzero(is_role(self.heads, Role.IMAGE) | is_role(self.heads, Role.CALIBRATION))
        _, image = np.unique(keys[used], axis=0, return_inverse=True)
        order = np.argsort(image, kind="stable")
        return np.split(used[order], np.flatnonzero(np.diff(image[order])) + 1)

    @cached_property
    def _keyed(self) -> list[tuple[ImageKey, Integers]]:
        return [(key_of(self.heads[group[0]]), group) for group in self._groups]

    @cached_property
    def _first_of_slice(self) -> Integers:
        """Index of the first image line of each slice counter, in the order of the stack."""
        image = np.flatnonzero(is_role(self.heads, Role.IMAGE))
        _, first = np.unique(self.heads["idx"]["slice"][image], return_index=True)
        lines: Integers = image[first]
        return lines[stack_order(self.heads[lines])]

    @property
    def _stack(self) -> int:
        return len(self._first_of_slice)

    @cached_property
    def _volumes(self) -> int:
        counters = self.heads["idx"][list(ImageKey._fields[:-1])]
        return len(np.unique(counters[np.concatenate(self._images)]))

    @cached_property
    def _geometry(self) -> Geometry | None:
        rows, columns = self._layout.crop
        if len(self._images) != self._volumes * self._stack:
            return None  # volumes lack slices
        size = (min(rows, self._layout.mask.shape[0]), columns, self._layout.scans)
        geometry = geometry_of(self._shape, self.heads[self._first_of_slice], size)
        if geometry is None:
            return None
        return replace(geometry, stack=self._stack * size[2] if self._volumes > 1 else None, known=self.header.placed)

    @cached_property
    def _whitening(self) -> tuple[Whitening | None, str | None]:
        """How coils are whitened, and what a person should know about it."""
        noise = self.noise or NoiseScan()
        for index in np.flatnonzero(is_role(self.heads, Role.NOISE)):
            if noise.full:
                break
            noise.add(self.heads[index], self.fetch(np.array([index]))[0])
        if not noise.coils:
            return None, None
        try:
            dwell = float(self.heads["sample_time_us"][self._images[0][0]])
            whitening = noise.whitening(self.path, self._layout.coils, dwell)
        except FileError as error:
            return None, f"Coils are not whitened: the file {error.problem}."
        if whitening is None:
            return None, f"Coils are not whitened: the noise is of {noise.coils} coils, the scan of another number."
        if not whitening.unit:
            unknown = "how fast these were sampled beside the scan is not known, and the level is found in the images"
            return whitening, f"Coils are whitened by {noise.samples} noise samples; {unknown}."
        return whitening, f"Coils are whitened by {noise.samples} noise samples; the images are in units of the noise."

    def _notes(self) -> Iterator[str]:
        layout, header = self._layout, self._shape
        heads = self.heads[self._images[0]]
        rows, oversampled = layout.crop[0], header.encoded[0]
        if layout.cut:
            yield f"Readout oversampling {oversampled / rows:.3g}x is removed ({oversampled} to {rows} rows)."
        elif rows < oversampled:
            yield "The echo is asymmetric: its missing part is not acquired, and readout oversampling is kept."
        if missing := int((~layout.mask.any(0)).sum()):
            yield f"{missing} of {layout.mask.shape[1]} phase-encoding lines are not acquired."
        if (used := measured_lines(header, heads)).size < len(heads):
            yield f"{len(heads) - used.size} calibration lines are not part of an image; coil maps may use them."
        elif len(self._calibration(0)):
            yield "The images lack calibration lines of their own; coil maps may use those of others."
        if added := int(is_role(heads[used], Role.CALIBRATION).sum()):
            yield f"{added} calibration lines lie on the grid of the image and count as acquired."
        steps = [heads["idx"][used][f"kspace_encode_step_{axis}"] for axis in (1, 2)]
        if (most := int(np.unique(np.stack(steps), axis=1, return_counts=True)[1].max())) > 1:
            yield f"Lines that were acquired several times (up to {most}) are averaged."
        if self.header.encoded[2] > header.encoded[2]:
            yield f"All lines are of one partition of {self.header.encoded[2]}: the scan is read as two-dimensional."
        if header.encoded[2] > 1:
            yield f"3-D slabs are read as {layout.scans} slices each, by a Fourier transform along the partitions."
        if self._volumes > 1:
            lines = self.heads["idx"][np.concatenate(self._images)]
            names = [name for name in reversed(ImageKey._fields[:-1]) if len(np.unique(lines[name])) > 1]
            yield f"Slices are counted through {self._volumes} volumes ({', '.join(names)}), one after another."
        if self._geometry is None:
            yield "The place of the slices in the patient is not known."
        if self._whitening[1]:
            yield self._whitening[1]
