"""Coils: their images combined, their channels compressed, and simulated sensitivity maps.

Virtual coils are the principal components of calibration samples (Buehrer et al., MRM 57:1131, 2007; Huang et al.,
Magn Reson Imaging 26:133, 2008).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALLEST = 1e-3
"""Share of the largest sensitivity below which a place is taken for one that no coil sees."""

RING_RADIUS = 1.5
"""Distance of the coils from the center, in halves of the field of view: the whole image lies inside the ring."""


def combine(images: Tensor, maps: Tensor) -> Tensor:
    """Coil images (..., coils, height, width) to one image (..., height, width), sum over coils of conj(map) * image.

    This is the least-squares image for maps with ``sum |map|^2 = 1`` (Roemer et al., MRM 16(2), 1990). Images and maps
    are complex, and broadcast against each other.
    """
    return (maps.conj() * images).sum(dim=-3)


def unstacked(image: Tensor, height: int) -> Tensor:
    """The components (..., sets, height, width) of an image of several sets of maps (..., sets * height, width).

    Where the field of view is smaller than the object, two places of it lie on one pixel, and each needs maps of its
    own (Uecker et al., MRM 71:990, 2014). Their images lie below one another, so that whatever works on an image works
    on them.
    """
    components: Tensor = image.unflatten(-2, (-1, height))  # type: ignore[no-untyped-call]
    return components


def magnitude_of_sets(magnitudes: Tensor, height: int) -> Tensor:
    """What is shown of the magnitudes (..., sets * height, width) of an image: the root of their sum of squares."""
    if magnitudes.shape[-2] == height:
        return magnitudes
    return unstacked(magnitudes, height).square().sum(-3).sqrt()


def rss(images: Tensor) -> Tensor:
    """Root of the sum of squares over coils, complex (..., coils, height, width) to real (..., height, width)."""
    magnitude: Tensor = torch.linalg.vector_norm(images, dim=-3)
    return magnitude


def normalised(maps: Tensor) -> Tensor:
    """Maps (coils, height, width) with sum over coils |map|^2 = 1; 0 where it is next to nothing beside the largest."""
    size = rss(maps)
    seen = size > SMALLEST * size.max()
    return torch.where(seen, maps / size.where(seen, torch.ones(())), torch.zeros((), dtype=maps.dtype))


def birdcage_maps(shape: tuple[int, int], coils: int, generator: torch.Generator | None = None) -> Tensor:
    """Smooth sensitivity maps of coils evenly spaced on a ring around the field of view.

    A coil's sensitivity falls off with the distance from it, and its phase is the direction in which it is seen.

    Parameters
    ----------
    shape
        Height and width.
    coils
        Number of coils, at least 1.
    generator
        Turns the ring by a random angle; None puts the first coil at the right.

    Returns
    -------
    Tensor
        complex64 (coils, height, width), with sum over coils |map|^2 = 1 at every pixel.

    Raises
    ------
    ValueError
        If there is no coil or no pixel.
    """
    if coils < 1 or min(shape) < 1:
        raise ValueError(f"coils and shape must be positive, got {coils} and {tuple(shape)}")
    turn = 0.0 if generator is None else 2 * math.pi * float(torch.rand((), generator=generator))
    angles = turn + torch.arange(coils) * (2 * math.pi / coils)
    rows, columns = (2 * (torch.arange(size) - size // 2) / size for size in shape)
    down = rows[:, None] - RING_RADIUS * angles.sin()[:, None, None]
    right = columns - RING_RADIUS * angles.cos()[:, None, None]
    maps = torch.polar(torch.hypot(down, right).reciprocal(), torch.atan2(down, right))
    return maps / rss(maps)


def compression_matrix(samples: Tensor, coils: int) -> Tensor:
    """The combinations of coils that hold most of the energy of calibration samples.

    Parameters
    ----------
    samples
        Complex (coils, ...), at least one of them not zero.
    coils
        Number of virtual coils, from 1 to the number of coils.

    Returns
    -------
    Tensor
        Complex (virtual coils, coils). The rows are orthonormal, so that noise which is white and of equal strength in
        all coils, as after pre-whitening, is so in the virtual ones too; they come in the order of falling energy.

    Raises
    ------
    ValueError
        If there is no such number of virtual coils.
    """
    if not 1 <= coils <= len(samples):
        raise ValueError(f"{len(samples)} coils cannot be compressed to {coils}")
    flat = samples.flatten(1)
    # Single precision would square the condition number of what may span many orders of magnitude.
    covariance = flat.to(torch.complex128) @ flat.to(torch.complex128).mH
    _, vectors = torch.linalg.eigh(covariance)
    rows = vectors.flip(-1)[:, :coils].mH
    # Eigenvectors have no phase of their own: each row's largest entry is turned to the positive real axis.
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return (rows * (largest.conj() / largest.abs())).to(samples.dtype)


def compressed(kspace: Tensor, matrix: Tensor) -> Tensor:
    """Virtual coils (virtual coils, ...) of k-space (coils, ...), where nothing acquired stays exactly zero."""
    return torch.tensordot(matrix, kspace, dims=1)
