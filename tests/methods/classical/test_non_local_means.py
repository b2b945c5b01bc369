from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from sansref.data.simulate import Simulation, example_image, simulate
from sansref.errors import SettingError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop
from sansref.kspace.measurement import Measurement
from sansref.methods.classical.non_local_means import non_local_means
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta


def head(snr: float, coils: int = 1) -> Scan:
    image = ifft2c(center_crop(fft2c(example_image()), (64, 64))).abs()
    return simulate(image, Simulation(snr=snr, coils=coils), seeded("scan"), ScanMeta("a", "b"))


@pytest.mark.parametrize("coils", [1, 4])
def test_the_image_is_nearer_to_the_truth_than_the_measured_one(coils: int) -> None:
    scan = head(8.0, coils)
    given = scan.batch()
    image, measured = non_local_means(given)[0], given.physics.adjoint(given.kspace)[0]
    assert scan.reference is not None
    assert (image - scan.reference).norm() < 0.75 * (measured - scan.reference).norm()


def test_scans_of_a_batch_are_denoised_each_by_its_own_noise() -> None:
    both = Measurement.stacked([head(8.0).measurement, head(30.0).measurement])
    images = non_local_means(both)
    torch.testing.assert_close(images[1], non_local_means(head(30.0).batch())[0])


def test_components_of_two_sets_of_maps_are_denoised_apart() -> None:
    one, other = head(8.0), head(8.0)
    weights = torch.linalg.qr(torch.randn(4, 2, dtype=torch.complex64, generator=seeded()))[0]
    maps = weights[None, :, :, None, None].expand(1, 4, 2, *one.mask.shape)
    noisy, turned = ifft2c(one.kspace), ifft2c(other.kspace).flip(-2)
    mask, level = one.mask[None], one.noise_level.expand(1, 4, 1, 1)
    both = Cartesian(mask, maps.flatten(2, 3)).forward(torch.cat([noisy, turned], -2))
    found = non_local_means(Measurement(both, mask, maps.flatten(2, 3), noise=level))
    for image, alone, set_ in ((noisy, found[:, :64], 0), (turned, found[:, 64:], 1)):
        given = Measurement(Cartesian(mask, maps[:, :, set_]).forward(image), mask, maps[:, :, set_], noise=level)
        torch.testing.assert_close(alone, non_local_means(given), rtol=1e-3, atol=1e-4)


def test_a_coil_that_received_nothing_changes_nothing() -> None:
    scan = head(8.0)
    ones = torch.ones_like(scan.kspace)
    pair = replace(
        scan,
        kspace=torch.cat([scan.kspace, torch.zeros_like(scan.kspace)]),
        maps=torch.cat([ones, torch.zeros_like(ones)]),
    )
    level = float(scan.noise_level)
    for known in (None, (level, level)):
        given = replace(pair, meta=replace(pair.meta, noise=known)).batch()
        torch.testing.assert_close(non_local_means(given), non_local_means(scan.batch()), rtol=1e-3, atol=1e-4)


def test_a_known_level_is_taken() -> None:
    scan = head(8.0)
    weak = replace(scan, meta=replace(scan.meta, noise=(1e-6,))).batch()
    torch.testing.assert_close(non_local_means(weak), weak.physics.adjoint(weak.kspace), rtol=1e-3, atol=1e-3)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(SettingError, match="pip install scikit-image"):
        non_local_means(head(8.0).batch())
