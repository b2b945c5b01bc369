from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.kspace.noise import whitened, whitening_matrix


def correlated_noise(coils: int, samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of a random mixing matrix, and that matrix."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(coils, coils, generator=generator, dtype=torch.complex128) + 2 * torch.eye(coils)
    white = torch.randn(coils, samples, generator=generator, dtype=torch.complex128)
    return (mixing @ white).to(torch.complex64), mixing


@settings(max_examples=20, deadline=None)
@given(coils=st.integers(1, 8), seed=st.integers(0, 1000), gain=st.sampled_from([1e-7, 1.0, 1e4]))
def test_whitened_noise_is_uncorrelated_and_of_unit_strength(coils: int, seed: int, gain: float) -> None:
    noise = gain * correlated_noise(coils, 400, seed)[0]
    matrix = whitening_matrix(noise)
    white = whitened(noise, matrix)
    # Real and imaginary part have a variance of 1 each.
    torch.testing.assert_close(torch.cov(white).reshape(coils, coils), 2 * torch.eye(coils) + 0j, rtol=0, atol=2e-3)
    assert matrix.dtype == torch.complex64
    assert not matrix.triu(1).any()


def test_the_matrix_is_that_of_the_true_covariance() -> None:
    noise, mixing = correlated_noise(4, 200_000, seed=3)
    factor = torch.linalg.cholesky(mixing @ mixing.mH)  # of unit-variance complex noise: 1/2 per part
    expected = 2**0.5 * torch.linalg.inv(factor)
    assert (whitening_matrix(noise) - expected).abs().max() < 0.02 * expected.abs().max()


def test_an_offset_is_not_noise() -> None:
    noise, _ = correlated_noise(3, 300, seed=1)
    torch.testing.assert_close(whitening_matrix(noise + 50j), whitening_matrix(noise), rtol=1e-3, atol=1e-3)


def test_whitening_mixes_the_coils_of_any_shape() -> None:
    noise, _ = correlated_noise(3, 100, seed=1)
    matrix = whitening_matrix(noise)
    images = torch.randn(3, 4, 5, dtype=torch.complex64)
    expected = torch.einsum("ij,jyx->iyx", matrix, images)
    torch.testing.assert_close(whitened(images, matrix), expected)


def test_a_dead_coil_is_named() -> None:
    noise, _ = correlated_noise(4, 100, seed=0)
    noise[2] = 0
    with pytest.raises(ValueError, match=r"coils without noise, counted from 0: 2$"):
        whitening_matrix(noise)
    noise[1] = 3 + 1j
    with pytest.raises(ValueError, match=r"counted from 0: 1, 2$"):
        whitening_matrix(noise)


def test_a_coil_that_is_another_one_again_is_named() -> None:
    noise, _ = correlated_noise(4, 100, seed=0)
    noise[3] = 2j * noise[1]
    with pytest.raises(ValueError, match=r"the noise of coil 3, counted from 0, is a combination"):
        whitening_matrix(noise)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (torch.ones(4, 8, dtype=torch.complex64), "8 noise samples are too few for 4 coils: more than 8"),
        (torch.full((1, 9), torch.nan, dtype=torch.complex64), "not all finite"),
        (torch.ones(4, 9), r"must be complex \(coils, samples\), got torch.float32 \(4, 9\)"),
        (torch.ones(4, 3, 9, dtype=torch.complex64), "must be complex"),
    ],
)
def test_noise_of_no_use_is_refused(noise: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        whitening_matrix(noise)


def test_a_matrix_of_other_coils_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) does not fit 3 coils"):
        whitened(torch.ones(3, 5, dtype=torch.complex64), torch.eye(2, dtype=torch.complex64))
