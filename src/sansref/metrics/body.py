"""The body in an image: where scores inside it are taken, so that air does not decide them."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

SMOOTHING = 1.5
"""Standard deviation in pixels of the Gaussian that quiets noise."""

SHARE = 0.25
"""How far above the level of air, of the way to the level of the body, a pixel counts as body."""

GAP = 3
"""Pixels from either side of a gap that is closed."""

SMALLEST = 0.1
"""Share of the largest piece that another one needs to belong to the body, such as the second leg."""

_MOST_STEPS = 50


def body_mask(reference: Tensor) -> Tensor:
    """Where the body is, by the reference alone.

    The threshold on the smoothed image settles where it lies a quarter of the way from the median of all that is below
    it, air, to the mean of what is above it (after Ridler and Calvard, IEEE Trans SMC 8:630, 1978, whose threshold lies
    halfway). So it rises with the noise in the air, and more air around the body does not move it. Holes are filled and
    small pieces left out.

    Parameters
    ----------
    reference
        Magnitude, real (height, width).

    Returns
    -------
    Tensor
        bool (height, width), never empty: all of an image in which nothing stands out.

    Raises
    ------
    ValueError
        If the image is complex or has another number of axes.
    """
    if reference.is_complex() or reference.ndim != 2:
        raise ValueError(f"reference must be real (height, width), got {reference.dtype} {tuple(reference.shape)}")
    image = reference.detach().cpu().double().numpy()
    smooth = ndimage.gaussian_filter(image, SMOOTHING, mode="constant")
    threshold, before = float((smooth**2).sum() / max(smooth.sum(), np.finfo(float).tiny)) / 2, -1.0
    for _ in range(_MOST_STEPS):
        above = smooth > threshold
        if threshold == before or not above.any():
            break
        air = float(np.median(smooth[~above])) if not above.all() else 0.0
        before, threshold = threshold, air + SHARE * (float(smooth[above].mean()) - air)
    # Gaps in a thin rim, such as skin over dark bone, would let the air in.
    closed = ndimage.binary_closing(np.pad(smooth > threshold, GAP), iterations=GAP)[GAP:-GAP, GAP:-GAP]
    filled = ndimage.binary_fill_holes(closed)
    pieces, _ = ndimage.label(filled)
    sizes = np.bincount(pieces.ravel())[1:]
    if not sizes.size:
        return torch.ones_like(reference, dtype=torch.bool)
    kept = 1 + np.flatnonzero(sizes >= SMALLEST * sizes.max())
    return torch.from_numpy(np.isin(pieces, kept)).to(reference.device)
