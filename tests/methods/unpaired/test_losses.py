"""The losses that tie images together: small images by hand, the sampling loss by NumPy's centered transform."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import birdcage_maps
from sansref.methods.unpaired.losses import (
    FourierNorm,
    bypass_loss,
    cycle_loss,
    noise_consistency_loss,
    pseudo_loss,
    sampling_loss,
)
from sansref.randomness import seeded

SHAPES = [(12, 10), (9, 7), (8, 11)]
NORMS: list[FourierNorm] = ["backward", "ortho"]
POWERS: list[Literal[1, 2]] = [1, 2]
AXES = (-2, -1)


def picture(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[None, None]


X, Y = picture([0.0, 1.0], [-1.0, 0.5]), picture([1.0, 1.0], [0.0, -0.5])
FLAT = picture([0.25, 0.25], [0.25, 0.25])


def images(shape: tuple[int, int], channels: int = 1, size: int = 2, name: str = "image") -> Tensor:
    return torch.randn(size, channels, *shape, dtype=torch.float64, generator=seeded(name))


def masks(shape: tuple[int, int], size: int = 2) -> Tensor:
    return torch.rand(size, *shape, generator=seeded("mask")) < 0.4


def complex_plane(image: Tensor) -> Any:
    array = image.detach().numpy()
    return array[:, 0] + 1j * array[:, 1] if array.shape[1] == 2 else array[:, 0].astype(complex)


def centered_spectrum(plane: Any, norm: Any = "ortho") -> Any:
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(plane, axes=AXES), norm=norm), axes=AXES)


def image_with_spectrum(spectrum: Any, channels: int) -> Tensor:
    plane = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum, axes=AXES), norm="ortho"), axes=AXES)
    parts = [plane.real, plane.imag][:channels]
    return torch.from_numpy(np.stack(parts, axis=1))


def with_mirror(mask: Tensor) -> Any:
    """The samples that are known of a real image: the acquired ones and their mirror images through DC."""
    shifted = np.fft.ifftshift(mask.numpy(), axes=AXES)
    mirror = np.roll(shifted[..., ::-1, ::-1], (1, 1), axis=AXES)
    return np.fft.fftshift(shifted | mirror, axes=AXES)


def test_cycles_count_both_ways_round() -> None:
    """|x - 1/4| is 1/4, 3/4, 5/4, 1/4, and |y - x| is 1, 0, 1, 1."""
    assert float(cycle_loss(X, FLAT, Y, X)) == pytest.approx(2.5 / 4 + 3 / 4, rel=1e-12)
    assert float(cycle_loss(X, X, Y, X)) == pytest.approx(3 / 4, rel=1e-12)
    assert float(cycle_loss(X, FLAT, Y, Y)) == pytest.approx(2.5 / 4, rel=1e-12)
    assert float(cycle_loss(X, X, Y, Y)) == 0


def test_bypass_wants_the_generator_to_take_away_what_the_extractor_finds() -> None:
    """x - 1/4 against G(x) = y: errors 5/4, 1/4, 5/4, 3/4."""
    assert float(bypass_loss(Y, X, FLAT, Y, Y)) == pytest.approx(3.5 / 4, rel=1e-12)
    assert float(bypass_loss(X - FLAT, X, FLAT, Y, X)) == pytest.approx(3 / 4, rel=1e-12)
    assert float(bypass_loss(X - FLAT, X, FLAT, Y, Y)) == 0


def test_the_extractor_learns_what_the_generator_has_taken_away() -> None:
    """x - y is -1, 0, -1, 1, from which 1/4 is 5/4, 1/4, 5/4, 3/4 away."""
    assert float(pseudo_loss(FLAT, X, Y)) == pytest.approx((1.25 + 0.25 + 1.25 + 0.75) / 4, rel=1e-12)
    assert float(pseudo_loss(X - Y, X, Y)) == 0


def test_the_artefact_of_a_degraded_image_is_what_degrading_has_added() -> None:
    """F(y) = x here, so that the artefact is x - y."""
    assert float(noise_consistency_loss(FLAT, X, Y)) == pytest.approx((1.25 + 0.25 + 1.25 + 0.75) / 4, rel=1e-12)
    assert float(noise_consistency_loss(X - Y, X, Y)) == 0


def test_what_restores_and_degrades_perfectly_costs_nothing() -> None:
    artefact = images((6, 5), name="artefact")
    y, clean = images((6, 5)), images((6, 5), name="clean")
    x = clean + artefact
    assert float(bypass_loss(clean, x, artefact, y, y)) < 1e-12
    assert float(pseudo_loss(artefact, x, clean)) < 1e-12
    assert float(noise_consistency_loss(artefact, y + artefact, y)) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("power", POWERS)
def test_the_sampling_loss_is_that_of_a_centered_transform(
    shape: tuple[int, int], channels: int, norm: FourierNorm, power: Literal[1, 2]
) -> None:
    image, other, mask = images(shape, channels), images(shape, channels, name="other"), masks(shape)
    acquired = centered_spectrum(complex_plane(image - other), norm) * mask.numpy()
    expected = (np.abs(acquired) ** power).sum() / (2 * shape[0] * shape[1])
    assert float(sampling_loss(image, other, mask, norm, power)) == pytest.approx(expected, rel=1e-10)
    assert float(sampling_loss(other, image, mask, norm, power)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("power", POWERS)
def test_a_uniform_difference_is_seen_in_the_center_alone(
    shape: tuple[int, int], norm: FourierNorm, power: Literal[1, 2]
) -> None:
    """Its plain sum is the difference times all pixels, and the mean over the grid divides by these again."""
    difference, pixels = 0.3, shape[0] * shape[1]
    expected = {
        ("backward", 1): difference,
        ("ortho", 1): difference / np.sqrt(pixels),
        ("backward", 2): difference**2 * pixels,
        ("ortho", 2): difference**2,
    }[norm, power]
    image = torch.zeros(1, 1, *shape, dtype=torch.float64)
    center = torch.zeros(1, *shape, dtype=torch.bool)
    center[0, shape[0] // 2, shape[1] // 2] = True
    assert float(sampling_loss(image, image + difference, center, norm, power)) == pytest.approx(expected, rel=1e-10)
    assert float(sampling_loss(image, image + difference, ~center, norm, power)) < 1e-12


@pytest.mark.parametrize("channels", [1, 2])
def test_with_every_sample_acquired_it_is_the_error_of_the_images(channels: int) -> None:
    """Parseval's theorem."""
    image, other = images((9, 12), channels), images((9, 12), channels, name="other")
    mask = torch.ones(2, 9, 12, dtype=torch.bool)
    expected = float((image - other).square().sum(1).mean())
    assert float(sampling_loss(image, other, mask, "ortho", 2)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("power", POWERS)
def test_the_mean_is_over_the_scans_of_a_batch_each_with_its_own_mask(channels: int, power: Literal[1, 2]) -> None:
    image, other, mask = images((9, 12), channels), images((9, 12), channels, name="other"), masks((9, 12))
    assert not torch.equal(mask[0], mask[1])
    alone = [float(sampling_loss(image[one], other[one], mask[one], power=power)) for one in (slice(0, 1), slice(1, 2))]
    assert float(sampling_loss(image, other, mask, power=power)) == pytest.approx(np.mean(alone), rel=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("power", POWERS)
def test_it_is_zero_if_and_only_if_the_acquired_samples_agree(
    shape: tuple[int, int], channels: int, power: Literal[1, 2]
) -> None:
    image, mask = images(shape, channels), masks(shape)
    known = mask.numpy() if channels == 2 else with_mirror(mask)
    spectrum = centered_spectrum(complex_plane(images(shape, channels, name="other")))
    elsewhere, there = (image_with_spectrum(spectrum * where, channels) for where in (~known, known))
    assert float(elsewhere.abs().max()) > 0.1
    assert float(sampling_loss(image, image + elsewhere, mask, power=power)) < 1e-12
    assert float(sampling_loss(image, image + there, mask, power=power)) > 0.1
    assert float(sampling_loss(image, image, mask, power=power)) == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("power", POWERS)
def test_its_slope_changes_acquired_samples_alone(shape: tuple[int, int], channels: int, power: Literal[1, 2]) -> None:
    other, mask = images(shape, channels, name="other").requires_grad_(), masks(shape)
    sampling_loss(images(shape, channels), other, mask, power=power).backward()
    assert other.grad is not None
    moved = np.abs(centered_spectrum(complex_plane(other.grad)))
    known = mask.numpy() if channels == 2 else with_mirror(mask)
    assert moved[~known].max() < 1e-12
    assert moved[known].min() > 1e-4


def test_the_slope_of_its_square_is_the_normal_operator_of_the_error() -> None:
    image, other, mask = images((9, 12), 2), images((9, 12), 2, name="other").requires_grad_(), masks((9, 12))
    sampling_loss(image, other, mask, "ortho", 2).backward()
    assert other.grad is not None
    error = torch.from_numpy(complex_plane(other - image))
    expected = 2 / mask.numel() * Cartesian(mask).normal(error)
    np.testing.assert_allclose(complex_plane(other.grad), expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("power", POWERS)
def test_agreement_is_a_place_to_stay(power: Literal[1, 2]) -> None:
    """The modulus has no slope at zero; none is better than one that is not a number."""
    image = images((9, 12), 2)
    other = image.clone().requires_grad_()
    sampling_loss(image, other, masks((9, 12)), power=power).backward()
    assert other.grad is not None
    assert not other.grad.any()


@pytest.mark.parametrize(
    ("given", "found"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_it_is_computed_in_single_precision_at_least(given: torch.dtype, found: torch.dtype) -> None:
    image, other, mask = images((9, 12)), images((9, 12), name="other"), masks((9, 12))
    loss = sampling_loss(image.to(given), other.to(given), mask)
    assert loss.dtype == found
    assert float(loss) == pytest.approx(float(sampling_loss(image, other, mask)), rel=0.02)


# --- several coils ------------------------------------------------------------------------------------------------


def coils_of(shape: tuple[int, int], number: int = 4, size: int = 2) -> Tensor:
    maps = birdcage_maps(shape, number, seeded("coils")).to(torch.complex128)
    return maps / torch.linalg.vector_norm(maps, dim=0) * torch.ones(size, 1, 1, 1)


def as_channels(image: Tensor) -> Tensor:
    return torch.view_as_real(image).movedim(-1, 1)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("power", POWERS)
def test_one_coil_that_sees_everything_alike_gives_the_loss_of_the_paper(
    channels: int, norm: FourierNorm, power: Literal[1, 2]
) -> None:
    """Of a zero-filled image, which has nothing outside the mask; a magnitude is such up to its own phase."""
    image, mask = images((9, 12), channels), masks((9, 12))
    if channels == 2:
        spectrum = centered_spectrum(complex_plane(images((9, 12), 2, name="other"))) * mask.numpy()
        other = image_with_spectrum(spectrum, 2)
    else:
        other, mask = images((9, 12), name="other"), torch.ones(2, 9, 12, dtype=torch.bool)
    expected = float(sampling_loss(other, image, mask, norm, power))
    ones = torch.ones(2, 1, 9, 12, dtype=torch.complex128)
    assert float(sampling_loss(other, image, mask, norm, power, ones)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("power", POWERS)
def test_the_truth_of_several_coils_has_no_loss_and_would_have_one_by_its_combined_spectrum(
    power: Literal[1, 2],
) -> None:
    truth = torch.complex(*images((9, 12), 2).unbind(1))
    coils, mask = coils_of((9, 12)), masks((9, 12))
    zero_filled = Cartesian(mask, coils).normal(truth)
    pair = as_channels(zero_filled), as_channels(truth)
    assert float(sampling_loss(*pair, mask, power=power, coils=coils)) < 1e-12
    assert float(sampling_loss(*pair, mask, power=power)) > 0.1
    aside = as_channels(truth + 0.1)
    assert float(sampling_loss(pair[0], aside, mask, power=power, coils=coils)) > 1e-3


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("power", POWERS)
def test_the_loss_of_several_coils_is_that_of_their_samples(
    channels: int, norm: FourierNorm, power: Literal[1, 2]
) -> None:
    """By NumPy, coil by coil; -1 is black in a magnitude."""
    undersampled, full = images((9, 12), channels), images((9, 12), channels, name="full")
    coils, mask = coils_of((9, 12)), masks((9, 12))
    values = [complex_plane(one) + (channels == 1) for one in (undersampled, full)]
    maps, kept = coils.numpy(), mask.numpy()[:, None]
    samples = kept * centered_spectrum(maps * values[1][:, None])
    again = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(samples, axes=AXES), norm="ortho"), axes=AXES)
    difference = (maps.conj() * again).sum(1) - values[0]
    spectrum = kept * centered_spectrum(maps * difference[:, None], norm)
    expected = (np.linalg.norm(spectrum, axis=1) ** power).sum() / mask.numel()
    assert float(sampling_loss(undersampled, full, mask, norm, power, coils)) == pytest.approx(expected, rel=1e-9)


def test_agreement_of_several_coils_is_a_place_to_stay() -> None:
    mask, coils = masks((9, 12)), coils_of((9, 12))
    truth = torch.zeros(2, 2, 9, 12, dtype=torch.float64, requires_grad=True)
    sampling_loss(torch.zeros_like(truth), truth, mask, coils=coils).backward()
    assert truth.grad is not None
    assert not truth.grad.any()
