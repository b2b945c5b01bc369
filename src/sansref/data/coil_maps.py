"""Coils of measured k-space: compression, sensitivity maps and the reference, before a method sees the scan.

All of it is estimated from the fully sampled center of what a scan has acquired, after emulated undersampling: what
an accelerated scan would not have measured cannot come back through its maps. A calibration scan of its own is used
where its fully sampled center is larger. Maps that came with a scan are taken, scaled to a sum of squares of 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sansref.errors import FileError, SettingError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import compressed, compression_matrix, normalised, rss
from sansref.kspace.espirit import espirit, memory_needed
from sansref.kspace.fourier import ifft2c
from sansref.kspace.grid import central_box
from sansref.kspace.partitions import shape_of
from sansref.machine import available_memory
from sansref.scan import Scan

LARGEST = 24
"""Side of the center that is enough for maps: the default of BART's ``ecalib`` and of sigpy."""

SMALLEST = 8
"""Side of the smallest center that gives usable maps: fewer samples do not tell signal from null space."""

SMALLEST_KERNEL = 4
"""Kernels are at most a third as wide as the center, since wider ones leave too few patches; but no smaller than this,
to follow the maps."""


@dataclass(frozen=True)
class CoilOptions:
    """How k-space measured with several coils is combined.

    Attributes
    ----------
    maps
        espirit estimates sensitivity maps from the fully sampled center of each slice that comes without maps; none
        estimates no maps, which works only with --coils.virtual 1.
    calibration
        Side, in samples, of the center from which maps and virtual coils are estimated; null uses the largest fully
        sampled center, up to 24. Its samples are never held out, even if maps came with the scan: they may have been
        estimated from the same samples.
    kernel
        Width of ESPIRiT's kernel, at least 4. It is limited to a third of the side of the center, but not below 4.
    threshold
        Singular values of the calibration matrix below this share of the largest are noise.
    crop
        Maps are zero where ESPIRiT's eigenvalue is below this; 0 leaves maps over the whole field of view.
    virtual
        Compress to this many coils if there are more; null keeps all.
    map_sets
        Number of sets of maps. Use 2 if the field of view is smaller than the body, so that two places fold onto one
        pixel; the image is then the root sum of squares of both components.
    reference
        Reference of a fully sampled scan: combined combines the coils by the maps; rss takes their root sum of squares,
        which fastMRI scores against, with the phase of the combined image.
    """

    maps: Literal["espirit", "none"] = "espirit"
    calibration: int | None = None
    kernel: int = 6
    threshold: float = 0.02
    crop: float = 0.8
    virtual: int | None = None
    map_sets: int = 1
    reference: Literal["combined", "rss"] = "combined"

    def of_reference(self, stored: int, kept: int) -> int:
        """Coils that a reference is made of: by rss all that the file has, also where fewer, virtual ones are kept."""
        return stored if self.reference == "rss" else kept

    def __post_init__(self) -> None:
        if self.kernel < SMALLEST_KERNEL:
            raise SettingError(f"coils.kernel must be at least {SMALLEST_KERNEL}, got {self.kernel}")
        if self.calibration is not None and self.calibration < SMALLEST:
            raise SettingError(f"calibration must be at least {SMALLEST}, got {self.calibration}")
        for name, value in (("coils.threshold", self.threshold), ("coils.crop", self.crop)):
            if not 0 <= value < 1:
                raise SettingError(f"{name} must lie in [0, 1), got {value}")
        if self.map_sets not in (1, 2):
            raise SettingError(f"map_sets must be 1 or 2, got {self.map_sets}")
        if self.virtual is not None and self.virtual < 1:
            raise SettingError(f"coils.virtual must be at least 1, got {self.virtual}")


def with_coils(scan: Scan, full: Scan | None, options: CoilOptions) -> Scan:
    """A scan with fewer coils, with maps, and with a reference, as far as it lacks them.

    Parameters
    ----------
    scan
        As it was acquired, or undersampled in emulation. With one coil it needs no maps. Maps that came with it are
        kept, and compressed as its coils are; a simulated scan, whose maps are the truth, stays as it is.
    full
        The fully sampled scan that ``scan`` was taken from; None where there is none. Nothing but the reference is
        made of it.
    options
        How.

    Returns
    -------
    Scan
        ``maps`` have sum over coils |map|^2 = 1 where there is signal, and are 0 elsewhere.

    Raises
    ------
    FileError
        If the fully sampled center is too small, or shows no coil sensitivity.
    """
    whole = None if full is None else full.kspace
    complete = scan.maps is not None and scan.reference is not None  # it was simulated
    if len(scan.kspace) > 1 and not complete:
        guide = _guide(scan, options)
        matrix = _compression(guide, options)
        estimated = guide is scan and (matrix is not None or options.maps == "espirit")
        # Whoever made the maps that came with the scan may have made them of its center.
        if estimated or scan.maps is not None:
            scan = replace(scan, meta=replace(scan.meta, calibration=_side_used(scan, options)))
        if matrix is not None:
            scan, guide = _compressed(scan, matrix), _compressed(guide, matrix)
            whole = None if whole is None else compressed(whole, matrix)
        if len(scan.kspace) > 1 and scan.maps is None and options.maps == "espirit":
            scan = replace(scan, maps=espirit_maps(guide, options))
    if scan.calibration is not None:
        scan = replace(scan, calibration=None)
    if full is None or whole is None or scan.reference is not None:
        return scan
    return replace(scan, reference=_reference(whole, scan.maps, full, options))


