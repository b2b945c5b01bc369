"""Emulated scans: k-space from a magnitude image with smooth phase, coils and noise, and undersampling by software.

A real, noiseless image undersampled and reconstructed by the same transform flatters every method:
half of its k-space is known from the other half, and nothing limits the fit. Phase and noise take
both advantages away. What remains is synthetic all the same: a magnitude image has been filtered by
its scanner (Shimron et al., PNAS 2022), so the scans are marked as such.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sansref.data.provenance import fingerprint
from sansref.errors import SansrefError, SettingError, SizeError, did_you_mean, printable
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.fourier import fft2c
from sansref.kspace.grid import acquired_columns, is_full
from sansref.kspace.masks import MASK_LAWS, SamplingMask, draw_mask
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.masks.file import read_mask
from sansref.kspace.masks.mask import check_request
from sansref.kspace.noise import white_noise
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

FOREGROUND = 0.1
"""Pixels above this fraction of the maximum are the object whose mean signal enters the SNR."""

MOST_COILS = 256
"""Coils of a simulation; twice as many as the largest arrays have."""

PHASE_CYCLES = 1.0
"""Standard deviation of the phase's spectrum, in cycles per field of view."""


@dataclass(frozen=True)
class Simulation:
    """How k-space is simulated from a magnitude image.

    Raises ``SettingError`` if the phase is negative, the SNR not positive, or there is no coil.

    Parameters
    ----------
    phase
        Root mean square, in radians, of the smooth random phase over the field of view; 0 keeps the image real.
    snr
        Signal-to-noise ratio of the fully sampled image: mean signal of the object (pixels above 10 %
        of the maximum) over the standard deviation of the noise in the real, and in the imaginary, part.
        None adds no noise.
    coils
        Number of receive coils; more than 1 gets simulated birdcage sensitivity maps.
    normalise
        "minmax" first stretches each slice to [0, 1], as Hu et al. (MICCAI 2021) emulate their data.
    noise_scan
        The scans know how strong their noise is, as files do that come with a scan of noise; otherwise it is estimated.
    """

    phase: float = 1.0
    snr: float | None = 30.0
    coils: int = 1
    normalise: Literal["none", "minmax"] = "none"
    noise_scan: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.phase < math.inf:
            raise SettingError(f"phase is {self.phase}: give radians of at least 0")
        if self.snr is not None and not 0 < self.snr < math.inf:
            raise SettingError(f"snr is {self.snr}: give a positive number, or null for no noise")
        if not 1 <= self.coils <= MOST_COILS:
            raise SettingError(f"coils is {self.coils}: give at least 1 and at most {MOST_COILS}")
        if self.normalise not in ("none", "minmax"):
            raise SettingError(f"normalise is {self.normalise!r}: give none or minmax")


def simulate(image: Tensor, options: Simulation, generator: torch.Generator, meta: ScanMeta) -> Scan:
    """A fully sampled scan of a magnitude image.

    The k-space is ``fft2c(maps * image * exp(i phase)) + noise``. The unitary transform leaves white noise as it is, so
    the noise has the same standard deviation in k-space and in every coil's image, and, as the maps are normalised, in
    the combined image. Raises ``ValueError`` if the image is not a real (height, width), or is blank, negative or not
    finite.

    Parameters
    ----------
    image
        Real magnitude, (height, width).
    options
        Phase, noise and coils.
    generator
        The only source of randomness; the same state gives the same scan.
    meta
        Where the image comes from. The scan's copy is marked synthetic, and its scale takes in the
        width of a min-max normalisation.

    Returns
    -------
    Scan
        ``mask`` all True; ``reference`` the noiseless complex image, of magnitude ``image``; ``maps``
        the simulated sensitivities, None for one coil.
    """
    image = _checked(image)
    scale = 1.0
    if options.normalise == "minmax":
        lowest, scale = float(image.min()), float(image.max() - image.min())
        if scale == 0:
            raise ValueError("image is constant: it cannot be stretched to [0, 1]")
        image = (image - lowest) / scale

    height, width = image.shape
    phase = _smooth_phase((height, width), options.phase, generator)
    reference = torch.polar(image, phase)
    maps = birdcage_maps((height, width), options.coils, generator) if options.coils > 1 else None
    kspace = fft2c(reference.unsqueeze(0) if maps is None else maps * reference)
    if options.snr is not None:
        sigma = image[image > FOREGROUND * image.max()].mean() / options.snr
        kspace = kspace + white_noise(kspace, sigma, generator)
        if options.noise_scan:
            meta = replace(meta, noise=(float(sigma),) * options.coils)
    return Scan(
        kspace=kspace,
        mask=torch.ones(height, width, dtype=torch.bool),
        meta=replace(meta, synthetic=True, scale=meta.scale * scale),
        maps=maps,
        reference=reference,
    )


def _checked(image: Tensor) -> Tensor:
    if image.ndim != 2 or image.is_complex():
        raise ValueError(f"image must be real (height, width), got {image.dtype} {tuple(image.shape)}")
    image = image.float()
    if not bool(image.isfinite().all()):
        raise ValueError("image has NaN or infinite pixels")
    if bool((image < 0).any()):
        raise ValueError(f"image is negative (minimum {float(image.min())}): give a magnitude")
    if not bool((image > 0).any()):
        raise ValueError("image is blank")
    return image


