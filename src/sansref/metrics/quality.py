"""Image quality against a fully sampled reference: PSNR, SSIM and NMSE.

Every function takes real magnitude images and works in float64: the variances of SSIM are small
differences of large sums, and in float32 their rounding error shows once the data range is small
against the signal. There is one value per slice, and each score can be restricted to a mask, such as
:func:`sansref.metrics.quality.body_mask`.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

PLANE = (-2, -1)

K1, K2 = 0.01, 0.03
"""The constants of Wang et al., IEEE TIP 13(4), 2004."""

GAUSSIAN_SIGMA, GAUSSIAN_RADIUS = 1.5, 5
"""The 11x11 window of the same paper."""

WINDOW = 7
"""Side of the uniform window."""


def psnr(image: Tensor, reference: Tensor, data_range: float | Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each slice, in dB.

    Parameters
    ----------
    image, reference
        Real, (..., height, width).
    data_range
        The peak, positive; a tensor is broadcast over the leading axes.
    mask
        Where the squared error is averaged, bool (..., height, width); None is everywhere.

    Returns
    -------
    Tensor
        float64 (...), infinite where the images are equal, NaN where the mask is empty.

    Raises
    ------
    ValueError
        If an image is complex, the shapes differ or the range is not positive.
    """
    check(image, reference, mask)
    peak = peak_of(data_range, image)
    pixels = math.prod(image.shape[-2:]) if mask is None else mask.sum(PLANE)
    error = _squared_error(image, reference, mask) / pixels
    return 10 * torch.log10(peak.square() / error)