def _guide(scan: Scan, options: CoilOptions) -> Scan:
    """What tells what the coils see: the scan itself, or its calibration scan where that has the larger center."""
    if scan.calibration is None:
        return scan
    apart = replace(
        scan, kspace=scan.calibration, mask=(scan.calibration != 0).any(0), reference=None, calibration=None
    )
    return max(scan, apart, key=lambda each: _side_used(each, options))


def _compressed(scan: Scan, matrix: Tensor) -> Scan:
    """Virtual coils of a scan, which see through the maps of its coils as these do; one of them needs no map."""
    maps = None if scan.maps is None or len(matrix) == 1 else normalised(compressed(scan.maps, matrix))
    meta = scan.meta
    if meta.noise is not None:
        variance = matrix.abs().square() @ scan.noise_level.flatten().square()
        meta = replace(meta, noise=tuple(variance.sqrt().tolist()))
    return replace(scan, kspace=compressed(scan.kspace, matrix), maps=maps, calibration=None, meta=meta)


def calibration_side(mask: Tensor, most: int = LARGEST) -> int:
    """Side, at most ``most``, of the largest fully sampled :func:`central_box` of a mask (height, width)."""
    shape, side = shape_of(mask), 0
    while side < min(most, *shape) and bool(mask[central_box(shape, (side + 1, side + 1))].all()):
        side += 1
    return side


def _side_used(scan: Scan, options: CoilOptions) -> int:
    return calibration_side(scan.mask, options.calibration or LARGEST)


def calibration_of(scan: Scan, options: CoilOptions) -> Tensor:
    """The fully sampled center of a scan, complex64 (coils, side, side).

    Raises
    ------
    FileError
        If it is too small.
    """
    found = _side_used(scan, options)
    needed = options.calibration or SMALLEST
    if found < needed:
        # Of these options, the commands that use a run have --maps alone.
        cure = "Acquire more of the center, or give --maps"
        if found >= SMALLEST:
            cure = "Give --maps, or train, or run zeroshot, with a lower --calibration"
        elif scan.meta.emulated:
            cure = "Give --maps, or train, or run zeroshot, with a larger --center of the mask"
        raise FileError(
            scan.meta.source,
            f"has a fully sampled center of {found} x {found}, too small for coil maps: {needed} x {needed} are needed",
            cure,
        )
    rows, columns = central_box(shape_of(scan.mask), (found, found))
    return scan.kspace[:, rows, columns]


def espirit_maps(scan: Scan, options: CoilOptions) -> Tensor:
    """Coil sensitivity maps by ESPIRiT (:func:`~sansref.kspace.espirit.espirit`).

    Parameters
    ----------
    scan
        With several coils.
    options
        Settings of ESPIRiT.

    Returns
    -------
    Tensor
        complex64 (coils, sets * height, width). Their phase is relative to the principal component of the coils, which
        sees all of the object, so that the combined image has no holes in its phase; BART does the same.

    Raises
    ------
    FileError
        If the fully sampled center is too small or shows no coil sensitivity, or memory does not suffice.
    """
    center = calibration_of(scan, options)
    kernel = max(SMALLEST_KERNEL, min(options.kernel, center.shape[-1] // 3))
    height, width = scan.kspace.shape[1:]
    _check_memory(scan, memory_needed(len(center), center.shape[-1], (height, width), kernel))
    maps, eigenvalues = espirit(center, (height, width), kernel, options.threshold, options.map_sets)
    maps *= eigenvalues > options.crop
    if not maps.any():
        raise FileError(
            scan.meta.source,
            f"shows no coil sensitivity in slice {scan.meta.slice}",
            "Train, or run zeroshot, with a lower --coils.crop",
        )
    principal = compressed(maps, compression_matrix(center, 1))
    return maps * torch.where(principal == 0, 1, principal.sgn().conj())


def _check_memory(scan: Scan, needed: int) -> None:
    """Refuse a scan whose maps take more memory than there is."""
    coils, there = len(scan.kspace), available_memory()
    if there is not None and needed > there:
        raise FileError(
            scan.meta.source,
            f"has {coils} coils, whose maps take {needed / 2**30:.1f} GiB of memory; {there / 2**30:.1f} GiB are free",
            f"Train, or run zeroshot, with fewer --coils.virtual, such as {min(12, coils - 1)}",
        )


def _compression(scan: Scan, options: CoilOptions) -> Tensor | None:
    wanted = options.virtual
    if wanted is None or wanted >= len(scan.kspace):
        return None
    return compression_matrix(calibration_of(scan, options), wanted)


def _reference(whole: Tensor, maps: Tensor | None, full: Scan, options: CoilOptions) -> Tensor | None:
    """The reference of fully sampled k-space ``whole`` (coils, height, width) in the coils of ``maps``."""
    if maps is None and len(whole) > 1:
        return None
    physics = Cartesian(full.mask, maps)
    combined = physics.adjoint(whole)
    if options.reference == "combined":
        return combined
    # All coils as they were measured: what is scored against must not depend on their compression.
    measured = rss(ifft2c(full.kspace))
    return torch.polar(torch.cat([measured, *[torch.zeros_like(measured)] * (physics.sets - 1)], -2), combined.angle())
