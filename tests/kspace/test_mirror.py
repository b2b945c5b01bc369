from __future__ import annotations

from functools import partial

import pytest
import torch

from helpers import scans
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.fourier import fft2c
from sansref.kspace.measurement import VIEWS, View, mirrored

SHAPES = [(8, 6), (7, 6), (9, 5), (1, 4)]


noise = partial(scans.noise, dtype=torch.complex64)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kspace_of_a_view_is_the_view_of_the_kspace(view: View, shape: tuple[int, int]) -> None:
    image = noise(2, *shape)
    torch.testing.assert_close(fft2c(view.image(image)), view.kspace(fft2c(image)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_view_undoes_itself(view: View, shape: tuple[int, int]) -> None:
    data, mask = noise(3, *shape), noise(*shape).real > 0
    assert torch.equal(view.image(view.image(data)), data)
    assert torch.equal(view.kspace(view.kspace(data)), data)
    assert torch.equal(view.mask(view.mask(mask)), mask)


@pytest.mark.parametrize("view", VIEWS)
def test_a_scan_seen_is_a_scan_measured_of_the_image_seen(view: View) -> None:
    image, maps, mask = noise(8, 6), noise(3, 8, 6), noise(8, 6).real > 0
    measured = Cartesian(mask, maps).forward(image)
    again = Cartesian(view.mask(mask), view.image(maps)).forward(view.image(image))
    torch.testing.assert_close(again, view.kspace(measured), atol=1e-6, rtol=1e-5)


def test_the_center_stays_and_the_first_view_changes_nothing() -> None:
    data = torch.zeros(8, 7)
    data[4, 3] = 1
    assert torch.equal(mirrored(data, True, True), data)
    data = noise(8, 7)
    assert VIEWS[0].image(data) is data
    assert len(set(VIEWS)) == 8
    assert torch.equal(mirrored(data, False, True)[:, [0, 1, 2]], data[:, [6, 5, 4]])
