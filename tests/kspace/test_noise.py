from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sansref.data.simulate import FOREGROUND, Simulation, example_image, simulate
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop, distance
from sansref.kspace.masks.laws import draw_mask
from sansref.kspace.noise import Noise, estimate_noise, noise_in_image, noise_of, pooled_levels, white_noise
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

SHAPE = (96, 80)
EVERYWHERE = torch.ones(SHAPE, dtype=torch.bool)


def noise(coils: int = 1, name: str = "noise", shape: tuple[int, int] = SHAPE) -> Tensor:
    """Of standard deviation 1 in each part."""
    return torch.view_as_complex(torch.randn(coils, *shape, 2, generator=seeded(name)))


def acquired(law: str = "variable_density", acceleration: float = 4) -> Tensor:
    return draw_mask(law, SHAPE, acceleration, seeded("mask")).array


def stripped_head(size: int = 128) -> Tensor:
    """A head in exact zeros, as skull-stripped volumes are; the scanner's own noise is gone."""
    image = center_crop(fft2c(example_image()), (size, size))
    image = ifft2c(image).abs()
    inside = image > 0.12 * image.max()
    inside = torch.nn.functional.max_pool2d(inside[None].float(), 5, 1, 2)[0] > 0
    return image * inside


def scan(snr: float, coils: int = 1) -> tuple[Scan, float]:
    """A full scan of it, and the standard deviation of its noise."""
    image = stripped_head()
    options = Simulation(snr=snr, coils=coils)
    made = simulate(image, options, seeded("scan", int(snr)), ScanMeta("anna", "head.nii"))
    return made, float(image[image > FOREGROUND * image.max()].mean()) / snr


@pytest.mark.parametrize("snr", [5, 10, 20, 50, 100, 200])
def test_a_full_scan_shows_its_noise_in_air_whatever_its_signal(snr: float) -> None:
    made, sigma = scan(snr)
    found = estimate_noise(made.kspace, made.mask)
    assert found.source == "air"
    assert found.sure
    assert float(found.level) == pytest.approx(sigma, rel=0.03)
    assert float(found.colour.min()) == 1.0  # white noise is taken for white


def test_a_coil_that_received_nothing_has_no_noise_though_a_level_is_told() -> None:
    made, sigma = scan(20, coils=3)
    dead = made.kspace.clone()
    dead[1] = 1e-9 * dead[0]  # what rounding leaves in a virtual coil
    told = replace(made, kspace=dead, meta=replace(made.meta, noise=(sigma,) * 3))
    assert told.noise_level.flatten().tolist() == pytest.approx([sigma, 0.0, sigma])
    assert noise_of(told.batch())[0].flatten(1).amax(1).tolist() == pytest.approx([sigma, 0.0, sigma])
    found = estimate_noise(dead, made.mask).level.flatten()
    assert float(found[1]) == 0
    assert float(found[0]) == pytest.approx(sigma, rel=0.05)


def test_the_noise_of_an_image_is_that_of_the_coils_that_its_maps_take() -> None:
    variance = torch.tensor([1.0, 3.0, 0.0])[:, None, None].square()
    maps = torch.zeros(3, 4, 6, dtype=torch.complex64)
    maps[0, :2], maps[1, 2:3] = 1, 1j  # the last row is seen by nobody
    assert float(noise_in_image(variance, maps)) == pytest.approx((2 * 1 + 9) / 3)
    assert float(noise_in_image(variance, None)) == pytest.approx(5.0)
    assert float(noise_in_image(0 * variance, None)) == 0


@pytest.mark.parametrize("snr", [5, 10, 20, 50, 100, 200])
@pytest.mark.parametrize("law", ["variable_density", "random_columns"])
def test_the_noise_of_an_undersampled_scan_lies_between_the_bounds(snr: float, law: str) -> None:
    made, sigma = scan(snr)
    mask = draw_mask(law, (128, 128), 4, seeded("mask")).array
    found = estimate_noise(made.kspace * mask, mask)
    assert float(found.low) <= 1.05 * sigma
    assert float(found.high) >= 0.95 * sigma
    assert float(found.level) > 0.2 * sigma
    if snr <= 20:
        assert float(found.level) == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_haze_in_the_air_is_neither_noise_nor_a_colour(strength: float) -> None:
    """As the floor of a magnitude image is and as ghosts are: nearly as strong as the noise, but smooth."""
    made, sigma = scan(10)
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, 128)] * 2, indexing="ij")
    haze = strength * torch.polar(sigma * (1 + 0.3 * rows), 2 * columns)
    found = estimate_noise(made.kspace + fft2c(haze), made.mask)
    assert found.source == "air"
    assert float(found.level) == pytest.approx(sigma, rel=0.04)
    assert float(found.colour.min()) == 1.0


