"""K-space: Fourier transforms, sampling masks, partitions of the acquired samples, the encoding operator."""

from sansref.kspace.encoding import EncodingOperator
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.masks import MASK_LAWS, SamplingMask, draw_mask

__all__ = ["MASK_LAWS", "EncodingOperator", "SamplingMask", "draw_mask", "fft2c", "ifft2c"]
