"""Virtual coils: what they keep, what they leave alone, and the limits of their number."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers import scans
from sansref.kspace.coils import birdcage_maps, compressed, compression_matrix, rss
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.randomness import seeded

SIZE = (24, 20)


noise = partial(scans.noise, dtype=torch.complex64)


def head(coils: int) -> Tensor:
    """K-space of a disc seen by a ring of coils."""
    rows, columns = (torch.linspace(-1, 1, n) for n in SIZE)
    disc = (torch.hypot(rows[:, None], columns) < 0.8).float()
    return fft2c(birdcage_maps(SIZE, coils) * disc)


@settings(max_examples=50, deadline=None)
@given(coils=st.integers(1, 9), data=st.data())
def test_the_matrix_is_unitary(coils: int, data: st.DataObject) -> None:
    virtual = data.draw(st.integers(1, coils))
    matrix = compression_matrix(noise(coils, 7, 5, seed=data.draw(st.integers(0, 9))), virtual)
    assert matrix.shape == (virtual, coils)
    assert matrix.dtype == torch.complex64
    torch.testing.assert_close(matrix @ matrix.mH, torch.eye(virtual, dtype=torch.complex64), atol=1e-5, rtol=0)


def test_it_is_that_of_the_singular_value_decomposition() -> None:
    """No other combinations of as many coils hold more energy; single directions agree up to their phase."""
    samples = head(6).flatten(1)
    left, values, _ = torch.linalg.svd(samples.to(torch.complex128), full_matrices=False)
    for virtual in (1, 3, 6):
        matrix = compression_matrix(samples, virtual)
        kept = compressed(samples, matrix).norm() ** 2
        assert float(kept) == pytest.approx(float((values[:virtual] ** 2).sum()), rel=1e-4)
        agreement = (matrix.to(torch.complex128) @ left[:, :virtual]).abs()
        torch.testing.assert_close(agreement, torch.eye(virtual, dtype=torch.float64), atol=1e-3, rtol=0)


def test_virtual_coils_come_in_the_order_of_their_energy_and_few_hold_nearly_all() -> None:
    kspace = head(12)
    energy = compressed(kspace, compression_matrix(kspace, 12)).flatten(1).norm(dim=1) ** 2
    assert bool((energy.diff() <= 0).all())
    assert float(energy[:6].sum() / energy.sum()) > 0.99
    assert float(energy.sum()) == pytest.approx(float(kspace.norm() ** 2), rel=1e-4)


def test_all_virtual_coils_together_show_the_image_that_all_coils_show() -> None:
    kspace = head(5)
    virtual = compressed(kspace, compression_matrix(kspace, 5))
    torch.testing.assert_close(rss(ifft2c(virtual)), rss(ifft2c(kspace)), rtol=1e-4, atol=1e-5)


def test_white_noise_stays_white() -> None:
    """Noise of equal strength in all coils, and independent: in the virtual ones too, also where they are fewer."""
    matrix = compression_matrix(head(8), 4)
    virtual = compressed(noise(8, 400, 500, seed=3), matrix).flatten(1)
    covariance = virtual @ virtual.mH / virtual.shape[1]
    torch.testing.assert_close(covariance, torch.eye(4, dtype=torch.complex64), atol=0.01, rtol=0)


def test_what_was_not_acquired_stays_exactly_zero() -> None:
    mask = torch.rand(SIZE, generator=seeded("mask")) < 0.3
    kspace = head(6) * mask
    virtual = compressed(kspace, compression_matrix(kspace, 2))
    assert not virtual[:, ~mask].any()
    assert bool(virtual[:, mask].any())


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_scale_of_the_samples_is_without_effect(scale: float) -> None:
    torch.testing.assert_close(
        compression_matrix(scale * head(4), 3), compression_matrix(head(4), 3), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("virtual", [0, 5, -1])
def test_impossible_numbers_of_coils_are_refused(virtual: int) -> None:
    with pytest.raises(ValueError, match=f"4 coils cannot be compressed to {virtual}"):
        compression_matrix(noise(4, 3, 3), virtual)
