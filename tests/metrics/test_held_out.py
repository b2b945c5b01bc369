from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.scans import noise
from sansref.data.coil_maps import CoilOptions, calibration_of
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import central_mask, fraction_sides
from sansref.kspace.masks.laws import draw_mask
from sansref.kspace.partitions import hold_out
from sansref.metrics.held_out import held_out_error, held_out_mask
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

SHAPE = (40, 36)


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeded(seed)) < 0.3


@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_is_the_weighted_normalised_squared_error_on_the_held_out_samples(coils: int, weighted: bool) -> None:
    image, measured, held_out = noise(2, 8, 7), noise(2, coils, 8, 7, seed=1), points(2, 8, 7)
    maps = noise(2, coils, 8, 7, seed=2) if coils > 1 else None
    density = 0.2 + 0.8 * torch.rand(8, 7, generator=seeded(3)) if weighted else None
    found = held_out_error(image, measured, held_out, maps, density)
    for i in range(2):
        over = under = 0.0
        for coil in range(coils):
            spectrum = fft2c(image[i] if maps is None else maps[i, coil] * image[i])
            for row, column in held_out[i].nonzero().tolist():
                weight = 1.0 if density is None else 1 / float(density[row, column])
                sample = measured[i, coil, row, column]
                over += weight * float((spectrum[row, column] - sample).abs()) ** 2
                under += weight * float(sample.abs()) ** 2
        assert float(found[i]) == pytest.approx(over / under, rel=1e-9)


@pytest.mark.parametrize("coils", [1, 3])
def test_a_perfect_image_scores_0_and_an_empty_one_1(coils: int) -> None:
    image, held_out, density = noise(2, 8, 7), points(2, 8, 7), torch.full((8, 7), 0.25)
    maps = birdcage_maps((8, 7), coils).to(torch.complex128).expand(2, -1, -1, -1) if coils > 1 else None
    measured = Cartesian(held_out, maps).transform(image)
    torch.testing.assert_close(
        held_out_error(image, measured, held_out, maps, density), torch.zeros(2, dtype=torch.float64)
    )
    nothing = held_out_error(torch.zeros_like(image), measured, held_out, maps, density)
    torch.testing.assert_close(nothing, torch.ones(2, dtype=torch.float64))


def test_only_held_out_samples_count() -> None:
    image, measured, held_out = noise(1, 8, 7), noise(1, 1, 8, 7, seed=1), points(1, 8, 7)
    elsewhere = torch.where(held_out.unsqueeze(1), measured, noise(1, 1, 8, 7, seed=2))
    assert torch.equal(held_out_error(image, measured, held_out), held_out_error(image, elsewhere, held_out))


def test_each_slice_may_have_its_own_density() -> None:
    image, measured, held_out = noise(2, 8, 7), noise(2, 1, 8, 7, seed=1), points(2, 8, 7)
    densities = 0.1 + 0.9 * torch.rand(2, 8, 7, generator=seeded(3))
    together = held_out_error(image, measured, held_out, density=densities)
    for i in range(2):
        one = slice(i, i + 1)
        alone = held_out_error(image[one], measured[one], held_out[one], density=densities[i])
        torch.testing.assert_close(together[one], alone)


def test_an_equal_density_weights_nothing() -> None:
    image, measured, held_out = noise(1, 8, 7), noise(1, 1, 8, 7, seed=1), points(1, 8, 7)
    torch.testing.assert_close(
        held_out_error(image, measured, held_out, density=torch.full((8, 7), 0.3)),
        held_out_error(image, measured, held_out),
    )


def test_a_density_of_0_does_not_make_the_score_infinite() -> None:
    image, measured, held_out = noise(1, 8, 7), noise(1, 1, 8, 7, seed=1), points(1, 8, 7)
    score = held_out_error(image, measured, held_out, density=torch.zeros(8, 7))
    assert bool(score.isfinite().all())


def test_follows_the_precision_and_the_gradient_of_the_image() -> None:
    image = noise(1, 8, 7).to(torch.complex64).requires_grad_()
    score = held_out_error(image, noise(1, 1, 8, 7, seed=1).to(torch.complex64), points(1, 8, 7))
    assert score.dtype == torch.float32
    score.sum().backward()
    assert image.grad is not None
    assert bool(image.grad.any())


