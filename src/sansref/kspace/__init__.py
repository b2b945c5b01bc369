"""K-space: Fourier transforms, sampling masks, partitions of the acquired samples, the physics of an acquisition."""

from sansref.kspace.cartesian import Cartesian
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.masks import MASK_LAWS, SamplingMask, draw_mask
from sansref.kspace.measurement import Measurement
from sansref.kspace.physics import Physics, conjugate_gradients

__all__ = [
    "MASK_LAWS",
    "Cartesian",
    "Measurement",
    "Physics",
    "SamplingMask",
    "conjugate_gradients",
    "draw_mask",
    "fft2c",
    "ifft2c",
]
