from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sansref.kspace.grid import center_crop


@given(st.data(), st.integers(1, 20), st.integers(1, 20))
def test_the_center_stays_at_half_the_size(data: st.DataObject, height: int, width: int) -> None:
    size = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    plane = torch.arange(height * width).reshape(1, height, width)
    cropped = center_crop(plane, size)
    assert cropped.shape == (1, *size)
    assert cropped[0, size[0] // 2, size[1] // 2] == plane[0, height // 2, width // 2]
    assert cropped[0, 0, -1] - cropped[0, 0, 0] == size[1] - 1


@pytest.mark.parametrize("size", [(5, 4), (4, 7), (0, 2), (-1, 2)])
def test_impossible_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"must be positive and fit into \(4, 6\)"):
        center_crop(torch.zeros(2, 4, 6), size)
