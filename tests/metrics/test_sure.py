from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sansref.data.simulate import Sampling, Simulation, example_image, simulate
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop, distance
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import noise_of, white_noise
from sansref.methods.classical.total_variation import total_variation
from sansref.metrics.sure import response, sure
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

SIDE = 96
SIGMA = 0.05


def head(coils: int = 1, acceleration: float = 1.0) -> tuple[Scan, Tensor]:
    """A scan without noise, of a head whose brightest pixel is about 1, and its samples."""
    image = ifft2c(center_crop(fft2c(example_image()), (SIDE, SIDE))).abs()
    full = simulate(image / image.max(), Simulation(snr=None, coils=coils), seeded("scan"), ScanMeta("a", "b"))
    scan = Sampling(acceleration=acceleration).undersample(full, seeded("mask"))
    return scan, scan.kspace


def noisy(scan: Scan, sigma: Tensor | float = SIGMA, name: str = "noise") -> Measurement:
    clean = scan.batch()
    return clean.disturbed(white_noise(clean.kspace, sigma, seeded(name)))


def levels(given: Measurement, sigma: Tensor | float = SIGMA) -> Tensor:
    return torch.ones_like(given.kspace.real) * sigma * given.mask.unsqueeze(-3)


def truth(image: Tensor, given: Measurement, clean: Tensor, sigma: Tensor) -> float:
    """The squared error on acquired samples over the energy of the noise."""
    error = (given.physics.transform(image) - clean) * given.mask.unsqueeze(-3)
    return float(error.abs().square().sum() / (2 * sigma.square()).sum())


def smoothing(width: float) -> Callable[[Measurement], Tensor]:
    window = torch.exp(-(distance((SIDE, SIDE)).float() ** 2) / (2 * width**2))
    return lambda given: given.physics.adjoint(window * given.kspace)


def as_measured(given: Measurement) -> Tensor:
    return given.physics.adjoint(given.kspace)


def nothing(given: Measurement) -> Tensor:
    return torch.zeros_like(given.physics.adjoint(given.kspace))


def test_the_measured_image_keeps_all_noise_and_an_empty_one_loses_all_structure() -> None:
    scan, clean = head()
    given = noisy(scan)
    found = sure(as_measured, given, levels(given), seeded("probe"))
    assert (found.risk, found.kept, found.lost) == pytest.approx((1.0, 1.0, 0.0), abs=1e-4)
    assert found.kept_map.mean() == pytest.approx(1.0, abs=0.05)
    assert found.lost_map.abs().mean() < 0.02
    found = sure(nothing, given, levels(given), seeded("probe"))
    assert found.kept == 0
    assert found.lost == pytest.approx(float(clean.abs().square().sum()) / (2 * SIGMA**2 * SIDE**2), rel=0.05)


@pytest.mark.parametrize(("coils", "acceleration"), [(1, 1.0), (1, 4.0), (4, 3.0)])
@pytest.mark.parametrize("strength", [0.003, 0.01, 0.03, 0.1])
def test_it_follows_the_truth_for_a_nonlinear_reconstruction(coils: int, acceleration: float, strength: float) -> None:
    scan, clean = head(coils, acceleration)
    given = noisy(scan)
    found = sure(lambda one: total_variation(one, strength), given, levels(given), seeded("probe"), probes=2)
    really = truth(total_variation(given, strength), given, clean, levels(given))
    assert found.risk == pytest.approx(really, abs=0.06 + 3 * found.doubt)
    assert found.doubt < 0.08
    assert found.kept + found.lost == pytest.approx(found.risk)


@pytest.mark.parametrize("width", [20.0, 60.0, 150.0])
def test_noise_and_structure_are_told_apart(width: float) -> None:
    """Of a filter it is known what it does to either: it is linear."""
    scan, clean = head()
    given, filtered = noisy(scan), smoothing(width)
    found = sure(filtered, given, levels(given), seeded("probe"))
    alone = Measurement(clean[None], given.mask)
    assert found.lost == pytest.approx(truth(filtered(alone), given, clean, levels(given)), abs=0.05)
    window = torch.exp(-(distance((SIDE, SIDE)) ** 2) / (2 * width**2))
    assert found.kept == pytest.approx(float(window.square().mean()), abs=0.02)


def test_noise_of_another_strength_in_each_sample_counts_as_it_is() -> None:
    scan, clean = head()
    colour = torch.linspace(0.2, 1.7, SIDE)
    given = noisy(scan, SIGMA * colour)
    found = sure(smoothing(80.0), given, levels(given, SIGMA * colour), seeded("probe"))
    assert found.risk == pytest.approx(
        truth(smoothing(80.0)(given), given, clean, levels(given, SIGMA * colour)), abs=0.05
    )


def test_the_level_may_come_from_the_scan_itself() -> None:
    scan, clean = head()
    given = noisy(scan)
    found = sure(smoothing(80.0), given, noise_of(given), seeded("probe"))
    assert found.risk == pytest.approx(truth(smoothing(80.0)(given), given, clean, levels(given)), abs=0.08)


def test_the_maps_say_where() -> None:
    """Blurred on the left, as measured on the right."""
    scan, _ = head()
    given = noisy(scan, 0.01)
    left = (torch.arange(SIDE) < SIDE // 2).float()

    def half(one: Measurement) -> Tensor:
        return left * smoothing(30.0)(one) + (1 - left) * as_measured(one)

    found = sure(half, given, levels(given, 0.01), seeded("probe"))
    inner = slice(12, SIDE // 2 - 12), slice(SIDE // 2 + 12, SIDE - 12)
    assert found.lost_map[:, inner[0]].mean() > 20 * found.lost_map[:, inner[1]].abs().mean()
    assert found.kept_map[:, inner[0]].mean() < 0.2
    assert found.kept_map[:, inner[1]].mean() == pytest.approx(1.0, abs=0.1)


def test_the_maps_of_two_sets_of_coil_maps_meet_at_no_edge_and_unseen_pixels_do_not_count() -> None:
    scan, _ = head()
    seen = torch.cat([torch.ones(SIDE, SIDE), torch.zeros(SIDE, SIDE)])  # nothing is seen by the second set
    given = noisy(scan, 0.05)
    two = replace(given, maps=seen.to(torch.complex64).expand(1, 1, -1, -1))
    found = sure(lambda one: one.physics.adjoint(one.kspace), two, levels(given, 0.05), seeded("probe"))
    assert not found.kept_map[SIDE:].any()
    assert found.kept_map[:SIDE].mean() == pytest.approx(1.0, abs=0.1)


def test_the_scans_of_a_batch_are_probed_as_each_alone_is() -> None:
    scan, _ = head()
    both = Measurement.stacked([scan.measurement, scan.measurement])
    found = response(as_measured, both, levels(both), seeded("probe"))
    torch.testing.assert_close(found.passed, found.probe, rtol=1e-3, atol=1e-3)
    alone = response(as_measured, scan.batch(), levels(scan.batch()), seeded("probe"))
    assert torch.equal(found.probe[0], alone.probe[0])
    assert torch.equal(found.probe[1], alone.probe[0])


def test_what_cannot_be_estimated_is_refused() -> None:
    scan, _ = head()
    given = noisy(scan)
    both = Measurement.stacked([scan.measurement, scan.measurement])
    for one, sigma, probes in ((given, 0 * levels(given), 1), (given, levels(given), 0), (both, levels(both), 1)):
        with pytest.raises(ValueError, match="one scan with noise and a probe"):
            sure(as_measured, one, sigma, seeded("probe"), probes)
