"""Image quality against a fully sampled reference: PSNR, SSIM and NMSE.

Every function takes real magnitude images and works in float64: the variances of SSIM are small
differences of large sums, and in float32 their rounding error shows once the data range is small
against the signal. The slice functions give one value per slice; the ``volume_`` functions follow
fastMRI's evaluation (Zbontar et al., arXiv 1811.08839), where the peak is the maximum of the whole
reference volume. The two definitions differ by several dB on dark slices, so a number without its
definition says little.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

PLANE = (-2, -1)
VOLUME = (-3, -2, -1)

K1, K2 = 0.01, 0.03
"""The constants of Wang et al., IEEE TIP 13(4), 2004."""

GAUSSIAN_SIGMA, GAUSSIAN_RADIUS = 1.5, 5
"""The 11x11 window of the same paper."""


def psnr(image: Tensor, reference: Tensor, data_range: float | Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each slice, in dB.

    Parameters
    ----------
    image, reference
        Real, (..., height, width).
    data_range
        The peak, positive; a tensor is broadcast over the leading axes.

    Returns
    -------
    Tensor
        float64 (...), infinite where the images are equal.

    Raises
    ------
    ValueError
        If an image is complex, the shapes differ or the range is not positive.
    """
    _check(image, reference)
    peak = _peak(data_range, image)
    error = _squared_error(image, reference) / math.prod(image.shape[-2:])
    return 10 * torch.log10(peak.square() / error)


def nmse(image: Tensor, reference: Tensor) -> Tensor:
    """Squared error over the squared norm of the reference, of each slice.

    Parameters
    ----------
    image, reference
        Real, (..., height, width).

    Returns
    -------
    Tensor
        float64 (...).

    Raises
    ------
    ValueError
        If an image is complex, the shapes differ or a slice of the reference is blank.
    """
    _check(image, reference)
    energy = reference.double().square().sum(PLANE)
    if bool((energy == 0).any()):
        raise ValueError("reference has a blank slice: the normalised error is not defined")
    return _squared_error(image, reference) / energy


def ssim(image: Tensor, reference: Tensor, data_range: float | Tensor, window: int | Literal["gaussian"] = 7) -> Tensor:
    """Structural similarity of each slice (Wang et al., IEEE TIP 13(4), 2004).

    The mean is taken where the window lies wholly inside the image.

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

    Returns
    -------
    Tensor
        float64 (...).

    Raises
    ------
    ValueError
        If an image is complex or smaller than the window, the shapes differ, the range is not
        positive or the window is not an odd number of at least 3.
    """
    _check(image, reference)
    peak = _peak(data_range, image)
    weights = _window_weights(window)
    plane = image.shape[-2:]
    if min(plane) < len(weights):
        raise ValueError(f"image {tuple(plane)} is smaller than the window of {len(weights)}")
    samples = len(weights) ** 2
    covariance_factor = 1.0 if window == "gaussian" else samples / (samples - 1)
    slices = zip(image.reshape(-1, *plane), reference.reshape(-1, *plane), peak.flatten(), strict=True)
    # One slice at a time: the window's sums then stay in the processor's cache, twice as fast as the whole stack.
    values = [_slice_ssim(x.double(), y.double(), level, weights, covariance_factor) for x, y, level in slices]
    return torch.stack(values).reshape(peak.shape)


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
    _check(image, reference)
    energy = image.double().square().sum(PLANE)
    return (image.double() * reference.double()).sum(PLANE) / energy.where(energy > 0, 1.0)


def volume_psnr(volume: Tensor, reference: Tensor) -> Tensor:
    """PSNR in dB over all voxels, the peak being the reference volume's maximum (fastMRI).

    Parameters
    ----------
    volume, reference
        Real, (..., slices, height, width).

    Returns
    -------
    Tensor
        float64 (...).

    Raises
    ------
    ValueError
        As :func:`psnr`, or if there is no axis of slices.
    """
    _check_volumes(volume, reference)
    return psnr(volume.flatten(-3, -2), reference.flatten(-3, -2), reference.amax(VOLUME))


def volume_nmse(volume: Tensor, reference: Tensor) -> Tensor:
    """NMSE over all voxels of (..., slices, height, width) (fastMRI); see :func:`nmse`."""
    _check_volumes(volume, reference)
    return nmse(volume.flatten(-3, -2), reference.flatten(-3, -2))


def volume_ssim(volume: Tensor, reference: Tensor) -> Tensor:
    """SSIM (7x7 uniform window), averaged over slices, with the reference volume's maximum as range (fastMRI).

    Parameters
    ----------
    volume, reference
        Real, (..., slices, height, width).

    Returns
    -------
    Tensor
        float64 (...).

    Raises
    ------
    ValueError
        As :func:`ssim`, or if there is no axis of slices.
    """
    _check_volumes(volume, reference)
    return ssim(volume, reference, reference.amax(VOLUME).unsqueeze(-1)).mean(-1)


def _squared_error(image: Tensor, reference: Tensor) -> Tensor:
    """Sum over each slice, float64, of the squared differences; only the differences are rounded to float32."""
    kind = torch.promote_types(image.dtype, reference.dtype)
    kind = torch.promote_types(kind, torch.float32) if kind.is_floating_point else torch.float64
    plane = image.shape[-2:]
    pairs = zip(image.to(kind).reshape(-1, *plane), reference.to(kind).reshape(-1, *plane), strict=True)
    # One slice at a time, which stays in the processor's cache.
    differences = ((x - y).flatten().double() for x, y in pairs)
    return torch.stack([torch.dot(one, one) for one in differences]).reshape(image.shape[:-2])


def _check(image: Tensor, reference: Tensor) -> None:
    for name, tensor in (("image", image), ("reference", reference)):
        if tensor.is_complex():
            raise ValueError(f"{name} is complex: take its magnitude first")
    if image.shape != reference.shape:
        raise ValueError(f"image {tuple(image.shape)} and reference {tuple(reference.shape)} differ in shape")
    if image.ndim < 2 or image.numel() == 0:
        raise ValueError(f"image must be (..., height, width) and not empty, got {tuple(image.shape)}")


def _check_volumes(volume: Tensor, reference: Tensor) -> None:
    if volume.ndim < 3:
        raise ValueError(f"volume must be (..., slices, height, width), got {tuple(volume.shape)}")
    _check(volume, reference)


def _peak(data_range: float | Tensor, image: Tensor) -> Tensor:
    """The range of every slice, float64, in the shape of the leading axes."""
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


def _slice_ssim(x: Tensor, y: Tensor, peak: Tensor, weights: list[float], covariance_factor: float) -> Tensor:
    """Mean SSIM of one slice, float64 (height, width)."""
    mean_x, mean_y = _window_mean(x, weights), _window_mean(y, weights)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = covariance_factor * (_window_mean(x * y, weights) - product)
    # Only the sum of the two variances enters SSIM, so one window sum gives both.
    variances = covariance_factor * (_window_mean(x.square() + y.square(), weights) - squares)
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    return ((2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))).mean()


def _window_mean(image: Tensor, weights: list[float]) -> Tensor:
    """Weighted mean under the window wherever it lies inside (height, width): shifted slices, one axis at a time."""
    for axis in PLANE:
        inside = image.shape[axis] - len(weights) + 1
        total = image.narrow(axis, 0, inside) * weights[0]
        for shift, weight in enumerate(weights[1:], start=1):
            total.add_(image.narrow(axis, shift, inside), alpha=weight)
        image = total
    return image
