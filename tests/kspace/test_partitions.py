from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from sansref.errors import SettingError
from sansref.kspace.grid import central_mask, distance
from sansref.kspace.masks.laws import draw_mask
from sansref.kspace.partitions import (
    Partition,
    Unit,
    hold_out,
    select_variable_density,
    split_gaussian,
    split_uniform,
)

Splitter = Callable[[Tensor, Generator, Unit], Partition]

DISJOINT: dict[str, Splitter] = {
    "uniform": lambda acquired, generator, unit: split_uniform(acquired, 0.4, generator, unit=unit),
    "gaussian": lambda acquired, generator, unit: split_gaussian(acquired, 0.4, generator, unit=unit),
    "hold_out": lambda acquired, generator, unit: hold_out(acquired, 0.1, generator, unit=unit),
}
ALL: dict[str, Splitter] = DISJOINT | {
    "select": lambda acquired, generator, unit: select_variable_density(acquired, generator, unit=unit)
}


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def points() -> Tensor:
    return draw_mask("variable_density", (64, 56), 3, seeded(7)).array


@pytest.fixture
def columns() -> Tensor:
    return draw_mask("random_columns", (20, 160), 3, seeded(7)).array


@pytest.mark.parametrize("name", sorted(DISJOINT))
def test_disjoint_and_complete(name: str, points: Tensor) -> None:
    part = DISJOINT[name](points, seeded(), "point")
    assert not (part.input & part.target).any()
    assert torch.equal(part.input | part.target, points)


@pytest.mark.parametrize("name", sorted(ALL))
def test_draws_differ_and_repeat_by_seed(name: str, points: Tensor) -> None:
    generator = seeded()
    first, second = (ALL[name](points, generator, "point").input for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, ALL[name](points, seeded(), "point").input)


@pytest.mark.parametrize("splitter", [split_uniform, split_gaussian])
@pytest.mark.parametrize("ratio", [0.05, 0.4, 0.9])
@pytest.mark.parametrize("block", [(0, 0), (4, 4), (5, 8)])
def test_count_is_exact_and_the_block_stays(
    splitter: Callable[..., Partition], ratio: float, block: tuple[int, int], points: Tensor
) -> None:
    kept = central_mask((64, 56), block)
    part = splitter(points, ratio, seeded(), block=block)
    assert int(part.target.sum()) == round(ratio * int((points & ~kept).sum()))
    assert not (part.target & kept).any()
    assert (part.selected[kept] == 1).all()


def test_hold_out_spares_the_low_frequencies(points: Tensor) -> None:
    part = hold_out(points, 0.2, seeded(), center=0.25)
    low = central_mask((64, 56), (16, 14))
    assert not (part.target & low).any()
    assert int(part.target.sum()) == round(0.2 * int((points & ~low).sum()))


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_selection_meets_the_three_criteria(fraction: float) -> None:
    acquired = draw_mask("variable_density", (128, 128), 4, seeded(7)).array
    part = select_variable_density(acquired, seeded(), fraction=fraction)
    total = int(acquired.sum())
    assert int(part.input.sum()) == round(fraction * total)
    assert not (part.input & ~acquired).any()
    assert torch.equal(part.target, acquired)
    kept = central_mask((128, 128), (8, 8))
    assert part.input[kept & acquired].all()
    away = distance((128, 128))
    low, high = acquired & (away < 30), acquired & (away > 90)
    assert part.input[low].double().mean() > max(1.2 * fraction, 0.5) or fraction == 0.8
    assert 0 < part.input[high].double().mean() < fraction
    disjoint = part.disjoint()
    assert torch.equal(disjoint.target, acquired & ~part.input)
    assert torch.equal(disjoint.input, part.input)


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("unit", ["point", "column"])
def test_selected_is_the_frequency_of_being_input(name: str, unit: Unit) -> None:
    law = "random_columns" if unit == "column" else "variable_density"
    acquired = draw_mask(law, (24, 40) if unit == "point" else (6, 120), 2, seeded(2)).array
    draws = 400
    generator = seeded()
    parts = [ALL[name](acquired, generator, unit) for _ in range(draws)]
    frequency = torch.stack([part.input for part in parts]).double().mean(0)[acquired]
    selected = parts[0].selected.double()[acquired]
    assert (parts[0].selected >= 0).all() and (parts[0].selected <= 1).all()
    assert torch.equal(frequency[selected == 1], selected[selected == 1])
    inner = selected < 1
    # Order and successive sampling reach their probabilities to about one over the number of units.
    slack = 1 / int(acquired.sum()) if unit == "point" else 1 / int(acquired[0].sum())
    tolerance = 4.5 * (selected * (1 - selected) / draws).sqrt() + slack
    assert ((frequency - selected).abs() <= tolerance)[inner].all()


def test_gaussian_split_follows_its_width(points: Tensor) -> None:
    everything = torch.ones(101, 101, dtype=torch.bool)
    part = split_gaussian(everything, 0.02, seeded(), block=(0, 0), width=0.1)
    rows, columns = (torch.nonzero(part.target).double() - 50).T
    # With few draws from a dense grid the positions are normal with standard deviation 0.1 * 100.
    assert float(rows.square().mean().sqrt()) == pytest.approx(10, rel=0.25)
    assert float(columns.square().mean().sqrt()) == pytest.approx(10, rel=0.25)
    narrow = split_gaussian(points, 0.5, seeded(), width=0.005)
    assert int(narrow.target.sum()) == round(0.5 * int((points & ~central_mask((64, 56), (4, 4))).sum()))
    assert torch.isfinite(narrow.selected).all()


