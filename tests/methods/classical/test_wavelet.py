"""L1-wavelet: the transform is unitary, the threshold a proximal map, and the image the minimiser that sigpy finds."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pywt
import sigpy
import sigpy.mri.app
import torch
from torch import Tensor

from helpers.scans import two_even_images
from sansref.errors import SettingError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.fourier import fft2c
from sansref.kspace.grid import Shape
from sansref.kspace.measurement import Measurement
from sansref.methods.classical.wavelet import OrthogonalWavelet, l1_wavelet
from sansref.randomness import seeded

SIZES = [(1, 6), (5, 7), (8, 8), (14, 27), (33, 31), (64, 48)]


def test_components_of_two_sets_of_maps_have_no_edge_in_common() -> None:
    """One below the other, two even images would have one: nothing of them is to be taken away."""
    given, image = two_even_images(32)
    torch.testing.assert_close(l1_wavelet(given, 0.1, 50, seeded("shifts")), image, atol=1e-4, rtol=0)


def flat(coefficients: list[Any]) -> Tensor:
    approximation, *details = coefficients
    return torch.cat([torch.from_numpy(band).flatten() for band in (approximation, *(b for d in details for b in d))])


def detail_norm(image: Tensor) -> float:
    """|W' x|_1 by PyWavelets' own n-dimensional transform."""
    height, width = image.shape
    level = min(4, pywt.dwt_max_level(min(height, width), 8))
    details = pywt.wavedecn(image.numpy(), "db4", mode="periodization", level=level)[1:]
    return float(sum(np.abs(band).sum() for bands in details for band in bands.values()))


def objective(given: Measurement, image: Tensor, absolute: float) -> float:
    misfit = Cartesian(given.mask, given.maps).forward(image) - given.kspace
    return 0.5 * float(misfit.abs().square().sum()) + absolute * detail_norm(image[0])


@pytest.mark.parametrize("size", SIZES)
def test_the_transform_is_unitary_on_every_plane(make: Any, size: Shape) -> None:
    wavelet = OrthogonalWavelet(size)
    image, other = make.noise(*wavelet.plane), wavelet.coefficients(make.noise(*wavelet.plane, seed=1))
    coefficients = wavelet.coefficients(image)
    assert flat(coefficients).numel() == image.numel()
    torch.testing.assert_close(wavelet.image(coefficients), image)
    torch.testing.assert_close(flat(wavelet.coefficients(wavelet.image(other))), flat(other))
    product = torch.vdot(flat(coefficients), flat(other))
    torch.testing.assert_close(product, torch.vdot(image.flatten(), wavelet.image(other).flatten()))


@pytest.mark.parametrize(
    ("size", "plane", "approximation"),
    [
        ((256, 256), (256, 256), (16, 16)),
        ((257, 190), (272, 192), (17, 12)),
        ((64, 48), (64, 48), (16, 12)),
        ((5, 7), (6, 8), (3, 4)),
    ],
)
def test_the_plane_is_the_image_rounded_up_to_what_halves_evenly(
    make: Any, size: Shape, plane: Shape, approximation: Shape
) -> None:
    wavelet = OrthogonalWavelet(size)
    assert wavelet.plane == plane
    assert wavelet.coefficients(make.noise(*plane))[0].shape == approximation


def test_the_coefficients_are_those_of_pywavelets(make: Any) -> None:
    image = make.noise(2, 64, 48)
    expected = pywt.wavedec2(image.numpy(), "db4", mode="periodization", level=2)
    torch.testing.assert_close(flat(OrthogonalWavelet((64, 48)).coefficients(image)), flat(expected))


def test_the_threshold_takes_the_same_from_the_magnitude_of_every_detail_and_leaves_phase_and_approximation() -> None:
    wavelet = OrthogonalWavelet((16, 16))
    given = [np.full((8, 8), 0.1 + 0j), tuple(np.zeros((8, 8), complex) for _ in range(3))]
    given[1][0][2, 3], given[1][1][0, 0], given[1][2][5, 5] = 3 + 4j, 0.6 - 0.8j, -2
    found = wavelet.coefficients(wavelet.shrink(wavelet.image(given)[None], torch.ones(1, 1, 1)))
    expected = [np.full((8, 8), 0.1 + 0j), tuple(np.zeros((8, 8), complex) for _ in range(3))]
    expected[1][0][2, 3], expected[1][2][5, 5] = 2.4 + 3.2j, -1
    torch.testing.assert_close(flat(found), flat(expected))


def test_the_threshold_is_the_proximal_map_of_the_prior_slice_by_slice(make: Any) -> None:
    wavelet, image = OrthogonalWavelet((32, 32)), make.noise(2, 32, 32)
    threshold = torch.tensor([0.3, 1.5], dtype=torch.float64)
    shrunk = wavelet.shrink(image, threshold[:, None, None])

    def value(slice_: int, candidate: Tensor) -> float:
        away = 0.5 * float((candidate - image[slice_]).abs().square().sum())
        return away + float(threshold[slice_]) * detail_norm(candidate)

    for slice_ in range(2):
        lowest = value(slice_, shrunk[slice_])
        for seed in range(20):
            step = make.noise(32, 32, seed=seed) * 10.0 ** -(seed % 4)
            assert value(slice_, shrunk[slice_] + step) > lowest
        toward = image[slice_] - shrunk[slice_]
        assert value(slice_, shrunk[slice_] + 0.01 * toward) > lowest
        assert value(slice_, shrunk[slice_] - 0.01 * toward) > lowest


@pytest.mark.parametrize("coils", [1, 3])
def test_the_gain_bounds_the_largest_eigenvalue_of_the_normal_operator(make: Any, coils: int) -> None:
    """Of every mask, and reached by a full one, where the encoding is diagonal in the image."""
    maps = make.noise(2, coils, 6, 5) if coils > 1 else None
    for mask in (torch.rand(2, 6, 5, generator=seeded(0)) < 0.5, torch.ones(2, 6, 5, dtype=torch.bool)):
        given = Measurement(make.noise(2, coils, 6, 5), mask, maps)
        unit = torch.eye(30, dtype=torch.complex128).reshape(30, 6, 5)
        for slice_, gain in enumerate(given.grid.largest_gain.flatten().tolist()):
            encoding = Cartesian(mask[slice_], None if maps is None else maps[slice_])
            largest = float(torch.linalg.eigvalsh(encoding.normal(unit).reshape(30, 30)).max())
            assert largest <= gain * (1 + 1e-9)
            if bool(mask.all()):
                assert largest == pytest.approx(gain)


class Details(sigpy.linop.Linop):  # type: ignore[misc, name-defined]
    """W for sigpy, by PyWavelets' n-dimensional transform packed into one array."""

    def __init__(self, shape: Shape, level: int, inverse: bool = False) -> None:
        self.level, self.inverse = level, inverse
        packed = pywt.coeffs_to_array(self._transform(np.zeros(shape)))
        self.slices = packed[1]
        super().__init__(shape, shape)

    def _transform(self, image: Any) -> Any:
        return pywt.wavedecn(image, "db4", mode="periodization", level=self.level)

    def _apply(self, values: Any) -> Any:
        if not self.inverse:
            return pywt.coeffs_to_array(self._transform(values))[0]
        unpacked = pywt.array_to_coeffs(values, self.slices, output_format="wavedecn")
        return pywt.waverecn(unpacked, "db4", mode="periodization")

    def _adjoint_linop(self) -> Details:
        return Details(self.ishape, self.level, not self.inverse)


