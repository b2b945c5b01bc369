"""Total variation: plateaus computed by hand, the minimiser that sigpy finds, and convergence with many coils."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sigpy
import sigpy.mri.app
import torch
from torch import Tensor

from helpers.scans import two_even_images
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.grid import Shape
from sansref.kspace.measurement import Measurement
from sansref.methods.classical.total_variation import (
    differences,
    differences_adjoint,
    shrink,
    total_variation,
)
from sansref.randomness import seeded


def objective(given: Measurement, image: Tensor, absolute: float) -> float:
    """In numpy, from the definition."""
    misfit = Cartesian(given.mask, given.maps).forward(image) - given.kspace
    pixels = image.numpy()
    down, right = (np.roll(pixels, -1, axis) - pixels for axis in (-2, -1))
    return 0.5 * float(misfit.abs().square().sum()) + absolute * float(np.hypot(np.abs(down), np.abs(right)).sum())


def test_components_of_two_sets_of_maps_have_no_edge_in_common() -> None:
    """One below the other, two even images would have one: nothing of them is to be taken away."""
    given, image = two_even_images(16)
    torch.testing.assert_close(total_variation(given, 0.1, 100), image, atol=1e-4, rtol=0)


def test_differences_are_those_to_the_pixel_below_and_to_the_right_round_the_border() -> None:
    image = torch.tensor([[1, 2, 4], [7, 7j, 0]])
    expected = torch.tensor([[[6, -2 + 7j, -4], [-6, 2 - 7j, 4]], [[1, 2, -3], [-7 + 7j, -7j, 7]]])
    torch.testing.assert_close(differences(image), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 4)])
def test_the_adjoint_of_the_differences_is_their_adjoint(make: Any, shape: Shape) -> None:
    image, steps = make.noise(3, *shape), make.noise(2, 3, *shape, seed=1)
    left = torch.vdot(differences(image).flatten(), steps.flatten())
    torch.testing.assert_close(left, torch.vdot(image.flatten(), differences_adjoint(steps).flatten()))


def test_the_threshold_shortens_both_complex_differences_of_a_pixel_together() -> None:
    steps = torch.tensor([[[3.0 + 0j, 2j, 0.6, 0]], [[4j, 0, 0.8j, 0]]])
    expected = torch.tensor([[[2.4 + 0j, 1j, 0, 0]], [[3.2j, 0, 0, 0]]])
    torch.testing.assert_close(shrink(steps, torch.tensor(1.0)), expected)


@pytest.mark.parametrize("seed", range(10))
def test_the_threshold_is_the_proximal_map_of_the_summed_lengths(make: Any, seed: int) -> None:
    steps, threshold = make.noise(2, 6, 5), 0.8
    shrunk = shrink(steps, torch.tensor(threshold))

    def value(candidate: Tensor) -> float:
        lengths = np.sqrt((np.abs(candidate.numpy()) ** 2).sum(0))
        return 0.5 * float((candidate - steps).abs().square().sum()) + threshold * float(lengths.sum())

    assert value(shrunk) < value(shrunk + make.noise(2, 6, 5, seed=seed + 1) * 10.0 ** -(seed % 4))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("coils", [1, 3])
def test_plateaus_of_a_striped_image_move_together_by_twice_the_weight_over_their_width(
    make: Any, coils: int, transposed: bool
) -> None:
    """A stripe of w pixels has two edges: lambda TV moves each line of it by 2 lambda / w, until stripes meet."""
    low, high, regularisation = 1.0, 4.0, 0.25
    weight, turn = regularisation * high, np.exp(0.7j)

    def striped(outside: float, inside: float) -> Tensor:
        stripes = torch.full((12, 16), outside, dtype=torch.complex128)
        stripes[:, 3:8] = inside
        return turn * (stripes.T.contiguous() if transposed else stripes)

    image, expected = striped(low, high), striped(low + 2 * weight / 11, high - 2 * weight / 5)
    mask = torch.ones(1, *image.shape, dtype=torch.bool)
    maps = make.noise(1, coils, *image.shape) if coils > 1 else None
    maps = None if maps is None else maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    given = Measurement(Cartesian(mask, maps).transform(image[None]), mask, maps)
    torch.testing.assert_close(total_variation(given, regularisation, 500)[0], expected, rtol=1e-5, atol=1e-5)
    flat = total_variation(given, 2.0, 500)[0]
    torch.testing.assert_close(flat, image.mean().expand_as(flat), rtol=1e-4, atol=1e-4)


class Lengths(sigpy.prox.Prox):  # type: ignore[misc, name-defined]
    """The proximal map of weight times the summed lengths over the first axis, for sigpy."""

    def __init__(self, shape: Any, weight: float) -> None:
        self.weight = weight
        super().__init__(shape)

    def _prox(self, alpha: float, values: Any) -> Any:
        lengths = np.linalg.norm(values, axis=0)
        return values * (1 - self.weight * alpha / np.maximum(lengths, self.weight * alpha))


@pytest.mark.parametrize("law", ["variable_density", "random_columns"])
@pytest.mark.parametrize("coils", [1, 3])
def test_the_image_is_the_minimiser_that_sigpy_finds(make: Any, coils: int, law: str) -> None:
    shape, regularisation = (20, 17), 0.02
    given = make.scan(make.phantom(shape), coils, law)
    absolute = regularisation * float(make.zero_filled(given).abs().max())
    maps = np.ones((1, *shape), complex) if given.maps is None else given.maps[0].numpy()
    encoding = sigpy.mri.linop.Sense(maps, weights=given.mask[0].numpy().astype(float))
    unit, linop = sigpy.linop.Identity(shape), sigpy.linop
    forward = [
        linop.Reshape((1, *shape), shape) * (linop.Circshift(shape, [-1], axes=[axis]) - unit) for axis in (0, 1)
    ]
    gradient = linop.Vstack(forward, axis=0)
    prox = Lengths(gradient.oshape, absolute)
    settings = {"G": gradient, "proxg": prox, "sigma": 0.1, "max_iter": 1000, "show_pbar": False}
    app = sigpy.app.LinearLeastSquares(encoding, given.kspace[0].numpy(), **settings)
    theirs = torch.from_numpy(app.run())[None]
    ours = total_variation(given, regularisation, 600)
    assert objective(given, ours, absolute) <= objective(given, theirs, absolute) * (1 + 1e-7)
    assert make.distance(ours, theirs) < 1e-4


@pytest.mark.parametrize("coils", [1, 3])
def test_100_iterations_get_lower_than_those_of_sigpys_application(make: Any, coils: int) -> None:
    """Its prior is anisotropic, so that part of the difference is another image; much of it is slow convergence."""
    given = make.scan(make.phantom((48, 48)), coils)
    absolute = 0.005 * float(make.zero_filled(given).abs().max())
    maps = np.ones((1, 48, 48), complex) if given.maps is None else given.maps[0].numpy()
    weights = given.mask[0].numpy().astype(float)
    app = sigpy.mri.app.TotalVariationRecon(given.kspace[0].numpy(), maps, absolute, weights=weights, show_pbar=False)
    theirs = objective(given, torch.from_numpy(app.run())[None], absolute)
    assert objective(given, total_variation(given, 0.005), absolute) < theirs


@pytest.mark.parametrize("coils", [1, 3])
def test_the_preconditioner_is_made_of_the_diagonal_of_the_normal_operator_in_k_space(make: Any, coils: int) -> None:
    """Of its dense matrix, column by column, for maps and masks without any symmetry."""
    mask = torch.rand(2, 6, 5, generator=seeded(0)) < 0.4
    maps = make.noise(2, coils, 6, 5) if coils > 1 else None
    given = Measurement(make.noise(2, coils, 6, 5), mask, maps)
    waves = torch.fft.ifft2(torch.eye(30, dtype=torch.complex128).reshape(30, 6, 5), norm="ortho")
    for slice_, found in enumerate(given.grid.data_diagonal):
        encoding = Cartesian(mask[slice_], None if maps is None else maps[slice_])
        expected = (waves.conj() * encoding.normal(waves)).sum((-2, -1)).real.reshape(6, 5)
        torch.testing.assert_close(found.double(), expected)


@pytest.mark.parametrize("law", ["variable_density", "random_columns"])
@pytest.mark.parametrize("coils", [1, 4])
def test_100_iterations_are_near_the_limit(make: Any, coils: int, law: str) -> None:
    """With several coils a plain gradient step stops 20 % away."""
    given = make.scan(make.phantom((32, 32)), coils, law, sigma=0.005)
    found, limit = total_variation(given, 0.001), total_variation(given, 0.001, 600)
    assert make.distance(found, limit) < 0.05


@pytest.mark.parametrize("coils", [1, 3])
def test_the_edge_decides_on_speed_and_not_on_the_image(make: Any, coils: int) -> None:
    given = make.scan(make.phantom((24, 20)), coils)
    small, large = (total_variation(given, 0.01, 600, edge) for edge in (0.01, 0.1))
    assert make.distance(small, large) < 1e-3


@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("law", ["variable_density", "random_columns"])
def test_an_image_beats_zero_filling(make: Any, coils: int, law: str) -> None:
    truth = make.phantom((64, 64)).to(torch.complex64)
    given = make.scan(truth, coils, law)
    image = total_variation(given, 0.003)
    assert image.dtype == torch.complex64
    assert make.psnr(image[0], truth) > make.psnr(make.zero_filled(given)[0], truth) + 3


@pytest.mark.parametrize("coils", [1, 2])
def test_a_slice_does_not_depend_on_its_neighbours_in_the_batch(make: Any, coils: int) -> None:
    """Of other strength, other kind of mask, and other gain of the maps."""
    image = make.phantom((33, 40)).to(torch.complex64)
    points, columns = make.scan(image, coils), make.scan(1000 * image.flip(0), coils, "random_columns")
    maps = None if points.maps is None or columns.maps is None else torch.cat([points.maps, 5 * columns.maps])
    kspace, mask = torch.cat([points.kspace, columns.kspace]), torch.cat([points.mask, columns.mask])
    together = total_variation(Measurement(kspace, mask, maps), 0.01, 30)
    for i in range(2):
        one = slice(i, i + 1)
        alone = total_variation(Measurement(kspace[one], mask[one], None if maps is None else maps[one]), 0.01, 30)
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


@pytest.mark.parametrize("power", [-20, 20])
@pytest.mark.parametrize("coils", [1, 3])
def test_the_image_follows_the_units_of_the_samples(make: Any, coils: int, power: int) -> None:
    """A power of two changes no digit."""
    given = make.scan(make.phantom((32, 32)).to(torch.complex64), coils)
    brighter = total_variation(replace(given, kspace=2.0**power * given.kspace), 0.01, 30)
    assert torch.equal(brighter, 2.0**power * total_variation(given, 0.01, 30))


def test_the_image_follows_the_units_of_the_maps(make: Any) -> None:
    given = make.scan(make.phantom((32, 32)), 3)
    assert given.maps is not None
    stronger = total_variation(replace(given, maps=4 * given.maps), 0.01, 30)
    torch.testing.assert_close(stronger, total_variation(given, 0.01, 30) / 4)


@pytest.mark.parametrize("regularisation", [1e-5, 1e-3, 1e-1])
@pytest.mark.parametrize("coils", [1, 3])
def test_single_precision_finds_the_image_of_double_precision(make: Any, coils: int, regularisation: float) -> None:
    given = make.scan(make.phantom((48, 48)), coils)
    maps = None if given.maps is None else given.maps.to(torch.complex64)
    image = total_variation(Measurement(given.kspace.to(torch.complex64), given.mask, maps), regularisation, 100)
    assert make.distance(image, total_variation(given, regularisation, 100)) < 1e-3


@pytest.mark.parametrize("coils", [1, 3])
def test_a_scan_without_its_center_still_gives_an_image(make: Any, coils: int) -> None:
    """The mean of one coil's image is told by nothing and stays 0."""
    given = make.scan(make.phantom((24, 21)), coils)
    mask = given.mask.clone()
    mask[:, 12, 10] = False
    image = total_variation(Measurement(given.kspace * mask[:, None], mask, given.maps), 0.01)
    assert bool(image.isfinite().all())
    if coils == 1:
        assert abs(complex(image.mean())) < 1e-12
        assert float(image.abs().max()) > 0.1


def test_without_regularisation_one_coil_stays_zero_filled(make: Any) -> None:
    given = make.scan(make.phantom((24, 21)))
    torch.testing.assert_close(total_variation(given, 0, 50), make.zero_filled(given))


@pytest.mark.parametrize("maps", [None, "birdcage", "zero"])
def test_scans_of_nothing_give_an_image_of_nothing(make: Any, maps: str | None) -> None:
    coils = 1 if maps is None else 2
    given = make.scan(torch.zeros(20, 17, dtype=torch.complex64), coils, sigma=0)
    if maps == "zero":
        given = replace(given, maps=torch.zeros(1, 2, 20, 17, dtype=torch.complex64))
    assert torch.equal(total_variation(given, 0.01, 5), torch.zeros(1, 20, 17, dtype=torch.complex64))


def test_several_coils_without_maps_are_refused(make: Any) -> None:
    given = make.scan(make.phantom((32, 32)), 2)
    with pytest.raises(ValueError, match="k-space of 2 coils needs coil sensitivity maps"):
        total_variation(replace(given, maps=None), 0.01)
