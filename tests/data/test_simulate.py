from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sansref.data.simulate import Simulation, simulate
from sansref.errors import SettingError
from sansref.kspace.coils import combine, rss
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.scan import Scan, ScanMeta

META = ScanMeta(subject="s", source="head.nii", slice=3, scale=2.0)
NOISELESS = Simulation(snr=None)


def _object(height: int = 48, width: int = 60) -> Tensor:
    """A bright ellipse with a darker inside and an empty background."""
    rows = torch.linspace(-1.2, 1.2, height)[:, None]
    columns = torch.linspace(-1.2, 1.2, width)
    radius = torch.hypot(rows, columns)
    return 80.0 * (radius < 1) + 40.0 * (radius < 0.6) * (columns > 0)


def _scan(options: Simulation, seed: int = 0, image: Tensor | None = None) -> Scan:
    return simulate(_object() if image is None else image, options, torch.Generator().manual_seed(seed), META)


def _reference(scan: Scan) -> Tensor:
    assert scan.reference is not None
    return scan.reference


def test_a_noiseless_scan_is_the_transform_of_its_reference() -> None:
    scan = _scan(NOISELESS)
    assert scan.kspace.shape == (1, 48, 60)
    assert scan.maps is None
    assert bool(scan.mask.all())
    torch.testing.assert_close(scan.kspace[0], fft2c(_reference(scan)))
    assert scan.meta == ScanMeta(subject="s", source="head.nii", slice=3, scale=2.0, synthetic=True)


@pytest.mark.parametrize("snr", [None, 5.0])
def test_the_reference_is_noiseless_and_has_the_magnitude_of_the_image(snr: float | None) -> None:
    torch.testing.assert_close(_reference(_scan(Simulation(snr=snr))).abs(), _object())


def test_phase_zero_keeps_the_image_real() -> None:
    assert float(_reference(_scan(Simulation(phase=0.0))).imag.abs().max()) == 0.0


