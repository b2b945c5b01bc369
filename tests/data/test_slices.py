"""Which slices are taken, and what cropping and a smaller matrix do to images and to k-space."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.scans import full_noise_scan
from sansref.data.simulate import Sampling
from sansref.data.slices import Slices, resized_image, resized_kspace
from sansref.errors import FileError, SettingError
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

SIZE = (40, 36)


full_scan = partial(full_noise_scan, SIZE)


def undersampled(scan: Scan) -> Scan:
    return Sampling().undersample(scan, seeded(0)).without_reference()


@settings(max_examples=200, deadline=None)
@given(count=st.integers(1, 400), slices=st.integers(0, 60), central=st.floats(0.01, 1))
def test_slices_are_spread_over_the_central_part(count: int, slices: int, central: float) -> None:
    chosen = Slices(slices=slices, central=central).indices(count)
    if slices == 0:
        assert chosen == list(range(count))
        return
    assert chosen == sorted(set(chosen))
    first, last = (1 - central) / 2 * count, (1 + central) / 2 * count
    assert all(0 <= index < count and first - 1 < index < last for index in chosen)
    assert 1 <= len(chosen) <= min(slices, count)
    if slices < central * count:
        assert len(chosen) == slices
        gaps = np.diff(chosen)
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("selection", "count", "expected"),
    [
        (Slices(slices=1), 25, [12]),
        (Slices(slices=1), 24, [12]),
        (Slices(slices=1, central=0.01), 2, [1]),
        (Slices(slices=3, central=1), 9, [1, 4, 7]),
        (Slices(slices=70, central=1), 5, [0, 1, 2, 3, 4]),
        (Slices(slices=10, central=0.5), 8, [2, 3, 4, 5]),
        (Slices(slices=99, central=0.3), 330, list(range(116, 215))),  # 0.3 is no binary number
        (Slices(slices=33, central=0.3), 330, list(range(117, 215, 3))),
    ],
)
def test_slices_of_small_cases(selection: Slices, count: int, expected: list[int]) -> None:
    assert selection.indices(count) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"central": 0}, "central must lie in .*, got 0 and 0"),
        ({"central": 1.5}, "central must lie in .*, got 1.5 and 0"),
        ({"slices": -1}, "slices must not be negative, got 0.6 and -1"),
        ({"crop": (0, 5)}, "crop must be a positive height and width.*got 0 and 5"),
        ({"matrix": (5, -5)}, "matrix must be a positive height and width.*got 5 and -5"),
    ],
)
def test_impossible_selections_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Slices(**options)


@pytest.mark.parametrize("size", [(8, 9), (7, 6)])
@pytest.mark.parametrize("crop", [(8, 9), (4, 4), (5, 5), (12, 13), (4, 13), (13, 4)])
def test_cropping_and_padding_keep_the_center_in_the_center(size: tuple[int, int], crop: tuple[int, int]) -> None:
    image = torch.rand(size, generator=seeded(0)) + 1
    cut = resized_image(image, Slices(crop=crop))
    assert cut.shape == crop
    for row in range(crop[0]):
        for column in range(crop[1]):
            source = row - crop[0] // 2 + size[0] // 2, column - crop[1] // 2 + size[1] // 2
            inside = 0 <= source[0] < size[0] and 0 <= source[1] < size[1]
            assert cut[row, column] == (image[source] if inside else 0)


@pytest.mark.parametrize("matrix", [(16, 18), (15, 13), SIZE])
def test_a_smaller_matrix_shows_the_same_smooth_object_in_the_same_grey(matrix: tuple[int, int]) -> None:
    """An object without high frequencies is the same function on either grid, its center at n // 2."""

    def smooth(size: tuple[int, int]) -> Tensor:
        rows, columns = ((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in size)
        return (3 + torch.cos(2 * torch.pi * (2 * rows[:, None] + columns)) + torch.sin(4 * torch.pi * columns)).float()

    torch.testing.assert_close(resized_image(smooth(SIZE), Slices(matrix=matrix)), smooth(matrix))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"max_matrix": (64, 64)}, SIZE),
        ({"max_matrix": (20, 64)}, (20, 36)),
        ({"max_crop": (30, 50)}, (30, 36)),
        ({"max_crop": (30, 30), "max_matrix": (64, 10)}, (30, 10)),
        ({"max_matrix": (20, 20), "matrix": (10, 12)}, (10, 12)),
        ({"max_crop": (20, 20), "crop": (50, 50)}, (50, 50)),
    ],
)
def test_upper_bounds_leave_smaller_images_as_they_are(options: dict[str, Any], shape: tuple[int, int]) -> None:
    image = torch.rand(SIZE, generator=seeded(0))
    cut = resized_image(image, Slices(**options).bounded(SIZE))
    assert tuple(cut.shape) == shape
    assert shape != SIZE or torch.equal(cut, image)


def test_upper_bounds_do_not_cut_measured_scans() -> None:
    for scan in (full_scan(), undersampled(full_scan(2))):
        assert resized_kspace(scan, Slices(max_crop=(10, 10), max_matrix=(8, 8))) is scan


