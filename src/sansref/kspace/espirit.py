"""ESPIRiT: coil sensitivity maps from the fully sampled center of k-space (Uecker et al., MRM 71:990, 2014).

Every patch of k-space lies in the row space of the calibration matrix. In image space, projecting all patches onto it
multiplies the coils of each pixel by one Hermitian matrix, of which the sensitivities are an eigenvector with
eigenvalue 1. That matrix is a trigonometric polynomial: its values on a small grid tell all the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SQUARINGS = 8
"""How often a pixel's matrix is squared, which does as much as 2**8 steps of the power iteration."""

BLOCK = 1 << 22
"""Bytes of the matrices that are worked on together: few enough to stay in the processor's cache."""


def espirit(
    center: Tensor, shape: tuple[int, int], kernel: int, threshold: float, sets: int = 1
) -> tuple[Tensor, Tensor]:
    """Sensitivity maps and their eigenvalues at every pixel.

    Parameters
    ----------
    center
        Fully sampled center of k-space, complex (coils, side, side).
    shape
        Height and width of the maps.
    kernel
        Side of the patches, at most that of the center.
    threshold
        Singular values of the calibration matrix below this share of the largest are noise.
    sets
        Number of sets of maps, those of the largest eigenvalues.

    Returns
    -------
    tuple
        Maps, complex64 (coils, sets * height, width), the sets below one another: of norm 1 over the coils, of
        arbitrary phase, and orthogonal to those of other sets; and the largest eigenvalues, float32
        (sets * height, width), 1 where the maps explain all that the center shows and 0 where nothing is seen.
    """
    coils, (height, width) = len(center), shape
    if not center.any():
        return torch.zeros(coils, sets * height, width, dtype=torch.complex64), torch.zeros(sets * height, width)
    samples = _on_small_grid(_kernels(center, kernel, threshold), kernel)
    rows, columns = (_interpolation(size, 2 * kernel - 1) for size in shape)
    maps = torch.empty(sets, height, width, coils, dtype=torch.complex64)
    eigenvalues = torch.empty(sets, height, width)
    for part in torch.split(torch.arange(height), max(1, BLOCK // (8 * coils**2 * width))):
        lines = torch.tensordot(rows[part], samples, dims=1).flatten(2)
        matrices = torch.view_as_complex((columns @ lines).unflatten(2, (coils, coils, 2)))
        for number in range(sets):
            if number:
                before = maps[number - 1, part]
                energy = eigenvalues[number - 1, part, :, None, None]
                matrices = matrices - energy * before[..., :, None] * before[..., None, :].conj()
            maps[number, part], eigenvalues[number, part] = dominant_eigenvector(matrices)
    return maps.flatten(0, 1).permute(2, 0, 1).contiguous(), eigenvalues.flatten(0, 1)


def memory_needed(coils: int, side: int, shape: tuple[int, int], kernel: int) -> int:
    """Bytes that :func:`espirit` takes at most, its maps included."""
    patches, unknowns = (side - kernel + 1) ** 2, coils * kernel**2
    # Double precision: patches and their copy in columns, the smaller Gram matrix with eigenvectors and the solver's
    # workspace, the kernels before and after they are scaled, their spectra and one copy.
    smaller, grid = min(patches, unknowns), (2 * kernel - 1) ** 2
    calibration = 16 * (2 * patches * unknowns + 5 * smaller**2 + 2 * smaller * unknowns)
    spectra = 16 * (3 * coils * grid * smaller + 2 * grid * coils**2)
    block = max(BLOCK, 8 * coils**2 * shape[1])
    return max(calibration, spectra) + 4 * block + 2 * 8 * coils * math.prod(shape)


def _kernels(center: Tensor, kernel: int, threshold: float) -> Tensor:
    """Orthonormal basis of the patches, complex128 (coils, kernel, kernel, vectors)."""
    patches = center.to(torch.complex128).unfold(1, kernel, 1).unfold(2, kernel, 1)
    patches = patches.permute(0, 3, 4, 1, 2).reshape(len(center) * kernel**2, -1)
    tall = len(patches) > patches.shape[1]
    energies, vectors = torch.linalg.eigh(patches.mH @ patches if tall else patches @ patches.mH)
    # Squares of singular values have twice their rounding.
    rounding = torch.finfo(energies.dtype).eps * len(energies)
    kept = energies > max(threshold**2, rounding) * energies[-1]
    basis = vectors[:, kept]
    if tall:
        basis = patches @ (basis / energies[kept].sqrt())
    return basis.reshape(len(center), kernel, kernel, -1)


def _on_small_grid(kernels: Tensor, side: int) -> Tensor:
    """The pixels' matrices on a grid of 2 side - 1 points a side, float32 (grid, grid, 2 x coils x coils).

    So many points hold all lags of the kernels' correlations without aliasing.
    """
    grid = 2 * side - 1
    spectra = torch.fft.ifft2(kernels, s=(grid, grid), dim=(1, 2), norm="forward").permute(1, 2, 0, 3)
    return torch.view_as_real((spectra @ spectra.mH / side**2).to(torch.complex64)).flatten(2)


def _interpolation(size: int, grid: int) -> Tensor:
    """Values at the ``size`` centered pixels of an axis from those at ``grid`` points: Dirichlet kernels."""
    pixels = (torch.arange(size, dtype=torch.float64) - size // 2)[:, None] / size
    places = 2 * math.pi * (pixels - torch.arange(grid) / grid)
    lags = torch.arange(1, grid // 2 + 1)
    return ((1 + 2 * (places[..., None] * lags).cos().sum(-1)) / grid).float()


def dominant_eigenvector(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of Hermitian positive matrices, and its eigenvector, by repeated squaring.

    Parameters
    ----------
    matrices
        Complex (..., n, n).

    Returns
    -------
    tuple
        Eigenvectors of norm 1, complex (..., n), and eigenvalues, real (...); zeros for a matrix of zeros.
    """
    tiny = torch.finfo(matrices.real.dtype).tiny
    power = matrices
    for _ in range(SQUARINGS):
        power = power @ power
        power *= power.diagonal(dim1=-2, dim2=-1).real.sum(-1).clamp(min=tiny).reciprocal()[..., None, None]
    # All columns of a matrix of rank 1 are multiples of the eigenvector; the longest is the most exact.
    longest = power.diagonal(dim1=-2, dim2=-1).real.argmax(-1)[..., None, None]
    vectors = power.take_along_dim(longest, -1)
    vectors = vectors / torch.linalg.vector_norm(vectors, dim=-2, keepdim=True).clamp(min=tiny)
    values = (vectors.mH @ (matrices @ vectors)).real[..., 0, 0]
    return vectors[..., 0], values
