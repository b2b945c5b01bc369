from __future__ import annotations

import numpy as np
import pytest
import sigpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.scans import noise
from sansref.kspace.fourier import fft1c, fft2c, ifft1c, ifft2c

SIZES = [(8, 8), (7, 7), (6, 9), (5, 8), (1, 4), (1, 1)]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_is_the_centered_orthonormal_transform_of_numpy(size: tuple[int, int]) -> None:
    image = noise(2, *size)
    axes = (-2, -1)
    shifted = np.fft.ifftshift(image.numpy(), axes=axes)
    expected = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=axes)
    close(fft2c(image), torch.from_numpy(expected))


@pytest.mark.parametrize("size", SIZES)
def test_is_the_transform_of_sigpy(size: tuple[int, int]) -> None:
    image = noise(3, *size)
    close(fft2c(image), torch.from_numpy(sigpy.fft(image.numpy(), axes=(-2, -1))))
    close(ifft2c(image), torch.from_numpy(sigpy.ifft(image.numpy(), axes=(-2, -1))))


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 17), width=st.integers(1, 17), seed=st.integers(0, 99))
def test_is_unitary(height: int, width: int, seed: int) -> None:
    image, kspace = noise(height, width, seed=seed), noise(height, width, seed=seed + 100)
    close(ifft2c(fft2c(image)), image)
    close(fft2c(ifft2c(kspace)), kspace)
    close(torch.vdot(fft2c(image).flatten(), kspace.flatten()), torch.vdot(image.flatten(), ifft2c(kspace).flatten()))
    close(fft2c(image).norm(), image.norm())


@pytest.mark.parametrize("size", SIZES)
def test_dc_lies_in_the_center(size: tuple[int, int]) -> None:
    height, width = size
    dc = torch.zeros(size, dtype=torch.complex128)
    dc[height // 2, width // 2] = (height * width) ** 0.5
    close(fft2c(torch.ones(size, dtype=torch.complex128)), dc)


@pytest.mark.parametrize("size", SIZES)
def test_an_image_of_one_central_point_has_a_flat_and_real_spectrum(size: tuple[int, int]) -> None:
    height, width = size
    point = torch.zeros(size, dtype=torch.complex128)
    point[height // 2, width // 2] = 1
    close(fft2c(point), torch.full(size, (height * width) ** -0.5, dtype=torch.complex128))


def test_a_shift_of_the_object_is_a_phase_ramp_around_dc() -> None:
    image = noise(6, 9)
    ramp = torch.exp(-2j * torch.pi * (torch.arange(9, dtype=torch.float64) - 4) * 2 / 9)
    close(fft2c(image.roll(2, dims=-1)), ramp * fft2c(image))


@pytest.mark.parametrize("size", SIZES)
def test_one_axis_after_the_other_is_the_plane(size: tuple[int, int]) -> None:
    image = noise(2, *size)
    close(fft1c(fft1c(image, -1), -2), fft2c(image))
    close(ifft1c(ifft1c(image, -2), -1), ifft2c(image))
    close(ifft1c(fft1c(image, 1), 1), image)


def test_takes_real_images_and_keeps_the_precision() -> None:
    image = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0))
    assert fft2c(image).dtype == torch.complex64
    torch.testing.assert_close(fft2c(image), fft2c(image.to(torch.complex64)))
    assert fft2c(image.double()).dtype == torch.complex128