@pytest.mark.parametrize("law", ["variable_density", "random_columns", "uniform_random"])
def test_with_the_density_of_the_law_it_estimates_the_error_of_the_whole_image_outside_the_center(law: str) -> None:
    """Mean over masks of a known law and held-out draws, for an image whose relative error grows with frequency.

    Without the weights the mean must be wrong where the law is uneven: else this test would show nothing.
    """
    rows, columns = (torch.arange(n, dtype=torch.float64) - n // 2 for n in SHAPE)
    away = torch.hypot(rows[:, None], columns)
    truth = torch.polar(torch.exp(-away / 8), 6 * away.sin())
    error = torch.polar(0.05 * torch.ones(SHAPE, dtype=torch.float64), 5 * away.cos())
    outside = ~central_mask(SHAPE, fraction_sides(SHAPE, 16 / 256))
    nmse = float((error[outside].abs().square().sum()) / truth[outside].abs().square().sum())

    rounds = 300
    held_out, densities = [], []
    for i in range(rounds):
        mask = draw_mask(law, SHAPE, 3, seeded(law, i), exact=False)
        held_out.append(hold_out(mask.array, 0.3, seeded(law, "held out", i)).target)
        densities.append(mask.density)
    images = ifft2c(truth + error).expand(rounds, -1, -1)
    scan = images, truth.expand(rounds, 1, -1, -1), torch.stack(held_out)
    assert float(held_out_error(*scan, density=torch.stack(densities)).mean()) == pytest.approx(nmse, rel=0.1)
    if law == "variable_density":
        assert float(held_out_error(*scan).mean()) < 0.8 * nmse


@settings(max_examples=25, deadline=None)
@given(st.floats(0.02, 0.9), st.integers(0, 100), st.integers(0, 100))
def test_held_out_samples_are_some_of_the_acquired_ones_outside_the_center(
    fraction: float, seed: int, item: int
) -> None:
    acquired = torch.rand(32, 32, generator=torch.Generator().manual_seed(7)) < 0.4
    acquired[12:20, 12:20] = True
    held_out = held_out_mask(bare(acquired), fraction, seed, item)
    assert held_out.any()
    assert not (held_out & ~acquired).any()
    assert not held_out[15:17, 15:17].any()
    assert torch.equal(held_out, held_out_mask(bare(acquired), fraction, seed, item))


def bare(acquired: Tensor, **meta: int) -> Scan:
    """A scan of nothing but its mask."""
    kspace = torch.zeros(1, *acquired.shape, dtype=torch.complex64)
    return Scan(kspace, acquired, ScanMeta("s", "f", **meta))


@pytest.mark.parametrize("shape", [(32, 48), (33, 48), (32, 47), (33, 47)])
@pytest.mark.parametrize("columnwise", [False, True])
def test_samples_that_the_coil_maps_come_from_are_not_held_out(columnwise: bool, shape: tuple[int, int]) -> None:
    acquired = torch.rand(shape, generator=torch.Generator().manual_seed(7)) < 0.5
    acquired = acquired[:1].expand_as(acquired).clone() if columnwise else acquired
    acquired[:, 14:34] = True
    numbered = replace(bare(acquired), kspace=torch.arange(acquired.numel()).view(1, *shape) + 0j)
    used = calibration_of(numbered, CoilOptions(calibration=20))
    central = torch.zeros_like(acquired)
    central.view(-1)[used.real.long().flatten()] = True
    assert int(central.sum()) == 400
    found = [
        torch.stack([held_out_mask(bare(acquired, calibration=side), 0.3, 0, item) for item in range(30)]).any(0)
        for side in (0, 20)
    ]
    assert (found[0] & central).any()
    assert not (found[1] & central).any()
    assert (found[1] & ~central).any()


def test_whole_columns_of_a_column_mask_are_held_out() -> None:
    # Along the readout single samples would be easy to guess from their neighbours.
    acquired = torch.zeros(32, 40, dtype=torch.bool)
    acquired[:, ::3] = acquired[:, 16:24] = True
    held_out = held_out_mask(bare(acquired), 0.2, seed=0, item=0)
    assert torch.equal(held_out, held_out[:1].expand_as(held_out))
    assert 0 < int(held_out[0].sum()) < int(acquired[0].sum())


def test_choice_of_held_out_samples_depends_on_seed_and_scan() -> None:
    scan = bare(points(32, 32))
    masks = [held_out_mask(scan, 0.2, seed, item) for seed in (0, 1) for item in (0, 1)]
    assert len({mask.numpy().tobytes() for mask in masks}) == 4