def test_without_crop_and_matrix_nothing_changes() -> None:
    image, scan = torch.rand(SIZE, generator=seeded(0)), full_scan()
    assert torch.equal(resized_image(image, Slices()), image)
    assert resized_kspace(scan, Slices()) is scan


@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("crop", [(20, 18), (21, 17), (50, 18)])
def test_cropping_kspace_is_cropping_its_image(coils: int, crop: tuple[int, int]) -> None:
    scan = full_scan(coils, crop=(10, 10))
    cut = resized_kspace(scan, Slices(crop=crop))
    for real in (torch.real, torch.imag):
        for coil in range(coils):
            expected = resized_image(real(ifft2c(scan.kspace)[coil]), Slices(crop=crop))
            torch.testing.assert_close(real(ifft2c(cut.kspace)[coil]), expected, rtol=1e-4, atol=1e-5)
    assert bool(cut.mask.all())
    assert cut.meta.crop is None
    assert (cut.reference is None) is (coils > 1)
    if cut.reference is not None:
        torch.testing.assert_close(fft2c(cut.reference), cut.kspace[0])


def test_cropping_kspace_measures_nothing_in_its_padding() -> None:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[:, 4:32] = True
    scan = full_scan()
    cut = resized_kspace(replace(scan, kspace=scan.kspace * mask, mask=mask), Slices(crop=(20, 27)))
    assert cut.mask.any(dim=0).nonzero().flatten().tolist() == list(range(3, 23))  # -10.5 to 9.75 steps of 4/3
    assert not cut.kspace[:, ~cut.mask].any()


@pytest.mark.parametrize("crop", [(80, 50), (20, 36), (64, 20)])
def test_known_noise_is_that_of_the_new_samples(crop: tuple[int, int]) -> None:
    scan = full_scan(2)
    level = scan.noise_level.flatten()
    told = resized_kspace(replace(scan, meta=replace(scan.meta, noise=tuple(level.tolist()))), Slices(crop=crop))
    measured = torch.view_as_real(told.kspace).std((1, 2, 3))
    torch.testing.assert_close(torch.tensor(told.meta.noise), measured, rtol=0.1, atol=0)


def test_a_smaller_matrix_keeps_the_measured_samples_of_the_center() -> None:
    scan = undersampled(full_scan(2))
    small = resized_kspace(scan, Slices(matrix=(20, 17)))
    rows, columns = slice(10, 30), slice(10, 27)  # 20 - 10 = 40 // 2 - 20 // 2, and 18 - 8
    assert torch.equal(small.kspace, scan.kspace[:, rows, columns])
    assert torch.equal(small.mask, scan.mask[rows, columns])
    assert small.reference is None


def test_impossible_sizes_are_one_line() -> None:
    with pytest.raises(
        SettingError, match=r"the matrix \(64, 20\) is larger than the scan's \(40, 36\): choose a smaller --matrix"
    ):
        resized_kspace(full_scan(), Slices(matrix=(64, 20)))
    with pytest.raises(SettingError, match=r"the matrix \(30, 30\) is larger than the scan's \(20, 36\)"):
        resized_image(torch.ones(SIZE), Slices(crop=(20, 36), matrix=(30, 30)))
    with pytest.raises(FileError, match=r"f\.h5: is undersampled, its field of view is fixed\. Leave out --crop"):
        resized_kspace(undersampled(full_scan()), Slices(crop=(20, 20)))


@pytest.mark.parametrize("matrix", [(24, 20), (31, 25), (48, 40)])
def test_maps_follow_the_matrix_and_the_crop(matrix: tuple[int, int]) -> None:
    """Maps of the same coils in fewer pixels of the same field of view, or of its central part."""
    coils, size = 4, (48, 40)
    maps, image = birdcage_maps(size, coils), torch.zeros(size, dtype=torch.complex64)
    image[12:30, 9:28] = 1
    scan = Scan(fft2c(maps * image), torch.ones(size, dtype=torch.bool), ScanMeta("s", "f"), maps=maps)
    for selection in (Slices(matrix=matrix), Slices(crop=matrix), Slices(crop=(60, 50), matrix=matrix)):
        found = resized_kspace(scan, selection)
        assert found.maps is not None
        assert found.maps.shape == (coils, *matrix)
        coil_images = ifft2c(found.kspace)
        combined = (found.maps.conj() * coil_images).sum(0)
        left = coil_images - found.maps * combined
        assert float(left.norm() / coil_images.norm()) < 0.04
    size_of = resized_kspace(scan, Slices(matrix=matrix)).maps
    assert size_of is not None
    torch.testing.assert_close(size_of.abs().square().sum(0), torch.ones(matrix))


def test_a_place_of_maps_does_not_depend_on_where_a_command_is_given() -> None:
    assert Slices(maps="maps.cfl").maps == str(Path("maps.cfl").resolve())
    assert Slices(maps="none").maps == "none"
    assert Slices(maps="none").reader_options.maps == "none"