@pytest.mark.parametrize("name", sorted(ALL))
def test_columns_are_split_whole(name: str, columns: Tensor) -> None:
    part = ALL[name](columns, seeded(), "column")
    for plane in (part.input, part.target, part.selected):
        assert torch.equal(plane, plane[:1].expand_as(plane))
    assert torch.equal(part.input | part.target, columns)
    assert part.input[0].any() and part.target[0].any()
    assert part.input[0, 80 - 2 : 80 + 2].all()


def test_column_counts(columns: Tensor) -> None:
    acquired = int(columns[0].sum())
    assert int(split_uniform(columns, 0.4, seeded(), unit="column").target[0].sum()) == round(0.4 * (acquired - 4))
    part = select_variable_density(columns, seeded(), unit="column")
    assert int(part.input[0].sum()) == round(0.5 * acquired)


def test_columns_may_be_whole_within_a_support(columns: Tensor) -> None:
    columns[:3] = False
    part = split_uniform(columns, 0.4, seeded(), unit="column")
    assert torch.equal(part.input | part.target, columns)
    assert not (part.input & part.target).any()


@pytest.mark.parametrize("name", sorted(ALL))
def test_broken_columns_are_refused(name: str, points: Tensor) -> None:
    with pytest.raises(SettingError, match=r"only partly acquired, .* use --unit point, .* \(--mask random_columns"):
        ALL[name](points, seeded(), "column")


@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    part_acquired=st.floats(0, 1),
    ratio=st.floats(0.01, 0.99),
    name=st.sampled_from(["uniform", "gaussian", "select"]),
)
@settings(max_examples=150, deadline=None)
def test_any_acquisition_is_split_or_refused(
    height: int, width: int, part_acquired: float, ratio: float, name: str
) -> None:
    generator = seeded()
    acquired = torch.rand(height, width, generator=generator) < part_acquired
    before = acquired.clone()
    try:
        if name == "uniform":
            part = split_uniform(acquired, ratio, generator)
        elif name == "gaussian":
            part = split_gaussian(acquired, ratio, generator)
        else:
            part = select_variable_density(acquired, generator, fraction=ratio).disjoint()
    except SettingError:
        return
    assert torch.equal(acquired, before)
    assert torch.equal(part.input ^ part.target, acquired)
    assert part.input.any() and part.target.any()
    assert torch.isfinite(part.selected).all()


def test_partitions_drawn_one_after_the_other_are_independent(points: Tensor) -> None:
    generator = seeded()
    parts = [split_uniform(points, 0.4, generator) for _ in range(5)]
    assert len({tuple(part.target.flatten().tolist()) for part in parts}) == 5


@pytest.mark.parametrize("ratio", [0, 1, -0.1, math.nan])
def test_impossible_ratio_is_refused(ratio: float, points: Tensor) -> None:
    for call in (split_uniform, split_gaussian, hold_out):
        with pytest.raises(SettingError, match="give one between 0 and 1"):
            call(points, ratio, seeded())
    with pytest.raises(SettingError, match="give one between 0 and 1"):
        select_variable_density(points, seeded(), fraction=ratio)


def test_too_few_samples_are_refused() -> None:
    few = central_mask((32, 32), (4, 4))
    for call in (split_uniform, split_gaussian):
        with pytest.raises(
            SettingError, match=r"16 samples were acquired, 0 of them outside the central 4 x 4: .* only from 2 or more"
        ):
            call(few, 0.4, seeded())
    with pytest.raises(
        SettingError, match="cannot select 8 of 16 acquired samples when the kept center already holds 16"
    ):
        select_variable_density(few, seeded(), center=0.125)
    with pytest.raises(SettingError, match="cannot select 0 of 0"):
        select_variable_density(torch.zeros_like(few), seeded())


@pytest.mark.parametrize("rows", [2, 8, 64])
def test_the_central_columns_of_the_smallest_grids_are_not_held_out(rows: int) -> None:
    acquired = torch.ones(rows, 128, dtype=torch.bool)
    for seed in range(20):
        assert not hold_out(acquired, 0.3, seeded(seed), unit="column").target[:, 61:67].any()


def test_scans_of_a_few_columns_are_told_how_many_are_needed() -> None:
    few = central_mask((32, 32), (32, 6))
    for call in (split_uniform, split_gaussian):
        with pytest.raises(
            SettingError, match=r"6 columns were acquired, 2 of them outside the central 4: a share of 0\.1 .* from 6"
        ):
            call(few, 0.1, seeded(), unit="column")
    more = central_mask((32, 32), (32, 10))
    assert int(split_uniform(more, 0.1, seeded(), unit="column").target.any(0).sum()) == 1
    with pytest.raises(SettingError, match=r"share of 0\.95 would leave none of them to learn from"):
        split_uniform(few, 0.95, seeded(), block=(0, 0), unit="column")


def test_impossible_settings_are_refused(points: Tensor) -> None:
    with pytest.raises(SettingError, match="Gaussian width of 0 is impossible"):
        split_gaussian(points, 0.4, seeded(), width=0)
    with pytest.raises(SettingError, match="give a fraction from 0 to 1"):
        hold_out(points, 0.1, seeded(), center=-1)
    with pytest.raises(SettingError, match="give a fraction from 0 to 1"):
        select_variable_density(points, seeded(), center=math.nan)


def test_wrong_arguments_are_programming_errors(points: Tensor) -> None:
    with pytest.raises(ValueError, match="acquired must be bool"):
        split_uniform(points.float(), 0.4, seeded())
    with pytest.raises(ValueError, match="unit must be"):
        split_uniform(points, 0.4, seeded(), unit="row")  # type: ignore[arg-type]