def nmse(image: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared error over the squared norm of the reference, of each slice.

    Parameters
    ----------
    image, reference
        Real, (..., height, width).
    mask
        Where both are summed, bool (..., height, width); None is everywhere.

    Returns
    -------
    Tensor
        float64 (...).

    Raises
    ------
    ValueError
        If an image is complex, the shapes differ or a slice of the reference is blank.
    """
    check(image, reference, mask)
    shown = reference if mask is None else reference * mask
    energy = shown.double().square().sum(PLANE)
    if bool((energy == 0).any()):
        raise ValueError("reference has a blank slice: the normalised error is not defined")
    return _squared_error(image, reference, mask) / energy


def ssim(
    image: Tensor,
    reference: Tensor,
    data_range: float | Tensor,
    window: int | Literal["gaussian"] = WINDOW,
    mask: Tensor | None = None,
) -> Tensor:
    """Structural similarity of each slice (Wang et al., IEEE TIP 13(4), 2004).

    The mean is taken over the windows that lie wholly inside the image.

    Parameters
    ----------
    image, reference
        Real, (..., height, width).
    data_range
        The range L in the constants (0.01 L)^2 and (0.03 L)^2, positive; a tensor is broadcast over
        the leading axes.
    window
        Odd side of a uniform window with the sample covariance (7: scikit-image's defaults), or
        "gaussian": 11x11, sigma 1.5, with the population covariance (Wang et al.).
    mask
        Centers of the windows that the mean is taken over, bool (..., height, width); None is all.

    Returns
    -------
    Tensor
        float64 (...), NaN where the mask has no center of a window.

    Raises
    ------
    ValueError
        If an image is complex or smaller than the window, the shapes differ, the range is not
        positive or the window is not an odd number of at least 3.
    """
    check(image, reference, mask)
    peak = peak_of(data_range, image)
    weights = _window_weights(window)
    plane = image.shape[-2:]
    if min(plane) < len(weights):
        raise ValueError(f"image {tuple(plane)} is smaller than the window of {len(weights)}")
    samples = len(weights) ** 2
    covariance_factor = 1.0 if window == "gaussian" else samples / (samples - 1)
    slices = zip(image.reshape(-1, *plane), reference.reshape(-1, *plane), peak.flatten(), strict=True)
    # One slice at a time: the window's sums then stay in the processor's cache, twice as fast as the whole stack.
    maps = (_ssim_map(x.double(), y.double(), level, weights, covariance_factor) for x, y, level in slices)
    if mask is None:
        return torch.stack([one.mean() for one in maps]).reshape(peak.shape)
    edge = len(weights) // 2
    centers = mask.reshape(-1, *plane)[:, edge : plane[0] - edge, edge : plane[1] - edge]
    return torch.stack([one[kept].mean() for one, kept in zip(maps, centers, strict=True)]).reshape(peak.shape)


def best_scale(image: Tensor, reference: Tensor) -> Tensor:
    """The real factor of each slice that brings ``image`` closest to ``reference`` in least squares.

    Parameters
    ----------
    image, reference
        Real, (..., height, width).

    Returns
    -------
    Tensor
        float64 (...): <image, reference> / <image, image>, and 0 for a blank image.

    Raises
    ------
    ValueError
        If an image is complex or the shapes differ.
    """
    check(image, reference)
    energy = image.double().square().sum(PLANE)
    return (image.double() * reference.double()).sum(PLANE) / energy.where(energy > 0, 1.0)


def _squared_error(image: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
    """Sum over each slice, float64, of the squared differences; only the differences are rounded to float32."""
    if mask is not None:
        image, reference = image * mask, reference * mask
    kind = torch.promote_types(image.dtype, reference.dtype)
    kind = torch.promote_types(kind, torch.float32) if kind.is_floating_point else torch.float64
    plane = image.shape[-2:]
    pairs = zip(image.to(kind).reshape(-1, *plane), reference.to(kind).reshape(-1, *plane), strict=True)
    # One slice at a time, which stays in the processor's cache.
    differences = ((x - y).flatten().double() for x, y in pairs)
    return torch.stack([torch.dot(one, one) for one in differences]).reshape(image.shape[:-2])


def check(image: Tensor, reference: Tensor, mask: Tensor | None = None, may_be_empty: bool = False) -> None:
    """Refuse, with a ValueError, what no score is defined of."""
    for name, tensor in (("image", image), ("reference", reference)):
        if tensor.is_complex():
            raise ValueError(f"{name} is complex: take its magnitude first")
    if image.shape != reference.shape:
        raise ValueError(f"image {tuple(image.shape)} and reference {tuple(reference.shape)} differ in shape")
    if image.ndim < 2 or (image.numel() == 0 and not may_be_empty):
        raise ValueError(f"image must be (..., height, width) and not empty, got {tuple(image.shape)}")
    if mask is not None and (mask.shape != image.shape or mask.dtype != torch.bool):
        raise ValueError(f"mask must be bool {tuple(image.shape)}, got {mask.dtype} {tuple(mask.shape)}")


def peak_of(data_range: float | Tensor, image: Tensor) -> Tensor:
    """The range of every slice, float64, in the shape of the leading axes; ValueError if one is not positive."""
    peak = torch.as_tensor(data_range, dtype=torch.float64, device=image.device)
    if not bool((peak > 0).all()):
        raise ValueError(f"data_range must be positive, got {data_range}")
    return peak.broadcast_to(image.shape[:-2])


def _window_weights(window: int | Literal["gaussian"]) -> list[float]:
    """Weights of the separable window along one axis, with sum 1."""
    if window == "gaussian":
        offsets = range(-GAUSSIAN_RADIUS, GAUSSIAN_RADIUS + 1)
        weights = [math.exp(-0.5 * (offset / GAUSSIAN_SIGMA) ** 2) for offset in offsets]
        return [weight / sum(weights) for weight in weights]
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window must be an odd number of at least 3, got {window}")
    return [1 / window] * window


def _ssim_map(x: Tensor, y: Tensor, peak: Tensor, weights: list[float], covariance_factor: float) -> Tensor:
    """SSIM of one slice, float64 (height, width), under every window that lies wholly inside it."""
    mean_x, mean_y = _window_mean(x, weights), _window_mean(y, weights)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = covariance_factor * (_window_mean(x * y, weights) - product)
    # Only the sum of the two variances enters SSIM, so one window sum gives both.
    variances = covariance_factor * (_window_mean(x.square() + y.square(), weights) - squares)
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _window_mean(image: Tensor, weights: list[float]) -> Tensor:
    """Weighted mean under the window wherever it lies inside (height, width): shifted slices, one axis at a time."""
    for axis in PLANE:
        inside = image.shape[axis] - len(weights) + 1
        total = image.narrow(axis, 0, inside) * weights[0]
        for shift, weight in enumerate(weights[1:], start=1):
            total.add_(image.narrow(axis, shift, inside), alpha=weight)
        image = total
    return image


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
    from scipy import ndimage  # which takes long to be imported, and scores of whole images do without

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
