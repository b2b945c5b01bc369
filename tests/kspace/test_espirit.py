"""ESPIRiT: against its definition pixel by pixel, and within the memory that it announces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sansref.kspace.coils import birdcage_maps
from sansref.kspace.espirit import dominant_eigenvector, espirit, memory_needed
from sansref.kspace.fourier import fft2c
from sansref.kspace.grid import center_crop
from sansref.machine import memory_in_use, peak_of_memory
from sansref.randomness import seeded


def center_of(shape: tuple[int, int], coils: int, side: int) -> Tensor:
    noise = torch.randn(coils, *shape, dtype=torch.complex64, generator=seeded("object"))
    grain = torch.randn(coils, side, side, dtype=torch.complex64, generator=seeded("grain"))
    return center_crop(fft2c(birdcage_maps(shape, coils) * noise[:1]), (side, side)) + 0.05 * grain


def defined(center: Tensor, shape: tuple[int, int], kernel: int, threshold: float) -> tuple[Tensor, Tensor]:
    """All kernels at the full size, and an eigendecomposition of every pixel's matrix, in double precision."""
    coils, side = center.shape[:2]
    starts = range(side - kernel + 1)
    patches = [center[:, a : a + kernel, b : b + kernel].flatten() for a in starts for b in starts]
    _, values, rows = torch.linalg.svd(torch.stack(patches).to(torch.complex128), full_matrices=False)
    kernels = rows[values > threshold * values[0]].reshape(-1, coils, kernel, kernel)
    padded = torch.zeros(len(kernels), coils, *shape, dtype=torch.complex128)
    padded[..., :kernel, :kernel] = kernels
    images = torch.fft.fftshift(torch.fft.ifft2(padded, norm="forward"), dim=(-2, -1)) / kernel
    values, vectors = torch.linalg.eigh(torch.einsum("kchw,kdhw->hwcd", images, images.conj()))
    return vectors[..., -1].permute(2, 0, 1), values.permute(2, 0, 1)


@pytest.mark.parametrize(
    ("shape", "coils", "side", "kernel"),
    [((20, 17), 3, 12, 4), ((16, 24), 8, 10, 5), ((15, 13), 2, 13, 6), ((18, 18), 5, 8, 4)],
)
def test_equals_its_definition(shape: tuple[int, int], coils: int, side: int, kernel: int) -> None:
    center = center_of(shape, coils, side)
    maps, eigenvalues = espirit(center, shape, kernel, 0.05)
    expected, values = defined(center, shape, kernel, 0.05)
    torch.testing.assert_close(eigenvalues.double(), values[-1], rtol=1e-3, atol=1e-4)
    clear = values[-1] > 1.03 * values[-2]
    assert bool(clear.any())
    cosine = (maps.conj() * expected).sum(0).abs()[clear]
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=1e-3, atol=0)


def test_eigenvalues_are_at_most_one() -> None:
    """They are shares of the energy that a projection keeps."""
    maps, eigenvalues = espirit(center_of((32, 32), 6, 16), (32, 32), 5, 0.0)
    assert float(eigenvalues.max()) < 1 + 1e-4
    torch.testing.assert_close(maps.norm(dim=0), torch.ones(32, 32))


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_dominant_eigenvector_is_that_of_a_decomposition(size: int, scale: float) -> None:
    factor = torch.randn(40, size, size, dtype=torch.complex64, generator=seeded("factor", size))
    vectors, values = dominant_eigenvector(scale * factor @ factor.mH)
    expected, basis = torch.linalg.eigh(factor @ factor.mH)
    torch.testing.assert_close(values / scale, expected[:, -1], rtol=1e-3, atol=0)
    apart = expected[:, -1] > 1.1 * expected[:, -2] if size > 1 else expected[:, -1] > 0
    cosine = (vectors.conj() * basis[..., -1]).sum(-1).abs()[apart]
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_a_matrix_of_zeros_has_no_eigenvector() -> None:
    vectors, values = dominant_eigenvector(torch.zeros(2, 3, 3, dtype=torch.complex64))
    assert not vectors.any()
    assert not values.any()


@pytest.mark.parametrize(("coils", "side", "shape", "kernel"), [(16, 24, (320, 320), 6), (32, 24, (64, 640), 8)])
def test_it_takes_no_more_memory_than_announced(coils: int, side: int, shape: tuple[int, int], kernel: int) -> None:
    center = torch.randn(coils, side, side, dtype=torch.complex64, generator=seeded("center"))
    espirit(center[:2, :8, :8], (16, 16), 4, 0.02)  # libraries take their own at the first use
    before = memory_in_use()
    with peak_of_memory() as peak:
        espirit(center, shape, kernel, 0.02)
    needed = memory_needed(coils, side, shape, kernel)
    assert peak() - before < needed
    assert needed < 2**28