@pytest.mark.parametrize("coils", [1, 3])
def test_without_shifts_the_image_is_the_minimiser_that_sigpy_finds(make: Any, coils: int) -> None:
    shape, regularisation = (32, 32), 0.01
    given = make.scan(make.phantom(shape), coils)
    absolute = regularisation * float(make.zero_filled(given).abs().max())
    weights = np.full(shape, absolute)
    weights[:8, :8] = 0
    prox = sigpy.prox.UnitaryTransform(sigpy.prox.L1Reg(shape, weights), Details(shape, 2))
    maps = np.ones((1, *shape), complex) if given.maps is None else given.maps[0].numpy()
    encoding = sigpy.mri.linop.Sense(maps, weights=given.mask[0].numpy().astype(float))
    app = sigpy.app.LinearLeastSquares(encoding, given.kspace[0].numpy(), proxg=prox, max_iter=200, show_pbar=False)
    theirs = torch.from_numpy(app.run())[None]
    ours = l1_wavelet(given, regularisation, 200)
    assert objective(given, ours, absolute) == pytest.approx(objective(given, theirs, absolute), rel=1e-6)
    assert make.distance(ours, theirs) < 1e-3


def test_100_iterations_get_lower_than_those_of_sigpys_application(make: Any) -> None:
    """Its wavelets are padded at the borders instead of periodic, and so only nearly orthogonal."""
    shape = (64, 64)
    given = make.scan(make.phantom(shape))
    absolute = 0.005 * float(make.zero_filled(given).abs().max())
    mask = given.mask[0].numpy().astype(float)
    maps = np.ones((1, *shape), complex)
    app = sigpy.mri.app.L1WaveletRecon(given.kspace[0].numpy(), maps, absolute, weights=mask, show_pbar=False)
    theirs = torch.from_numpy(app.run())[None]
    lowest = objective(given, l1_wavelet(given, 0.005, 100), absolute)
    assert lowest < objective(given, theirs, absolute)
    assert lowest < objective(given, make.zero_filled(given), absolute)


