"""Full sampling, and how far it reached."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import acquired_columns, center_crop, columns_within, is_full
from sansref.kspace.masks.laws import draw_mask
from sansref.randomness import seeded

SHAPE = (48, 40)


def columns(*acquired: int, width: int = 40) -> Tensor:
    mask = torch.zeros(48, width, dtype=torch.bool)
    mask[:, list(acquired)] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "full"),
    [
        (columns(*range(40)), True),
        (columns(*range(3, 36)), True),  # zero-padded columns on both sides
        (columns(*range(18, 40)), False),
        (columns(*range(0, 40, 2)), False),
        (columns(*[i for i in range(40) if i != 7]), False),
        (columns(*range(12, 28)), False),  # the center alone
        (columns(20), False),
        (columns(), False),
    ],
    ids=["all", "padded", "partial Fourier", "every second", "one missing", "center", "one", "none"],
)
def test_full_means_all_columns_within_the_padding(mask: Tensor, full: bool) -> None:
    assert is_full(mask) is full


def test_missing_points_are_not_full() -> None:
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[5, 20] = False
    assert not is_full(mask)
    assert not is_full(draw_mask("variable_density", SHAPE, 3, seeded(0), None, True).array)


@pytest.mark.parametrize(("left", "right", "full"), [(10, 10, True), (10, 5, True), (12, 0, False), (0, 12, False)])
def test_partial_fourier_is_not_full(left: int, right: int, full: bool) -> None:
    assert is_full(columns(*range(left, 96 - right), width=96)) is full


@pytest.mark.parametrize("width", [24, 32, 40, 96, 256])
def test_seven_eighths_are_not_full_on_small_grids_either(width: int) -> None:
    assert not is_full(columns(*range(width // 8, width), width=width))
    assert is_full(columns(*range(3, width - 2), width=width))


def test_columns_are_found_where_rows_differ() -> None:
    mask = torch.zeros(4, 9, dtype=torch.bool)
    assert acquired_columns(mask) == (0, 0)
    mask[1, 3] = mask[2, 5] = True
    assert acquired_columns(mask) == (3, 6)


@pytest.mark.parametrize(
    ("old", "first", "stop", "new"), [(64, 8, 56, 48), (64, 8, 56, 80), (37, 3, 34, 20), (64, 6, 59, 33)]
)
def test_on_another_field_of_view_no_column_lies_beyond_the_old_ones(old: int, first: int, stop: int, new: int) -> None:
    begin, end = columns_within(columns(*range(first, stop), width=old), new)
    reached = [(column - new // 2) * old / new for column in (begin - 1, begin, end - 1, end)]
    low, high = first - old // 2, stop - 1 - old // 2
    assert reached[0] < low <= reached[1]
    assert reached[2] <= high < reached[3]


@pytest.mark.parametrize(("old", "new"), [(40, 30), (40, 31), (37, 20), (36, 50)])
def test_all_columns_stay_all_columns(old: int, new: int) -> None:
    assert columns_within(columns(*range(old), width=old), new) == (0, new)


def test_outside_there_is_less_than_a_tenth_of_what_is_inside() -> None:
    mask = columns(*range(8, 56), width=64)
    kspace = torch.randn(48, 64, dtype=torch.complex64, generator=seeded(0)) * mask
    cut = fft2c(center_crop(ifft2c(kspace), (48, 48))).abs().square().mean(dim=0)
    first, stop = columns_within(mask, 48)
    # A cut field of view smears k-space a little across its edge.
    assert max(cut[: first - 1].max(), cut[stop + 1 :].max()) < 0.1 * cut[first:stop].mean()
