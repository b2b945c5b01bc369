"""Denoising without learning: each pixel is the mean of those with alike surroundings (Buades et al., CVPR 2005)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.coils import unstacked
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import noise_in_image, noise_of

STRENGTH = 0.6
"""Of the filter, over the standard deviation of the image's noise."""

PATCH, REACH = 5, 8
"""Side of the surroundings, and how far off others are looked for, in pixels."""


def non_local_means(given: Measurement) -> Tensor:
    """Denoise zero-filled images (batch, height, width), real and imaginary part together; meant for full scans.

    What was not acquired is not predicted. The noise is taken for white, with the variance that it has in the image.

    Parameters
    ----------
    given
        Samples of scans, whose noise is known or can be found.

    Raises
    ------
    SettingError
        Without scikit-image.
    """
    restoration = _restoration()
    zero_filled = given.physics.adjoint(given.kspace)
    # Parseval.
    variance = noise_in_image(noise_of(given).square().mean((-2, -1), keepdim=True), given.maps)
    # Images of two sets of maps lie below one another, and have no common edge.
    parts = unstacked(zero_filled, given.mask.shape[-2])
    levels = variance.sqrt().repeat_interleave(parts.shape[1]).tolist()
    denoised = []
    for image, level in zip(torch.view_as_real(parts.flatten(0, 1)).cpu(), levels, strict=True):
        settings = {"patch_size": PATCH, "patch_distance": REACH, "h": STRENGTH * level, "sigma": level}
        alone = restoration.denoise_nl_means(image.numpy(), channel_axis=-1, **settings) if level > 0 else image.numpy()
        denoised.append(torch.from_numpy(np.ascontiguousarray(alone, np.float32)))
    return torch.view_as_complex(torch.stack(denoised)).view_as(zero_filled).to(zero_filled.device)


def _restoration() -> Any:
    try:
        from skimage import restoration
    except ImportError:
        raise SettingError("non-local means needs the package scikit-image: pip install scikit-image") from None
    return restoration
