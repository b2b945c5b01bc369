from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from sansref.data.mrd.acquisitions import HEAD
from sansref.data.mrd.calibration import MOST_SAMPLES, NoiseScan
from sansref.errors import FileError
from sansref.kspace.noise import whitening_matrix


def head(dwell: float = 10.0) -> Any:
    made = np.zeros(1, HEAD)[0]
    made["sample_time_us"] = dwell
    return made


def noise(coils: int, samples: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(coils, samples, 2)).astype(np.float32).view(np.complex64)[..., 0]


def test_all_lines_together_give_the_matrix() -> None:
    scan = NoiseScan()
    lines = [noise(3, 50, seed) for seed in range(4)]
    for line in lines:
        scan.add(head(), line)
    assert (scan.coils, scan.samples, scan.full) == (3, 200, False)
    found = scan.whitening("a.h5", 3, 10.0)
    assert found is not None
    assert found.unit
    torch.testing.assert_close(found.matrix, whitening_matrix(torch.from_numpy(np.concatenate(lines, axis=1))))


def test_noise_that_was_sampled_faster_is_stronger() -> None:
    scan = NoiseScan()
    scan.add(head(dwell=2.5), noise(2, 100))
    same, slower = scan.whitening("a.h5", 2, 2.5), scan.whitening("a.h5", 2, 10.0)
    assert same is not None
    assert slower is not None
    torch.testing.assert_close(slower.matrix, 2 * same.matrix)
    for unknown in (0.0, float("nan"), 1e9):
        plain = scan.whitening("a.h5", 2, unknown)
        assert plain is not None
        assert not plain.unit
        torch.testing.assert_close(plain.matrix, same.matrix)


def test_lines_of_the_dwell_time_of_the_most_samples_are_taken_and_none_are_mixed() -> None:
    scan = NoiseScan()
    scan.add(head(dwell=0.0), noise(2, MOST_SAMPLES))
    assert (scan.samples, scan.dwell, scan.full) == (MOST_SAMPLES, 0.0, False)
    for dwell, samples in ((2.5, 60), (float("nan"), 9), (5.0, 3), (2.5, 60)):
        scan.add(head(dwell=dwell), noise(2, samples))  # one that is told is worth more than one that is not
    assert (scan.samples, scan.dwell, scan.full) == (120, 2.5, False)
    scan.add(head(dwell=5.0), noise(2, 200))
    assert (scan.samples, scan.dwell) == (203, 5.0)
    for dwell in range(10, 100):
        scan.add(head(dwell=float(dwell)), noise(2, 300))
    assert scan.samples == 300


def test_noise_of_other_coils_is_of_no_use() -> None:
    scan = NoiseScan()
    assert scan.whitening("a.h5", 2, 10.0) is None
    scan.add(head(), noise(3, 100))
    assert scan.whitening("a.h5", 2, 10.0) is None
    scan.add(head(), noise(2, 100))  # such as that of another set of coils
    assert (scan.coils, scan.samples) == (2, 100)


def test_no_more_is_kept_than_is_of_use() -> None:
    scan = NoiseScan()
    for seed in range(4):
        scan.add(head(), noise(1, MOST_SAMPLES // 2, seed))
    assert (scan.samples, scan.full) == (MOST_SAMPLES, True)


def test_a_dead_coil_is_reported() -> None:
    scan = NoiseScan()
    line = noise(4, 100)
    line[3] = 0
    scan.add(head(), line)
    message = "a.h5: has noise lines that cannot whiten the coils: coils without noise, counted from 0: 3."
    with pytest.raises(FileError, match=re.escape(message)):
        scan.whitening("a.h5", 4, 10.0)
