from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from sansref.data.simulate import Simulation, example_image, simulate
from sansref.errors import SettingError
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


def test_a_known_level_is_taken() -> None:
    scan = head(8.0)
    weak = replace(scan, meta=replace(scan.meta, noise=(1e-6,))).batch()
    torch.testing.assert_close(non_local_means(weak), weak.physics.adjoint(weak.kspace), rtol=1e-3, atol=1e-3)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(SettingError, match="pip install scikit-image"):
        non_local_means(head(8.0).batch())
