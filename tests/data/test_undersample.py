from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.scans import noise_scan
from sansref.data.simulate import Sampling
from sansref.errors import FileError, SettingError, SizeError
from sansref.kspace.masks.laws import MASK_LAWS
from sansref.randomness import seeded
from sansref.scan import Scan

SHAPE = (48, 40)
SHARED = {law: Sampling(mask=law, acceleration=3) for law in MASK_LAWS}


def scan(mask: Tensor | None = None, shape: tuple[int, int] = SHAPE) -> Scan:
    return noise_scan(torch.ones(shape, dtype=torch.bool) if mask is None else mask, coils=2)


def columns(*acquired: int, width: int = 40, height: int = 48) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[:, list(acquired)] = True
    return mask


def mask_file(path: Path, shape: tuple[int, ...] = SHAPE) -> Path:
    values = np.random.default_rng(0).random(shape) < 0.3
    middle = tuple(slice(size // 2 - 5, size // 2 + 5) for size in shape)
    values[middle] = True
    np.save(path, values)
    return path


@pytest.mark.parametrize("law", MASK_LAWS)
def test_all_scans_of_a_shape_share_one_mask(law: str) -> None:
    shared = SHARED[law].fixed(SHAPE).array
    for generator in (seeded(0), seeded(1)):
        sampled = SHARED[law].undersample(scan(), generator)
        assert torch.equal(sampled.mask, shared)
        assert torch.equal(sampled.kspace, scan().kspace * shared)
        assert 2.8 < sampled.acceleration < 3.2
    assert SHARED[law].fixed((40, 48)).array.shape == (40, 48)


@pytest.mark.parametrize("law", ["variable_density", "uniform_random", "random_columns"])
def test_the_mask_seed_chooses_the_shared_mask(law: str) -> None:
    masks = [Sampling(mask=law, acceleration=3, mask_seed=seed).fixed(SHAPE).array for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_each_scan_can_have_its_own_mask() -> None:
    sampling = Sampling(mask_per="scan")
    masks = [sampling.undersample(scan(), seeded(seed)).mask for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_acceleration_center_and_exactness_reach_the_law() -> None:
    mask = Sampling("random_columns", acceleration=5, center=0.2).fixed(SHAPE)
    assert int(mask.array.sum()) == 8 * 48
    assert bool(mask.array[:, 16:24].all())
    loose = Sampling("uniform_random", exact=False)
    counts = {int(loose.draw(SHAPE, seeded(seed)).array.sum()) for seed in range(5)}
    assert len(counts) > 1


def test_an_undersampled_scan_stays_as_it_is() -> None:
    acquired = scan(columns(*range(0, 40, 2), *range(16, 24)))
    for sampling in (Sampling(), Sampling(mask_per="scan")):
        assert sampling.undersample(acquired, seeded(0)) is acquired


def test_zero_padded_columns_stay_not_acquired() -> None:
    padded = scan(columns(*range(3, 36)))
    sampled = SHARED["random_columns"].undersample(padded, seeded(0))
    assert torch.equal(sampled.mask, padded.mask & SHARED["random_columns"].fixed(SHAPE).array)
    assert not sampled.kspace[:, ~sampled.mask].any()
    assert sampled.meta.columns == (3, 36)
    assert SHARED["random_columns"].undersample(scan(), seeded(0)).meta.columns is None


@pytest.mark.parametrize("per", ["dataset", "scan"])
def test_a_mask_file_is_used_as_it_is(tmp_path: Path, per: Any) -> None:
    path = mask_file(tmp_path / "mask.npy")
    sampled = Sampling(str(path), mask_per=per, mask_dc="center").undersample(scan(), seeded(0))
    assert torch.equal(sampled.mask, torch.from_numpy(np.load(path)))


def test_a_line_of_columns_is_a_mask_of_any_height(tmp_path: Path) -> None:
    path = mask_file(tmp_path / "columns.npy", (40,))
    mask = Sampling(str(path), mask_dc="center").fixed(SHAPE).array
    assert torch.equal(mask, torch.from_numpy(np.load(path)).expand(SHAPE))


def test_the_place_of_dc_in_a_mask_file_can_be_said(tmp_path: Path) -> None:
    path = mask_file(tmp_path / "mask.npy")
    corner = Sampling(str(path), mask_dc="corner").fixed(SHAPE).array
    assert torch.equal(corner, torch.fft.fftshift(torch.from_numpy(np.load(path))))


def test_a_mask_file_of_another_size_is_one_line(tmp_path: Path) -> None:
    path = mask_file(tmp_path / "mask.npy", (48, 64))
    with pytest.raises(SettingError, match=r"mask\.npy: the mask is \(48, 64\), the scan is \(48, 40\)"):
        Sampling(str(path), mask_dc="center").undersample(scan(), seeded(0))
    with pytest.raises(SizeError, match=r"mask\.npy: the mask is \(48, 64\), the scan is \(64, 64\)"):
        Sampling(str(path), mask_dc="center").undersample(scan(shape=(64, 64)), seeded(0))


def test_the_name_of_a_mask_file_can_be_shown_everywhere() -> None:
    name = b"/masks/m\xe4\nsk.npy".decode(errors="surrogateescape")
    assert Sampling(name).in_words() == "mask file m sk.npy"


def test_a_mask_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path, sampling = mask_file(tmp_path / "mask.npy"), Sampling(str(tmp_path / "mask.npy"), mask_dc="center")
    first = sampling.fixed(SHAPE).array
    assert torch.equal(first, sampling.fixed(SHAPE).array)
    np.save(path, ~np.load(path))
    assert torch.equal(sampling.fixed(SHAPE).array, ~first)


def test_an_unknown_name_is_one_line_with_the_choices() -> None:
    with pytest.raises(SettingError, match=r"unknown mask 'poisson': did you mean poisson_disc.*, or a file"):
        Sampling("poisson").fixed(SHAPE)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        Sampling(str(tmp_path / "none.npy")).fixed(SHAPE)


@pytest.mark.parametrize("acceleration", [0.5, float("nan"), float("inf")])
def test_an_impossible_acceleration_is_refused_before_any_scan_is_read(acceleration: float) -> None:
    with pytest.raises(SettingError, match=r"acceleration of .* is impossible"):
        Sampling(acceleration=acceleration)
