"""Error maps of a file beside its images: written in the formats of the images, and told in words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sansref.commands.output_files import MAPS_RECORD, Outputs, check_finite, write_images
from sansref.data.placement import in_plane_axes, is_placing
from sansref.errors import SettingError
from sansref.files import write_text
from sansref.kspace.masks.family import MaskFamily
from sansref.methods import Method
from sansref.metrics.contradiction import FALSE_ALARMS, SEEN, THRESHOLD, UNSEEN, Region
from sansref.metrics.error_bound import Estimated, mean_of
from sansref.metrics.error_maps import ErrorMapOptions, error_maps
from sansref.metrics.held_out import Reconstruct
from sansref.outputs.overlay import OVERLAYS
from sansref.results.scorer import magnitude
from sansref.scan import Scan, ScanMeta
from sansref.training.config import RunConfig

VAGUE = 12.0
"""Width in dB of an interval of the PSNR that tells nothing."""

LISTED = 10
"""Contradictions that are told, at most; the record holds all."""


class MappedSlice(NamedTuple):
    """A slice and where it may be wrong, cropped to the part that is exported.

    Attributes
    ----------
    layers
        Magnitude, error bound and contradiction, float32 (3, height, width); the first two in the file's units.
    meta
        Where the slice comes from.
    psnr
        Estimated, in dB.
    regions
        Where the scan contradicts the image, the strongest first.
    """

    layers: Tensor
    meta: ScanMeta
    psnr: Estimated
    regions: tuple[Region, ...]


def mapped_slice(
    reconstruct: Reconstruct, scan: Scan, family: MaskFamily, options: ErrorMapOptions, unseen: Tensor | None = None
) -> MappedSlice:
    """Reconstruct a scan with its error maps, see :func:`sansref.metrics.error_maps.error_maps`.

    Images of ``reconstruct`` are on the CPU. Raises ``FileError`` if the scan has too few samples, or is reconstructed
    to numbers that are not finite.
    """
    found = error_maps(reconstruct, scan, family, options, unseen)
    image, scale = magnitude(found.image, scan), scan.meta.scale
    layers = torch.stack([image * scale, found.bound * scale, found.contradiction])
    check_finite(layers, scan)
    return MappedSlice(layers, scan.meta, found.psnr, found.regions)


def options_for(
    method: Method, config: RunConfig, options: ErrorMapOptions, cure: str = "leave out --error_map"
) -> ErrorMapOptions:
    """How error maps of a method are made; a ``SettingError`` that says why where none can be.

    Methods whose images depend on the others of a batch get one scan at a time.
    """
    why = None
    if method.relative:
        why = "it gives every image a scale of its own, which no sample can be compared with"
    elif config.coils.map_sets > 1:
        why = "with two sets of coil maps (--map_sets 2) images have two components, and the bound is derived for one"
    elif method.denoises and config.sampling.acceleration == 1:
        why = "it learned to denoise scans as they are (--acceleration 1), and predicts no sample that is held out"
    if why is not None:
        raise SettingError(f"method {config.method!r} can have no error map: {why}; {cure}")
    return options if method.independent else replace(options, batch=1)


def meanings(options: ErrorMapOptions) -> dict[str, str]:
    """What each map is, a sentence, by its name."""
    return {
        "error_bound": f"Error bound, not an image: {options.bound:.0%} of the errors of magnitudes stay below it."
        f" {UNSEEN}",
        "contradiction": "Contradiction map, not an image: standard deviations by which acquired samples that were "
        f"held out want more signal (above 0) or less (below 0). {UNSEEN}",
    }


class MappedFile:
    """Images of one file and their error maps, as they are written and told.

    Whoever has a reconstruction and the scans of a file calls :meth:`slices`, gives what it yields, with the slices
    that are blank, to :meth:`write`, and prints :meth:`notes`.

    Parameters
    ----------
    outputs
        Names and formats of the images.
    options
        How error maps are made.
    keep
        Numbers of slices that stay in memory, as ``kept``, for a page.
    """

    def __init__(self, outputs: Outputs, options: ErrorMapOptions, keep: Container[int] = ()) -> None:
        self._keep, self.kept = keep, dict[int, MappedSlice]()
        self.outputs, self.options = replace(outputs, maps=meanings(options)), options
        self._maps = [self.outputs.of_map(name) for name in self.outputs.maps]
        self._found: list[Found] = []

    @property
    def _record(self) -> Path:
        return self.outputs.out / f"{self.outputs.begin}{MAPS_RECORD}"

    @property
    def complete(self) -> bool:
        """Whether images and maps are all there."""
        return self._record.exists() and all(one.complete for one in (self.outputs, *self._maps))

    def paths(self) -> tuple[Path, ...]:
        """All files, those of the images first."""
        return (*self.outputs.paths(), *(path for one in self._maps for path in one.paths()), self._record)

    def announcement(self, reconstruct: Reconstruct, scan: Scan) -> str:
        """How long the maps of the file will take, by one batch of reconstructions of a scan like its others."""
        batch = type(scan.measurement).stacked([scan.measurement] * self.options.batch)
        start = time.perf_counter()
        reconstruct(batch)
        seconds = (time.perf_counter() - start) / self.options.batch
        each, slices = self.options.reconstructions, self.outputs.info.slices
        minutes = ceil(seconds * each * slices / 60)
        return (
            f"{self.outputs.info.path}: error maps take {each} reconstructions for each of {slices} slice(s), "
            f"about {minutes} min"
        )

    def slices(
        self,
        reconstruct: Reconstruct,
        scans: Iterable[Scan],
        family: Callable[[bool], MaskFamily],
        unseen: Callable[[Scan], Tensor | None] = lambda scan: None,
    ) -> Iterator[tuple[Tensor, ScanMeta]]:
        """Yield each slice's magnitude, error bound and contradiction, float32 (3, height, width).

        ``family`` gives the masks of scans that were, or were not, undersampled here; ``unseen`` the samples of a scan
        that the method has not learned from; for the rest see :func:`mapped_slice`.
        """
        for scan in scans:
            yield self.slice(reconstruct, scan, family(scan.meta.emulated), unseen(scan)), scan.meta

    def slice(self, reconstruct: Reconstruct, scan: Scan, family: MaskFamily, unseen: Tensor | None = None) -> Tensor:
        """One slice's layers, see :func:`mapped_slice`; what its maps tell is kept for :meth:`notes`."""
        found = mapped_slice(reconstruct, scan, family, self.options, unseen)
        self._found.append(found[1:])
        if scan.meta.slice in self._keep:
            self.kept[scan.meta.slice] = found
        return found.layers

    def write(self, slices: Iterable[tuple[Tensor, ScanMeta]]) -> bool:
        """Write slices as they come; tells whether any of them was undersampled here."""

        def shown(layers: Tensor) -> list[Tensor]:
            image, *maps = layers
            return [layers, *(torch.stack([image, one]) for one in maps)]

        emulated = write_images((self.outputs, *self._maps), ((shown(layers), meta) for layers, meta in slices))
        told = [
            {
                "slice": meta.slice,
                "psnr_estimated": asdict(psnr),
                "contradictions": [{**asdict(one), "meaning": one.meaning, "place": place(one, meta)} for one in found],
            }
            for meta, psnr, found in self._found
        ]
        legends = {name: overlay.legend for name, overlay in OVERLAYS.items()}
        record = {"bound": self.options.bound, "meaning": SEEN, "overlays": legends, "slices": told}
        write_text(self._record, json.dumps(record, indent=1))
        return emulated

    def notes(self) -> Iterator[str]:
        """What the maps tell of the file, a line each."""
        return told_of(self._found, more=f"are listed in {self._record.name}")