@pytest.mark.parametrize("coils", [1, 3])
def test_an_image_beats_zero_filling_and_cycle_spinning_beats_a_fixed_transform(make: Any, coils: int) -> None:
    truth = make.phantom((96, 96)).to(torch.complex64)
    given = make.scan(truth, coils)
    fixed, spun = l1_wavelet(given, 0.003), l1_wavelet(given, 0.003, generator=seeded("shifts"))
    assert make.psnr(fixed[0], truth) > make.psnr(make.zero_filled(given)[0], truth) + 3
    assert make.psnr(spun[0], truth) > make.psnr(fixed[0], truth) + 1


def test_the_shifts_come_from_the_generator_alone(make: Any) -> None:
    given = make.scan(make.phantom((32, 32)).to(torch.complex64))
    state = torch.get_rng_state()
    first, again, other = (l1_wavelet(given, 0.01, 20, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("coils", [1, 2])
def test_a_slice_does_not_depend_on_its_neighbours_in_the_batch(make: Any, coils: int) -> None:
    """Of other strength, other kind of mask, and other gain of the maps."""
    image = make.phantom((33, 40)).to(torch.complex64)
    points, columns = make.scan(image, coils), make.scan(1000 * image.flip(0), coils, "random_columns")
    maps = None if points.maps is None or columns.maps is None else torch.cat([points.maps, 5 * columns.maps])
    kspace, mask = torch.cat([points.kspace, columns.kspace]), torch.cat([points.mask, columns.mask])
    together = l1_wavelet(Measurement(kspace, mask, maps), 0.01, 30, seeded(0))
    for i in range(2):
        one = slice(i, i + 1)
        alone = l1_wavelet(
            Measurement(kspace[one], mask[one], None if maps is None else maps[one]), 0.01, 30, seeded(0)
        )
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize("power", [-20, 20])
def test_the_image_follows_the_units_of_the_samples_and_of_the_maps(make: Any, power: int) -> None:
    """A power of two changes no digit."""
    given = make.scan(make.phantom((32, 32)).to(torch.complex64), 3)
    assert given.maps is not None
    image = l1_wavelet(given, 0.01, 30)
    brighter = l1_wavelet(replace(given, kspace=2.0**power * given.kspace), 0.01, 30)
    assert torch.equal(brighter, 2.0**power * image)
    stronger = l1_wavelet(replace(given, maps=4 * given.maps), 0.01, 30)
    torch.testing.assert_close(stronger, image / 4)


def test_a_constant_phase_passes_through(make: Any) -> None:
    given = make.scan(make.phantom((32, 32)), 2)
    turned = l1_wavelet(replace(given, kspace=1j * given.kspace), 0.01, 30)
    torch.testing.assert_close(turned, 1j * l1_wavelet(given, 0.01, 30))


@pytest.mark.parametrize("size", SIZES)
def test_images_of_any_size_come_back_from_all_their_samples_without_regularisation(make: Any, size: Shape) -> None:
    image, mask = make.noise(2, *size), torch.ones(2, *size, dtype=torch.bool)
    found = l1_wavelet(Measurement(fft2c(image)[:, None], mask), 0, 30, seeded(0))
    torch.testing.assert_close(found, image)


def test_single_precision_finds_the_image_of_double_precision(make: Any) -> None:
    given = make.scan(make.phantom((48, 48)), 2)
    assert given.maps is not None
    single = Measurement(given.kspace.to(torch.complex64), given.mask, given.maps.to(torch.complex64))
    image = l1_wavelet(single, 0.01, 100, seeded(0))
    assert image.dtype == torch.complex64
    expected = l1_wavelet(given, 0.01, 100, seeded(0))
    assert make.distance(image, expected) < 1e-5


@pytest.mark.parametrize("maps", [None, "birdcage", "zero"])
def test_scans_of_nothing_give_an_image_of_nothing(make: Any, maps: str | None) -> None:
    coils = 1 if maps is None else 2
    given = make.scan(torch.zeros(20, 17, dtype=torch.complex64), coils, sigma=0)
    if maps == "zero":
        given = replace(given, maps=torch.zeros(1, 2, 20, 17, dtype=torch.complex64))
    assert torch.equal(l1_wavelet(given, 0.01, 5, seeded(0)), torch.zeros(1, 20, 17, dtype=torch.complex64))


def test_several_coils_without_maps_are_refused(make: Any) -> None:
    given = make.scan(make.phantom((32, 32)), 2)
    with pytest.raises(ValueError, match="k-space of 2 coils needs coil sensitivity maps"):
        l1_wavelet(replace(given, maps=None), 0.01)


def test_without_pywavelets_the_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(SettingError, match=r"l1_wavelet needs PyWavelets: pip install PyWavelets"):
        OrthogonalWavelet((32, 32))
