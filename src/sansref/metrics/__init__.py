"""How good a reconstruction is, with and without a reference.

>>> import torch
>>> from sansref.metrics import nmse, psnr
>>> reference = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
>>> image = reference + 0.01
>>> print(f"{psnr(image, reference, data_range=1.0):.1f} dB")
40.0 dB
>>> bool(nmse(image, reference) < 1e-3)
True

:func:`held_out_error` needs no reference: it compares with acquired samples that the reconstruction was not given.
Neither does :func:`sure`, which tells what became of the noise of those that it was given.
"""

from sansref.metrics.held_out import held_out_error
from sansref.metrics.quality import best_scale, nmse, psnr, ssim
from sansref.metrics.sure import Sure, sure

__all__ = ["Sure", "best_scale", "held_out_error", "nmse", "psnr", "ssim", "sure"]
