"""K-space: Fourier transforms, sampling masks, partitions of the acquired samples, the physics of an acquisition.

A mask is drawn by the name of its law, and a measurement knows the operators of its acquisition:

>>> import torch
>>> from sansref.kspace import Measurement, draw_mask, fft2c
>>> generator = torch.Generator().manual_seed(0)
>>> mask = draw_mask("variable_density", (32, 32), 4.0, generator)
>>> int(mask.array.sum()), mask.array.numel()
(256, 1024)
>>> image = torch.randn(1, 32, 32, dtype=torch.complex64, generator=generator)
>>> given = Measurement((fft2c(image) * mask.array)[:, None], mask.array[None])
>>> zero_filled = given.physics.adjoint(given.kspace)
>>> zero_filled.shape
torch.Size([1, 32, 32])
>>> torch.allclose(given.physics.forward(zero_filled), given.kspace, atol=1e-5)
True

A partition says which of the acquired samples the network is given, and which the loss sees:

>>> from sansref.kspace import split_uniform
>>> split = split_uniform(mask.array, 0.4, generator)
>>> bool((split.input & split.target).any()), torch.equal(split.input | split.target, mask.array)
(False, True)
"""

from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import combine, rss
from sansref.kspace.fourier import fft1c, fft2c, ifft1c, ifft2c
from sansref.kspace.masks import MASK_LAWS, MaskFamily, SamplingMask, draw_mask
from sansref.kspace.measurement import Measurement
from sansref.kspace.partitions import Partition, hold_out, select_variable_density, split_gaussian, split_uniform
from sansref.kspace.physics import Physics, conjugate_gradients

__all__ = [
    "MASK_LAWS",
    "Cartesian",
    "MaskFamily",
    "Measurement",
    "Partition",
    "Physics",
    "SamplingMask",
    "combine",
    "conjugate_gradients",
    "draw_mask",
    "fft1c",
    "fft2c",
    "hold_out",
    "ifft1c",
    "ifft2c",
    "rss",
    "select_variable_density",
    "split_gaussian",
    "split_uniform",
]