@pytest.mark.parametrize("snr", [5, 50])
def test_a_zero_padded_scan_has_the_noise_of_the_samples_that_it_has(snr: float) -> None:
    made, sigma = scan(snr)
    padded = made.kspace.clone()
    padded[..., :20] = padded[..., -20:] = 0
    found = estimate_noise(padded, made.mask)
    ringing = 0.05 if snr == 5 else 0.12  # of the cut, in the air
    assert float(found.level) == pytest.approx(sigma, rel=ringing)
    assert found.colour[:, :20].abs().max() == 0
    assert found.colour[:, 20:-20].min() == 1
    cut = padded * (distance((128, 128)) < 110)  # an elliptical one
    assert float(estimate_noise(cut, made.mask).level) == pytest.approx(sigma, rel=ringing)


@pytest.mark.parametrize("snr", [5, 20, 100])
def test_a_filter_colours_the_noise(snr: float) -> None:
    made, sigma = scan(snr)
    window = torch.hamming_window(128, periodic=False)[:, None] * torch.linspace(0.4, 1, 128)
    found = estimate_noise(made.kspace * window, made.mask)
    truth = sigma * window
    assert float(found.level) == pytest.approx(float(truth.square().mean().sqrt()), rel=0.05)
    strong = window > 0.3 * window.max()
    assert ((found.sigma[0] - truth).abs() / truth)[strong].mean() < 0.1
    assert found.colour.square().mean() == pytest.approx(1.0, rel=1e-4)


def test_a_receive_filter_does_not_make_the_level_too_low() -> None:
    """The first and the last eighth of the readout have half the noise, as behind a filter of an oversampled one."""
    made, sigma = scan(10)
    gain = torch.ones(128, 1)
    gain[:16] = gain[-16:] = 0.5
    kspace = fft2c(ifft2c(made.kspace) * gain)
    found = float(estimate_noise(kspace, made.mask).level)
    assert found == pytest.approx(sigma * float(gain.square().mean().sqrt()), rel=0.05)


def test_rows_full_of_signal_are_as_noisy_as_the_louder_of_their_neighbours() -> None:
    """A receive filter is quiet at the ends of the readout and passes its middle."""
    made, sigma = scan(10)
    gain = torch.ones(128, 1)
    gain[:16] = gain[-16:] = 0.45
    filled = torch.zeros(128, 128)
    filled[80:112] = 40 * sigma
    kspace = fft2c(ifft2c(made.kspace + fft2c(filled)) * gain)
    found = float(estimate_noise(kspace, made.mask).level)
    assert found == pytest.approx(sigma * float(gain.square().mean().sqrt()), rel=0.05)


def test_every_coil_has_its_own_level() -> None:
    made, sigma = scan(20, coils=4)
    gains = torch.tensor([0.5, 1.0, 2.0, 30.0])[:, None, None]
    found = estimate_noise(gains * made.kspace, made.mask).level
    assert found.shape == (4, 1, 1)
    assert found.flatten().tolist() == pytest.approx((sigma * gains).flatten().tolist(), rel=0.05)


def test_a_coil_that_received_nothing_leaves_those_of_the_others_as_they_are() -> None:
    made, _ = scan(20, coils=2)
    alone = estimate_noise(made.kspace, made.mask)
    found = estimate_noise(torch.cat([made.kspace[:1], torch.zeros_like(made.kspace[:1]), made.kspace[1:]]), made.mask)
    assert (found.source, found.sure) == (alone.source, alone.sure)
    assert found.level.flatten().tolist() == [float(alone.level[0]), 0, float(alone.level[1])]
    assert torch.equal(found.colour, alone.colour)
    nothing = estimate_noise(torch.zeros_like(made.kspace), made.mask)
    assert not nothing.level.any()


@pytest.mark.parametrize("law", ["variable_density", "uniform_random", "random_columns", "poisson_disc"])
def test_white_noise_of_every_coil_is_found(law: str) -> None:
    levels, mask = torch.tensor([0.5, 2.0, 30.0]), acquired(law)
    found = estimate_noise(noise(3) * levels[:, None, None] * mask, mask).level
    assert found.shape == (3, 1, 1)
    assert found.dtype == torch.float32
    assert found.flatten().tolist() == pytest.approx(levels.tolist(), rel=0.25)


@pytest.mark.parametrize("level", [1.0, 5.0])
def test_edges_do_not_count(level: float) -> None:
    """Power of an object with edges, up to that of the noise at the rim of k-space."""
    mask, far = acquired(), distance(SHAPE).clamp(min=1)
    edges = noise(name="edges") * (far / 128) ** -1.5
    found = estimate_noise((edges + level * noise()) * mask, mask).level
    assert float(found) == pytest.approx(level, rel=0.35 if level == 1 else 0.1)