@pytest.mark.parametrize("strength", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("size", [(64, 64), (33, 90)])
def test_the_phase_is_smooth_and_as_strong_as_asked(strength: float, size: tuple[int, int]) -> None:
    flat = torch.ones(size)
    phasor = _reference(_scan(Simulation(phase=strength, snr=None), image=flat))
    if strength < 1:  # Where no pixel wraps, the phase can be read off.
        assert float(phasor.angle().square().mean().sqrt()) == pytest.approx(strength, rel=1e-4)
    assert float(phasor.imag.abs().max()) > 0.1
    height, width = size
    energy = fft2c(phasor).abs().square()
    reach = 4 + math.ceil(3 * strength)  # A stronger phase turns more often across the field of view.
    rows = slice(max(height // 2 - reach, 0), height // 2 + reach + 1)
    columns = slice(max(width // 2 - reach, 0), width // 2 + reach + 1)
    assert float(energy[rows, columns].sum() / energy.sum()) > 0.999


def test_phase_breaks_the_symmetry_of_kspace() -> None:
    """Without it, half of k-space repeats the other half, and undersampling is too easy."""

    def asymmetry(scan: Scan) -> float:
        k = scan.kspace[0, 1:, 1:]  # Even sizes: the first row and column have no mirror image.
        return float((k - k.flip(0, 1).conj()).norm() / k.norm())

    assert asymmetry(_scan(Simulation(phase=0.0, snr=None))) < 1e-5
    assert asymmetry(_scan(NOISELESS)) > 0.3


@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize("snr", [5.0, 30.0])
def test_snr_is_mean_signal_over_the_noise_of_each_part(snr: float, coils: int) -> None:
    image = _object(160, 160)
    scan = _scan(Simulation(snr=snr, coils=coils), image=image)
    images = ifft2c(scan.kspace)
    combined = images[0] if scan.maps is None else combine(images, scan.maps)
    signal = image[image > 0].mean()
    noise = combined - _reference(scan)
    for part in (noise.real, noise.imag):
        assert float(signal / part.std()) == pytest.approx(snr, rel=0.03)
        assert abs(float(part.mean())) < 4 * float(part.std()) / 160
    assert abs(float((noise.real * noise.imag).mean() / noise.real.var())) < 0.03
    # White: as strong in the corner of k-space, where the object has little, as anywhere.
    clean = fft2c(_reference(scan) if scan.maps is None else scan.maps * _reference(scan))
    corner = (scan.kspace - clean)[:, :40, :40]
    assert float(signal / corner.real.std()) == pytest.approx(snr, rel=0.06)


def test_scans_know_their_noise_as_if_they_came_with_a_scan_of_it() -> None:
    scan = _scan(Simulation(snr=10.0, coils=2, noise_scan=True), image=_object(160, 160))
    assert scan.maps is not None
    noise = scan.kspace - fft2c(scan.maps * _reference(scan))
    assert scan.meta.noise == pytest.approx([float(coil.real.std()) for coil in noise], rel=0.02)
    assert _scan(Simulation(snr=10.0)).meta.noise is None
    assert _scan(Simulation(snr=None, noise_scan=True)).meta.noise is None


def test_dim_background_does_not_count_as_signal() -> None:
    image = _object()
    hazy = torch.where(image > 0, image, torch.full_like(image, 0.05 * float(image.max())))
    clear, dim = (_scan(Simulation(phase=0.0), image=i) for i in (image, hazy))
    difference = (dim.kspace[0] - fft2c(_reference(dim))) - (clear.kspace[0] - fft2c(_reference(clear)))
    assert float(difference.abs().max()) < 1e-3


def test_several_coils_come_with_their_maps() -> None:
    scan = _scan(Simulation(snr=None, coils=6))
    assert scan.maps is not None
    assert scan.kspace.shape == scan.maps.shape == (6, 48, 60)
    torch.testing.assert_close(rss(scan.maps), torch.ones(48, 60))
    torch.testing.assert_close(combine(ifft2c(scan.kspace), scan.maps), _reference(scan), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [Simulation(), Simulation(coils=3)])
def test_the_generator_is_the_only_randomness(options: Simulation) -> None:
    first, again, other = (_scan(options, seed) for seed in (0, 0, 1))
    assert torch.equal(first.kspace, again.kspace)
    assert torch.equal(_reference(first), _reference(again))
    inside = _object() > 0
    turn = (_reference(first) * _reference(other).conj())[inside].angle()
    assert float(turn.std()) > 0.1  # Another scan has another phase, not only another constant.
    if first.maps is not None and other.maps is not None:
        assert not torch.allclose(first.maps, other.maps, atol=0.01)


def test_minmax_stretches_to_one_and_keeps_the_unit_in_the_scale() -> None:
    image = _object() + 20.0
    scan = _scan(Simulation(normalise="minmax", snr=None), image=image)
    magnitude = _reference(scan).abs()
    assert float(magnitude.min()) == 0.0
    assert float(magnitude.max()) == pytest.approx(1.0)
    assert scan.meta.scale == pytest.approx(2.0 * 120.0)
    torch.testing.assert_close(magnitude * 120.0 + 20.0, image)


def test_integer_and_double_images_are_taken() -> None:
    for image in (_object().to(torch.int16), _object().double()):
        torch.testing.assert_close(_scan(NOISELESS, image=image).kspace, _scan(NOISELESS).kspace)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(8, 8), "image is blank"),
        (torch.ones(8, 8) - 2, r"negative \(minimum -1.0\)"),
        (torch.full((8, 8), math.nan), "NaN or infinite"),
        (torch.full((8, 8), math.inf), "NaN or infinite"),
        (torch.ones(2, 8, 8), r"must be real \(height, width\)"),
        (torch.ones(8, 8) * 1j, r"must be real \(height, width\)"),
    ],
)
def test_unsuitable_images_are_refused(image: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _scan(Simulation(), image=image)


def test_a_constant_image_cannot_be_stretched() -> None:
    with pytest.raises(ValueError, match="image is constant"):
        _scan(Simulation(normalise="minmax"), image=torch.ones(8, 8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phase": -0.1}, "phase is -0.1: give radians of at least 0"),
        ({"phase": math.nan}, "phase is nan"),
        ({"snr": 0.0}, "snr is 0.0: give a positive number, or null"),
        ({"snr": math.inf}, "snr is inf"),
        ({"coils": 0}, "coils is 0: give at least 1"),
        ({"normalise": "max"}, "normalise is 'max': give none or minmax"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Simulation(**settings)  # type: ignore[arg-type]
