"""Error maps of a file beside its images: written in the formats of the images, and told in words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from math import ceil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sansref.commands.output_files import MAPS_RECORD, Outputs, check_finite
from sansref.data.placement import in_plane_axes, is_placing
from sansref.files import write_text
from sansref.kspace.masks.family import MaskFamily
from sansref.metrics.contradiction import FALSE_ALARMS, SEEN, THRESHOLD, Region
from sansref.metrics.error_bound import Estimated, mean_of
from sansref.metrics.error_maps import ErrorMapOptions, error_maps
from sansref.metrics.held_out import Reconstruct
from sansref.outputs.overlay import OVERLAYS
from sansref.outputs.writers import PutSlice
from sansref.results.scorer import magnitude
from sansref.scan import Scan, ScanMeta

VAGUE = 12.0
"""Width in dB of an interval of the PSNR that tells nothing."""

LISTED = 10
"""Contradictions that are told, at most; the record holds all."""


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
    """

    def __init__(self, outputs: Outputs, options: ErrorMapOptions) -> None:
        self.outputs, self.options = outputs, options
        meanings = {
            "error_bound": f"Error bound, not an image: {options.bound:.0%} of the errors of magnitudes stay below it.",
            "contradiction": "Contradiction map, not an image: standard deviations by which acquired samples that were "
            "held out want more signal (above 0) or less (below 0).",
        }
        self._maps = [outputs.of_map(name, meanings[name]) for name in meanings]
        self._found: list[tuple[ScanMeta, Estimated, tuple[Region, ...]]] = []

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

        The first two are in the file's units. ``reconstruct`` gives images on the CPU, and ``family`` the masks of
        scans that were, or were not, undersampled here; ``unseen`` the samples of a scan that the method has not
        learned from. Raises ``FileError`` if a scan has too few samples, or is reconstructed to numbers that are not
        finite.
        """
        for scan in scans:
            found = error_maps(reconstruct, scan, family(scan.meta.emulated), self.options, unseen(scan))
            image, scale = magnitude(found.image, scan), scan.meta.scale
            stack = torch.stack([image * scale, found.bound * scale, found.contradiction])
            check_finite(stack, scan)
            self._found.append((scan.meta, found.psnr, found.regions))
            yield stack, scan.meta

    def write(self, slices: Iterable[tuple[Tensor, ScanMeta]]) -> bool:
        """Write slices as they come; tells whether any of them was undersampled here."""
        puts: list[list[PutSlice]] = []
        emulated = False
        with ExitStack() as opened:
            for (image, *maps), meta in slices:
                shown = [image, *(torch.stack([image, one]) for one in maps)]
                if not puts:
                    every = zip((self.outputs, *self._maps), shown, strict=True)
                    puts = [outputs.open(opened, what, meta) for outputs, what in every]
                for what, writers in zip(shown, puts, strict=True):
                    for put in writers:
                        put(meta.slice, what)
                emulated |= meta.emulated
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
        if not self._found:
            return
        mean = mean_of([psnr for _, psnr, _ in self._found])
        if mean.high - mean.low > VAGUE:
            yield f"PSNR: cannot be told without a reference here (between {mean.low:.0f} and {mean.high:.0f} dB)"
        else:
            yield f"PSNR estimated {mean}, without a reference; mean over slices"
        regions = [(meta, one) for meta, _, found in self._found for one in found]
        regions.sort(key=lambda one: -abs(one[1].z))
        for meta, one in regions[:LISTED]:
            yield f"slice {meta.slice}, {place(one, meta)}: {one.meaning} ({one.pixels} pixels, z {one.z:.1f})"
        if len(regions) > LISTED:
            yield f"{len(regions) - LISTED} more contradictions are listed in {self._record.name}"
        if regions:
            yield f"look there before you believe it: {FALSE_ALARMS}"
        else:
            yield f"no contradiction of {THRESHOLD:g} standard deviations or more"
        yield SEEN


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
