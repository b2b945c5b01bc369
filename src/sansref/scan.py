"""The one record that flows through the house: a 2-D slice as it was acquired."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sansref.errors import FileError
from sansref.kspace.grid import center_crop
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import estimate_noise, received


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the slices of a file lie in its source array and in the patient.

    Attributes
    ----------
    affine
        Rows of the 4x4 voxel-to-millimetre matrix (NIfTI convention, RAS+) of the source array.
    slice_axis
        The axis of the source array (0, 1 or 2) along which the slices were cut; rows and columns of
        a slice are the other two axes in increasing order.
    stack
        Number of slices of a volume where the file holds several (echoes, repetitions): slice ``index`` lies where
        slice ``index % stack`` does. None where all slices are of one volume.
    known
        False where the source does not say where it lies, and place and directions are made up.
    space
        What the affine leads to, by its number in NIfTI: 1 the scanner's coordinates, 2 those of another scan, 3 and
        above those of an atlas.
    thickness
        Thickness of a slice in millimetres. None where the source does not say: the distance of slices then stands
        for it.
    """

    affine: tuple[tuple[float, float, float, float], ...]
    slice_axis: int
    stack: int | None = None
    known: bool = True
    space: int = 1
    thickness: float | None = None


@dataclass(frozen=True, slots=True)
class ScanMeta:
    """Where a scan comes from.

    Attributes
    ----------
    subject
        The person (or object) scanned; splits never separate one subject's slices.
    source
        The file's path, as given.
    slice
        Index of the slice in the file, from 0.
    spacing
        Row and column spacing in millimetres, None where the file does not say.
    scale
        The k-space was divided by this; multiply an image by it to return to the file's units.
    synthetic
        True where the k-space was computed from a magnitude image rather than measured.
    emulated
        True where the scan was undersampled here, by a law that is known, rather than by the scanner.
    columns
        First and one past the last column of k-space that a zero-padded full scan reached, before it was undersampled
        here; None where it reached them all, or where nobody knows.
    calibration
        Side of the square around DC that its coil maps or virtual coils were estimated from; 0 where there are none,
        or where they come from a calibration scan of its own.
    crop
        Height and width of the central part of the image that is scored and exported, None for all.
    geometry
        Placement in the source volume, None where the format has none.
    noise
        Standard deviation of the noise in the real, and of the imaginary, part in each coil, in the units of the
        k-space: as the user gave it, as the file's noise scan tells it, or one for all slices of the file. None where
        each slice is to tell its own.
    """

    subject: str
    source: str
    slice: int = 0
    spacing: tuple[float, float] | None = None
    scale: float = 1.0
    synthetic: bool = False
    emulated: bool = False
    columns: tuple[int, int] | None = None
    calibration: int = 0
    crop: tuple[int, int] | None = None
    geometry: Geometry | None = None
    noise: tuple[float, ...] | None = None

    def cropped(self, image: Tensor) -> Tensor:
        """The part of an image (..., height, width) that is scored and exported."""
        return image if self.crop is None else center_crop(image, self.crop)


def _fit(maps: Tensor, kspace: Tensor) -> bool:
    """Whether maps have the shape of k-space (coils, height, width), or several sets of them do, below one another."""
    coils, height, width = kspace.shape
    return maps.ndim == 3 and (len(maps), maps.shape[2]) == (coils, width) and maps.shape[1] % height == 0


@dataclass(frozen=True, slots=True)
class Scan:
    """One 2-D slice as it was acquired.

    Attributes
    ----------
    kspace
        complex64 (coils, height, width), centered orthonormal Fourier convention, zero where not acquired.
    mask
        bool (height, width), DC-centered, True where acquired.
    maps
        Coil sensitivity maps, complex64 (coils, height, width), or None for a single coil. Several sets of maps lie
        below one another, (coils, sets * height, width), and so do the components of images and of the reference.
    reference
        The fully sampled image, complex64 (height, width), or None. Never read by the training or the
        model selection of a self-supervised method.
    calibration
        K-space of a calibration scan of its own, which coil maps may be estimated from, complex64 (coils, height,
        width): of the same field of view, zero where not acquired. None where there is none. It is used up by
        :func:`sansref.data.coil_maps.with_coils`.
    meta
        Where the scan comes from.
    """

    kspace: Tensor
    mask: Tensor
    meta: ScanMeta
    maps: Tensor | None = None
    reference: Tensor | None = None
    calibration: Tensor | None = None

    def __post_init__(self) -> None:
        if self.kspace.ndim != 3 or self.kspace.dtype != torch.complex64:
            raise ValueError(
                f"kspace must be complex64 (coils, height, width), got {self.kspace.dtype} {tuple(self.kspace.shape)}"
            )
        plane = self.kspace.shape[-2:]
        if self.mask.shape != plane or self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool {tuple(plane)}, got {self.mask.dtype} {tuple(self.mask.shape)}")
        if self.maps is not None and not _fit(self.maps, self.kspace):
            raise ValueError(f"maps {tuple(self.maps.shape)} must have the shape of kspace {tuple(self.kspace.shape)}")
        if self.calibration is not None and self.calibration.shape != self.kspace.shape:
            found = f"calibration {tuple(self.calibration.shape)}"
            raise ValueError(f"{found} must have the shape of kspace {tuple(self.kspace.shape)}")
        shown = (self.sets * plane[0], plane[1])
        if self.reference is not None and self.reference.shape != shown:
            raise ValueError(f"reference must be {shown}, got {tuple(self.reference.shape)}")

    @property
    def sets(self) -> int:
        """Number of sets of maps, and of components of the image, see :func:`sansref.kspace.coils.unstacked`."""
        return 1 if self.maps is None else self.maps.shape[-2] // self.mask.shape[-2]

    @property
    def acceleration(self) -> float:
        """All samples of the grid over the acquired ones."""
        return self.mask.numel() / max(int(self.mask.sum()), 1)

    @property
    def measurement(self) -> Measurement:
        """What a network is given of the scan, without a batch axis.

        Raises
        ------
        FileError
            For several coils without sensitivity maps.
        """
        self.require_maps()
        noise = None if self.meta.noise is None else self.noise_level
        return Measurement(self.kspace, self.mask, self.maps, noise=noise)

    @property
    def noise_level(self) -> Tensor:
        """Standard deviation of the noise in each coil, real (coils, 1, 1): as it is known, or found in the samples.

        That of a coil that received nothing is 0.
        """
        if self.meta.noise is None:
            return estimate_noise(self.kspace, self.mask).level
        return (torch.tensor(self.meta.noise) * received(self.kspace))[:, None, None]

    def batch(self) -> Measurement:
        """The measurement as a batch of one."""
        return Measurement.stacked([self.measurement])

    def require_maps(self) -> None:
        """Refuse several coils without sensitivity maps, which no method can combine.

        Raises
        ------
        FileError
            Naming the scan's source.
        """
        coils = self.kspace.shape[0]
        if coils > 1 and self.maps is None:
            problem = f"has {coils} coils and no sensitivity maps"
            raise FileError(self.meta.source, problem, "Train with --coils.maps espirit, or with --coils.virtual 1")

    def without_reference(self) -> Scan:
        """The scan as a site without full references has it."""
        return replace(self, reference=None)

    def restricted(self, mask: Tensor) -> Scan:
        """Keep only the acquired samples under ``mask``, bool (height, width)."""
        kept = self.mask & mask
        # Not a product: that would leave the signs of the dropped samples in negative zeros.
        return replace(self, kspace=self.kspace.masked_fill(~kept, 0), mask=kept)