def _smooth_phase(shape: tuple[int, int], strength: float, generator: torch.Generator) -> Tensor:
    """A Gaussian random field of a few cycles per field of view, float32, in radians, of the given RMS."""
    white = torch.randn(shape, generator=generator)
    cycles = [torch.fft.fftfreq(size, d=1 / size) for size in shape]
    low_pass = torch.exp(-(cycles[0][:, None] ** 2 + cycles[1] ** 2) / (2 * PHASE_CYCLES**2))
    field: Tensor = torch.fft.ifft2(torch.fft.fft2(white) * low_pass).real
    return strength * field / field.square().mean().sqrt()


SIDE = 256


def example_image() -> Tensor:
    """A sagittal head slice: magnitude, float32 (256, 256) in [0, 1], superior up.

    Raises ``SansrefError`` if the installed matplotlib comes without its sample data.
    """
    from matplotlib import cbook

    try:
        with gzip.open(cbook.get_sample_data("s1045.ima.gz", asfileobj=False)) as file:
            pixels = np.frombuffer(file.read(), dtype="<u2")
    except FileNotFoundError as error:
        raise SansrefError(
            "This matplotlib was installed without its sample image (sample_data/s1045.ima.gz); "
            "reinstall it with: pip install --force-reinstall matplotlib"
        ) from error
    image = torch.from_numpy(pixels.astype(np.float32)).reshape(SIDE, SIDE)
    return image / image.max()


@dataclass(frozen=True)
class Sampling:
    """The sampling of an emulated acquisition.

    Attributes
    ----------
    mask
        Sampling pattern (variable_density, uniform_random, poisson_disc, random_columns, equispaced_columns) or a mask
        file (.npy, .mat, .png).
    acceleration
        Number of grid points divided by the number of acquired samples, the center included.
    center
        Side of the fully sampled center as a fraction of the matrix; None uses the default of the pattern.
    exact
        Reach the acceleration exactly, if the pattern allows it.
    mask_seed
        Seed of the mask.
    mask_dc
        Where a mask file has its low frequencies; auto detects it.
    mask_per
        Use one mask for all scans of the same shape (dataset), or a new one for each scan (scan).
    """

    mask: str = "variable_density"
    acceleration: float = 4.0
    center: float | None = None
    exact: bool = True
    mask_seed: int = 0
    mask_dc: Literal["auto", "center", "corner"] = "auto"
    mask_per: Literal["dataset", "scan"] = "dataset"

    def __post_init__(self) -> None:
        check_request((1, 1), self.acceleration)
        if self.mask not in MASK_LAWS:
            if Path(self.mask).suffix.lower() not in (".npy", ".mat", ".png"):
                cure = f"use one of {', '.join(MASK_LAWS)}, or a file"
                raise SettingError(f"unknown mask {self.mask!r}{did_you_mean(self.mask, MASK_LAWS, cure)}")
            # A run goes on, and is used, from other folders than the one that it was started in.
            object.__setattr__(self, "mask", str(Path(self.mask).resolve()))

    @property
    def from_file(self) -> bool:
        """Whether the mask is read from a file; its acceleration is then its own."""
        return self.mask not in MASK_LAWS

    def in_words(self) -> str:
        """The pattern with its acceleration, or the name of the mask file."""
        return (
            f"mask file {printable(Path(self.mask).name)}" if self.from_file else f"{self.mask}, {self.acceleration:g}x"
        )

    def draw(self, shape: tuple[int, int], generator: torch.Generator) -> SamplingMask:
        """Draw a new mask of this law, or read the mask file again."""
        if self.mask in MASK_LAWS:
            return draw_mask(self.mask, shape, self.acceleration, generator, self.center, self.exact)
        mask = read_mask(Path(self.mask), height=shape[0], dc=self.mask_dc)
        if (size := tuple(mask.array.shape)) != shape:
            raise SizeError(
                f"{self.mask}: the mask is {size}, the scan is {shape}: train, or run zeroshot, with another"
            )
        return mask

    def family(self, emulated: bool, withheld: float = 0.0) -> MaskFamily:
        """Masks of the kind that scans have.

        Of this law if they were undersampled by it (``emulated``); otherwise, and for a mask file, each scan's
        own mask is all there is to go by. ``withheld`` as for :class:`MaskFamily`.
        """
        return MaskFamily(self.draw if emulated and self.mask in MASK_LAWS else None, self.mask_seed, withheld)

    def fixed(self, shape: tuple[int, int]) -> SamplingMask:
        """The one mask that all scans of this shape share."""
        return _fixed(self, shape, fingerprint(Path(self.mask)) if Path(self.mask).is_file() else "")

    def undersample(self, scan: Scan, generator: torch.Generator) -> Scan:
        """Keep the samples that the emulated acquisition takes; an undersampled scan stays as it is, and any at 1x."""
        if not is_full(scan.mask) or (self.acceleration == 1 and self.mask in MASK_LAWS):
            return scan
        shape = (scan.mask.shape[0], scan.mask.shape[1])
        mask = self.fixed(shape) if self.mask_per == "dataset" else self.draw(shape, generator)
        reached = acquired_columns(scan.mask)
        columns = None if reached == (0, shape[1]) else reached
        return replace(scan.restricted(mask.array), meta=replace(scan.meta, emulated=True, columns=columns))


@lru_cache(maxsize=32)
def _fixed(sampling: Sampling, shape: tuple[int, int], content: str) -> SamplingMask:
    return sampling.draw(shape, seeded(sampling.mask_seed, "mask", *shape))