Found = tuple[ScanMeta, Estimated, tuple[Region, ...]]
"""What error maps tell of a slice."""


def told_of(found: Sequence[Found], listed: int = LISTED, more: str = "were found") -> Iterator[str]:
    """What the maps tell of slices, a line each, with at most so many contradictions ``listed``.

    ``more`` is said of those that are not.
    """
    if not found:
        return
    mean = mean_of([psnr for _, psnr, _ in found])
    if mean.high - mean.low > VAGUE:
        between = f"between {mean.low:.0f} and {mean.high:.0f} dB"
        yield f"PSNR: cannot be told without a reference here ({between}), and the error bound may be as far off"
    else:
        yield f"PSNR estimated {mean}, without a reference" + ("; mean over slices" if len(found) > 1 else "")
    regions = [(meta, one) for meta, _, own in found for one in own]
    regions.sort(key=lambda one: -abs(one[1].z))
    for meta, one in regions[:listed]:
        yield f"slice {meta.slice}, {place(one, meta)}: {one.meaning} ({one.pixels} pixels, z {one.z:.1f})"
    if len(regions) > listed:
        yield f"{len(regions) - listed} {'more ' if listed else ''}contradictions {more}"
    if regions:
        yield f"look there before you believe it: {FALSE_ALARMS}"
    else:
        yield f"no contradiction of {THRESHOLD:g} standard deviations or more"


def place(region: Region, meta: ScanMeta) -> str:
    """Where a region lies: in the patient where that is known, else in the slice."""
    pixel, geometry = f"row {region.row}, column {region.column}", meta.geometry
    if geometry is None or not geometry.known:
        return pixel
    affine = np.array(geometry.affine, dtype=np.float64)
    if not is_placing(affine):
        return pixel
    voxel = np.ones(4)
    rows, columns = in_plane_axes(geometry)
    voxel[[rows, columns, geometry.slice_axis]] = region.row, region.column, meta.slice % (geometry.stack or 2**31)
    directions = ("LR", "PA", "IS")
    millimetres = (affine @ voxel)[:3]
    words = (f"{ends[int(value >= 0)]} {abs(value):.0f}" for ends, value in zip(directions, millimetres, strict=True))
    return f"{pixel} ({', '.join(words)} mm)"
