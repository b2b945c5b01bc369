from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sansref.kspace.grid import distance
from sansref.kspace.masks.laws import draw_mask
from sansref.kspace.noise import noise_level, white_noise
from sansref.randomness import seeded

SHAPE = (96, 80)


def noise(coils: int = 1, name: str = "noise") -> Tensor:
    """Of standard deviation 1 in each part."""
    return torch.view_as_complex(torch.randn(coils, *SHAPE, 2, generator=seeded(name)))


def acquired(law: str = "variable_density") -> Tensor:
    return draw_mask(law, SHAPE, 4, seeded("mask")).array


@pytest.mark.parametrize("law", ["variable_density", "uniform_random", "random_columns", "poisson_disc"])
def test_white_noise_of_every_coil_is_found(law: str) -> None:
    levels, mask = torch.tensor([0.5, 2.0, 30.0]), acquired(law)
    found = noise_level(noise(3) * levels[:, None, None] * mask, mask)
    assert found.shape == (3, 1, 1)
    assert found.dtype == torch.float32
    assert found.flatten().tolist() == pytest.approx(levels.tolist(), rel=0.15)


@pytest.mark.parametrize("level", [0.3, 1.0, 5.0])
def test_edges_do_not_count(level: float) -> None:
    """Power of an object with edges, a tenth to thirty times that of the noise at the rim of k-space."""
    mask, far = acquired(), distance(SHAPE).clamp(min=1)
    edges = noise(name="edges") * (far / 128) ** -1.5
    found = noise_level((edges + level * noise()) * mask, mask)
    assert float(found) == pytest.approx(level, rel=0.35 if level < 1 else 0.15)


def test_edges_without_noise_have_next_to_none() -> None:
    mask, far = acquired(), distance(SHAPE).clamp(min=1)
    edges = noise(name="edges") * (far / 128) ** -1.5
    assert float(noise_level(edges * mask, mask)) < 0.2


def test_neither_the_middle_of_k_space_nor_spikes_count() -> None:
    mask, white = acquired("uniform_random"), noise()
    strong = white.clone()
    strong[:, 30:66, 25:55] = 1e4
    assert torch.equal(noise_level(strong * mask, mask), noise_level(white * mask, mask))
    strong[0, ::9, ::9] = 1e6
    assert float(noise_level(strong * mask, mask)) == pytest.approx(1.0, rel=0.2)


def test_zero_filled_borders_and_empty_scans_have_no_noise() -> None:
    everywhere = torch.ones(SHAPE, dtype=torch.bool)
    padded = torch.zeros(2, *SHAPE, dtype=torch.complex64)
    padded[:, 30:60, 30:60] = noise(2)[:, 30:60, 30:60]
    assert noise_level(padded, everywhere).abs().max() < 1e-6
    assert noise_level(padded, ~everywhere).tolist() == [[[0.0]], [[0.0]]]
    assert noise_level(torch.zeros_like(padded), everywhere).tolist() == [[[0.0]], [[0.0]]]
    far = distance(SHAPE)
    for reach in (0.5, 0.7, 0.9, 0.95, 0.99):  # an elliptical filter, which may leave a single ring of zeros
        filtered = noise() * (far < reach * far.max())
        assert noise_level(filtered, everywhere).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_white_noise_has_the_level_asked_for_in_both_parts_of_every_coil(dtype: torch.dtype) -> None:
    levels = torch.tensor([0.5, 2.0, 30.0])
    made = white_noise(torch.zeros(3, *SHAPE, dtype=dtype), levels[:, None, None], seeded("white"))
    assert made.dtype == dtype
    assert made.real.std((1, 2)).tolist() == pytest.approx(levels.tolist(), rel=0.03)
    assert made.imag.std((1, 2)).tolist() == pytest.approx(levels.tolist(), rel=0.03)
    assert abs(torch.corrcoef(torch.stack([made.real[0].flatten(), made.imag[0].flatten()]))[0, 1]) < 0.05
