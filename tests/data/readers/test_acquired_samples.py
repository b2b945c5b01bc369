from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.data.readers.reader import acquired_samples


@settings(max_examples=40, deadline=None)
@given(kept=st.floats(0.05, 0.95), coils=st.integers(1, 3), seed=st.integers(0, 99), columns=st.booleans())
def test_a_mask_is_found_again(make: Any, kept: float, coils: int, seed: int, columns: bool) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random((1 if columns else 20, 30)) < kept
    mask[0, 0] = True
    mask = np.broadcast_to(mask, (20, 30))
    assert np.array_equal(acquired_samples(make.noise(coils, 20, 30, seed=seed) * mask), mask)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_zeros_that_went_through_a_transform_are_zeros(make: Any, dtype: type) -> None:
    kspace = make.noise(1, 20, 30, dtype=dtype)
    kspace[..., :5] *= np.finfo(dtype).eps / 100
    expected = np.ones((20, 30), bool)
    expected[:, :5] = False
    assert np.array_equal(acquired_samples(kspace), expected)


def test_lone_zeros_are_measured(make: Any) -> None:
    kspace = make.noise(1, 20, 30)
    kspace[0, 3, 4] = kspace[0, 7, 20] = 0
    kspace[..., 28:] = 0
    expected = np.ones((20, 30), bool)
    expected[:, 28:] = False
    assert np.array_equal(acquired_samples(kspace), expected)
    kspace[0, 3, 4:20] = 0
    assert not acquired_samples(kspace)[3, 4:20].any()


def test_a_sample_is_acquired_if_one_coil_holds_it(make: Any) -> None:
    kspace = make.noise(2, 20, 30)
    kspace[0, :, 3] = kspace[1, :, 3:9] = 0
    assert acquired_samples(kspace)[:, 4:].all()
    assert not acquired_samples(kspace)[:, 3].any()


def test_nothing() -> None:
    assert not acquired_samples(np.zeros((2, 4, 5), np.complex64)).any()