@pytest.mark.parametrize("level", [0.0, 0.1, 0.3])
def test_where_edges_hide_the_noise_it_is_said_how_little_is_known(level: float) -> None:
    mask, far = acquired(), distance(SHAPE).clamp(min=1)
    edges = noise(name="edges") * (far / 128) ** -1.5
    found = estimate_noise((edges + level * noise()) * mask, mask)
    assert found.source == "spectrum"
    assert not found.sure
    assert float(found.low) <= max(1.2 * level, 0.2)
    assert float(found.high) >= level
    assert float(found.level) > 0


def test_neither_the_middle_of_k_space_nor_spikes_count() -> None:
    mask, white = acquired("uniform_random"), noise()
    strong = white.clone()
    strong[:, 30:66, 25:55] = 1e4
    assert torch.equal(estimate_noise(strong * mask, mask).level, estimate_noise(white * mask, mask).level)
    strong[0, ::9, ::9] = 1e6
    assert float(estimate_noise(strong * mask, mask).level) == pytest.approx(1.0, rel=0.2)


def test_empty_scans_have_no_noise() -> None:
    nothing = torch.zeros(2, *SHAPE, dtype=torch.complex64)
    assert estimate_noise(nothing, EVERYWHERE).level.tolist() == [[[0.0]], [[0.0]]]
    assert estimate_noise(noise(2), ~EVERYWHERE).level.tolist() == [[[0.0]], [[0.0]]]
    for reach in (0.5, 0.7, 0.9, 0.95, 0.99):
        filtered = noise() * (distance(SHAPE) < reach * distance(SHAPE).max())
        assert float(estimate_noise(filtered, EVERYWHERE).level) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("rows", [1, 2, 4, 7, 8])
def test_a_scan_of_a_few_rows_can_be_looked_at(rows: int) -> None:
    kspace = noise(2, shape=(rows, 64))
    everywhere = torch.ones(rows, 64, dtype=torch.bool)
    assert bool(torch.isfinite(estimate_noise(kspace, everywhere).level).all())
    every_other = everywhere & (torch.arange(64) % 2 == 0)
    assert bool(torch.isfinite(estimate_noise(kspace * every_other, every_other).level).all())


def test_a_picture_without_air_is_not_taken_for_noise() -> None:
    """Neither its smooth nor its textured parts are distributed as noise is."""
    rows, columns = torch.meshgrid(torch.linspace(0, 9, 96), torch.linspace(0, 7, 80), indexing="ij")
    picture = 20 + 5 * torch.sin(rows) + 3 * torch.cos(2 * columns)
    found = estimate_noise(fft2c(picture[None].to(torch.complex64)) + noise(), EVERYWHERE)
    assert float(found.level) == pytest.approx(1.0, rel=0.1)


def test_slices_of_a_file_share_one_level() -> None:
    """Slices with more of the head in them have more left of it; each is divided by a number of its own."""

    def of(level: float, air: bool) -> Noise:
        value = torch.full((1, 1, 1), level)
        return Noise(value, value, value, torch.ones(SHAPE), "air" if air else "spectrum")

    found = [of(0.5, True), of(1.0, True), of(9.0, False)]
    assert [float(level) for level in pooled_levels(found, [4.0, 2.0, 1.0])] == pytest.approx([0.5, 1.0, 2.0])
    found = [of(level, False) for level in (1.0, 1.2, 3.0, 9.0, 9.0)]
    assert float(pooled_levels(found, [1.0] * 5)[0]) == pytest.approx(1.2)


def test_a_level_of_the_user_takes_the_place_of_the_estimate_and_keeps_the_colour() -> None:
    found = estimate_noise(noise(2), EVERYWHERE).with_level(torch.tensor(3.0))
    assert found.source == "given"
    assert found.sigma.shape == (2, *SHAPE)
    assert found.level.flatten().tolist() == [3.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_white_noise_has_the_level_asked_for_in_both_parts_of_every_coil(dtype: torch.dtype) -> None:
    levels = torch.tensor([0.5, 2.0, 30.0])
    made = white_noise(torch.zeros(3, *SHAPE, dtype=dtype), levels[:, None, None], seeded("white"))
    assert made.dtype == dtype
    assert made.real.std((1, 2)).tolist() == pytest.approx(levels.tolist(), rel=0.03)
    assert made.imag.std((1, 2)).tolist() == pytest.approx(levels.tolist(), rel=0.03)
    assert abs(torch.corrcoef(torch.stack([made.real[0].flatten(), made.imag[0].flatten()]))[0, 1]) < 0.05
