from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.errors import SettingError
from sansref.kspace.grid import central_box, central_mask, distance, full_center
from sansref.kspace.masks.laws import (
    MASK_LAWS,
    MaskLaw,
    draw_mask,
    equispaced_columns,
    poisson_disc,
    random_columns,
    throw_darts,
    uniform_random,
    variable_density,
)

LAWS = sorted(MASK_LAWS)
SHAPES = [(64, 64), (48, 80), (51, 37)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("acceleration", [1, 1.3, 2, 4, 6.5])
def test_exact_laws_take_the_budget_and_the_full_center(law: str, shape: tuple[int, int], acceleration: float) -> None:
    mask = draw_mask(law, shape, acceleration, seeded(), center=0.1)
    height, width = shape
    if law.endswith("columns"):
        wanted, sides = height * round(width / acceleration), (height, round(0.1 * width))
        assert torch.equal(mask.array, mask.array[:1].expand(shape))
    else:
        wanted, sides = round(height * width / acceleration), (round(0.1 * height), round(0.1 * width))
    box = central_box(shape, sides)
    assert int(mask.array.sum()) == wanted
    assert mask.array[box].all()
    assert (mask.density[box] == 1).all()
    assert mask.array[height // 2, width // 2]
    assert mask.density.min() >= 0 and mask.density.max() <= 1
    assert (mask.density[mask.array] > 0).all()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("exact", [True, False])
def test_acceleration_one_is_full(law: str, exact: bool) -> None:
    mask = draw_mask(law, (33, 40), 1, seeded(), exact=exact)
    assert mask.array.all()
    assert torch.equal(mask.density, torch.ones(33, 40))


@pytest.mark.parametrize("law", LAWS)
def test_same_seed_same_mask(law: str) -> None:
    # On this small grid equispaced columns have few distinct offsets, hence several other seeds.
    first = draw_mask(law, (40, 64), 4, seeded(3))
    assert torch.equal(first.array, draw_mask(law, (40, 64), 4, seeded(3)).array)
    assert len({draw_mask(law, (40, 64), 4, seeded(seed)).array.numpy().tobytes() for seed in range(10)}) > 3


@pytest.mark.parametrize("law", ["random_columns", "uniform_random", "variable_density"])
def test_inexact_count_is_binomial(law: str) -> None:
    counts, expected, variance = [], 0.0, 0.0
    for seed in range(200):
        mask = draw_mask(law, (48, 64), 4, seeded(seed), exact=False)
        independent, acquired = (
            (mask.density[0], mask.array[0]) if law == "random_columns" else (mask.density, mask.array)
        )
        counts.append(int(acquired.sum()))
        expected = float(independent.double().sum())
        variance = float((independent * (1 - independent)).double().sum())
    assert expected == pytest.approx((64 if law == "random_columns" else 48 * 64) / 4, rel=1e-6)
    assert abs(np.mean(counts) - expected) < 4 * math.sqrt(variance / len(counts))
    assert 0.7 < np.var(counts) / variance < 1.4


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("law", ["random_columns", "equispaced_columns", "uniform_random", "variable_density"])
def test_density_is_the_frequency_of_acquisition(law: str, exact: bool) -> None:
    draws = 400
    generator = seeded()
    masks = [draw_mask(law, (24, 40), 3, generator, exact=exact) for _ in range(draws)]
    assert all(torch.equal(mask.density, masks[0].density) for mask in masks)
    density = masks[0].density.double()
    frequency = torch.stack([mask.array for mask in masks]).double().mean(0)
    score = (frequency - density) / (density * (1 - density) / draws).sqrt().clamp(min=1e-9)
    inner = (density > 0) & (density < 1)
    assert torch.equal(frequency[~inner], density[~inner])
    assert score[inner].abs().max() < 5
    assert score[inner].square().mean() < 1.5


def test_poisson_density_is_near_the_frequency() -> None:
    generator = seeded()
    masks = [poisson_disc((48, 48), 4, generator) for _ in range(40)]
    frequency = torch.stack([mask.array for mask in masks]).double().mean(0)
    density = torch.stack([mask.density for mask in masks]).double().mean(0)
    rings = (distance((48, 48)) / 20).long()
    for ring in range(6):
        inside = rings == ring
        assert density[inside].mean() == pytest.approx(float(frequency[inside].mean()), abs=0.03)


@given(height=st.integers(5, 20), width=st.integers(5, 20), center=st.integers(0, 3), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_darts_keep_their_distance(height: int, width: int, center: int, seed: int) -> None:
    radius = (0.5 + center + distance((height, width)) / 50).numpy()
    order = torch.randperm(height * width, generator=seeded(seed)).tolist()
    stuck = np.array(throw_darts(order, radius))
    points = np.stack(np.divmod(stuck, width), axis=1)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    earlier = np.triu(np.ones_like(apart, dtype=bool), 1)
    reach = radius.ravel()[stuck]
    assert (apart >= reach[:, None] - 1e-9)[earlier].all()
    # Maximal: every point that did not stick lies in the disc of one that did.
    missed = np.setdiff1d(np.arange(height * width), stuck)
    gap = np.linalg.norm(np.stack(np.divmod(missed, width), 1)[:, None] - points[None], axis=-1)
    assert (gap < reach[None]).any(1).all()


@pytest.mark.parametrize("seed", [0, 1, 3, 6])
def test_poisson_density_is_above_0_where_another_draw_may_sample(seed: int) -> None:
    assert poisson_disc((40, 40), 8, seeded(seed)).density.min() > 0


def test_poisson_disc_spreads_points_and_thins_outwards() -> None:
    mask = poisson_disc((128, 128), 6, seeded())
    outside = ~central_mask((128, 128), (24, 24))
    neighbours = mask.array[:, :-1] & mask.array[:, 1:] & outside[:, 1:] & outside[:, :-1]
    uniform = uniform_random((128, 128), 6, seeded(), center=0.1).array
    by_chance = uniform[:, :-1] & uniform[:, 1:] & outside[:, 1:] & outside[:, :-1]
    assert neighbours.sum() < 0.3 * by_chance.sum()
    away = distance((128, 128))
    inner, outer = ((away > 24) & (away < 64)), away > 110
    assert mask.array[inner].double().mean() > 3 * mask.array[outer].double().mean()


def test_poisson_disc_inexact_is_within_a_few_per_cent() -> None:
    mask = poisson_disc((96, 96), 5, seeded(), exact=False)
    acquired = int(mask.array.sum())
    assert 0 <= acquired - round(96 * 96 / 5) <= 0.05 * acquired


@pytest.mark.parametrize("width", [64, 255, 320, 368])
@pytest.mark.parametrize(("acceleration", "fraction"), [(4, 0.08), (8, 0.04), (5.5, 0.06)])
def test_random_columns_follow_fastmri(width: int, acceleration: float, fraction: float) -> None:
    low = round(width * fraction)
    pad = (width - low + 1) // 2
    expected = np.full(width, (width / acceleration - low) / (width - low))
    expected[pad : pad + low] = 1
    mask = random_columns((4, width), acceleration, seeded(), center=fraction, exact=False)
    np.testing.assert_allclose(mask.density[0], expected, rtol=1e-6)


@pytest.mark.parametrize("width", [64, 255, 320, 368])
@pytest.mark.parametrize(("acceleration", "fraction"), [(4, 0.08), (8, 0.04), (5.5, 0.06)])
def test_equispaced_columns_follow_fastmri(width: int, acceleration: float, fraction: float) -> None:
    low = round(width * fraction)
    pad = (width - low + 1) // 2
    spacing = (acceleration * (low - width)) / (low * acceleration - width)
    allowed = []
    for offset in range(round(spacing)):
        line = np.zeros(width, dtype=bool)
        line[np.around(np.arange(offset, width - 1, spacing)).astype(int)] = True
        line[pad : pad + low] = True
        allowed.append(line)
    drawn = set()
    for seed in range(60):
        mask = equispaced_columns((3, width), acceleration, seeded(seed), center=fraction, exact=False)
        matches = [i for i, line in enumerate(allowed) if np.array_equal(mask.array[1].numpy(), line)]
        assert len(matches) == 1
        drawn.add(matches[0])
        np.testing.assert_allclose(mask.density[0], np.mean(allowed, axis=0), rtol=1e-6)
    assert drawn == set(range(len(allowed)))


def test_exact_equispaced_columns_are_evenly_spaced_outside_the_center() -> None:
    mask = equispaced_columns((2, 320), 4, seeded(), center=0.08)
    low = central_mask((1, 320), (1, round(320 * 0.08)))[0]
    positions = torch.nonzero(mask.array[0][~low]).flatten()
    gaps = positions.diff()
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(("acceleration", "floor"), [(4, 0.21), (8, 0.088)])
def test_variable_density_is_the_profile_of_the_published_masks(acceleration: float, floor: float) -> None:
    density = variable_density((256, 256), acceleration, seeded()).density
    assert float(density.double().mean()) == pytest.approx(1 / acceleration, rel=1e-5)
    fitted = float(density[0, 0])  # at the corner the exponential has died out
    assert fitted == pytest.approx(floor, abs=0.01)
    for radius in (20, 40, 80):
        expected = fitted + (1 - fitted) * math.exp(-(radius - 8) / 17)
        assert float(density[128, 128 + radius]) == pytest.approx(expected, abs=1e-4)


def test_variable_density_narrows_where_no_floor_is_left() -> None:
    mask = variable_density((128, 128), 40, seeded())
    assert int(mask.array.sum()) == round(128 * 128 / 40)
    assert float(mask.density[64, 0]) < 1e-4
    assert float(mask.density.double().mean()) == pytest.approx(1 / 40, rel=1e-3)


def test_variable_density_scales_with_the_grid() -> None:
    small, large = (variable_density((n, n), 4, seeded()).density for n in (128, 256))
    assert float(small[64, 64 + 20]) == pytest.approx(float(large[128, 128 + 40]), abs=5e-3)


def test_center_is_a_fraction_of_each_side() -> None:
    assert int((uniform_random((100, 100), 4, seeded(), center=0.09).density == 1).sum()) == 81


@pytest.mark.parametrize("law", LAWS)
def test_default_center_is_the_law_s_own(law: str) -> None:
    mask = draw_mask(law, (256, 256), 4, seeded())
    side = 24 if law in ("variable_density", "poisson_disc") else 20
    assert min(full_center(mask.array)) >= side
    assert torch.equal(mask.array, MASK_LAWS[law]((256, 256), 4, seeded()).array)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("acceleration", [0.5, 0, -4, math.nan, math.inf])
def test_impossible_acceleration_is_refused(law: str, acceleration: float) -> None:
    with pytest.raises(SettingError, match=r"acceleration of .* is impossible: give a number of at least 1"):
        draw_mask(law, (32, 32), acceleration, seeded())


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("center", [-0.1, 1.5, math.nan])
def test_impossible_center_is_refused(law: str, center: float) -> None:
    with pytest.raises(SettingError, match=r"full center of .* is impossible: give a fraction from 0 to 1"):
        draw_mask(law, (32, 32), 4, seeded(), center=center)


@pytest.mark.parametrize("law", LAWS)
def test_center_larger_than_the_budget_names_a_feasible_acceleration(law: str) -> None:
    with pytest.raises(SettingError, match="or a smaller center") as caught:
        draw_mask(law, (64, 60), 20, seeded(), center=0.5)
    largest = float(str(caught.value).split("at most ")[1].split()[0])
    mask = draw_mask(law, (64, 60), largest, seeded(), center=0.5)
    assert float(1 / mask.array.double().mean()) == pytest.approx(largest, rel=0.02)
    with pytest.raises(SettingError):
        draw_mask(law, (64, 60), largest * 1.1, seeded(), center=0.5)


def test_an_acceleration_without_a_single_sample_is_refused() -> None:
    with pytest.raises(
        SettingError, match=r"leaves 0 of 64 columns, fewer than one: use an acceleration of at most 64$"
    ):
        random_columns((8, 64), 1000, seeded(), center=0)
    assert int(uniform_random((8, 8), 64, seeded(), center=0).array.sum()) == 1


@pytest.mark.parametrize("law", [random_columns, equispaced_columns])
@pytest.mark.parametrize("exact", [True, False])
def test_a_budget_of_just_the_center(law: MaskLaw, exact: bool) -> None:
    mask = law((4, 100), 10, seeded(), center=0.1, exact=exact)
    assert torch.equal(mask.array, central_mask((4, 100), (4, 10)))
    assert torch.equal(mask.density, mask.array.float())


def test_unknown_law_is_refused() -> None:
    with pytest.raises(SettingError, match="no sampling law 'spiral': choose one of random_columns, "):
        draw_mask("spiral", (32, 32), 4, seeded())


@pytest.mark.parametrize("shape", [(32,), (0, 8), (4, 4, 4)])
def test_bad_shape_is_a_programming_error(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="two positive integers"):
        draw_mask("random_columns", shape, 4, seeded())


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    acceleration=st.floats(1, 12),
    center=st.floats(0, 0.3),
    law=st.sampled_from(LAWS),
    exact=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_request_is_met_or_refused(
    height: int, width: int, acceleration: float, center: float, law: str, exact: bool
) -> None:
    try:
        mask = draw_mask(law, (height, width), acceleration, seeded(), center=center, exact=exact)
    except SettingError:
        assert acceleration > 1
        return
    assert mask.array.shape == (height, width)
    assert torch.isfinite(mask.density).all()
    if exact:
        units = width if law.endswith("columns") else height * width
        assert int(mask.array.sum()) * units == mask.array.numel() * round(units / acceleration)


@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (8, 11)])
def test_full_center_finds_the_box(shape: tuple[int, int]) -> None:
    for sides in [(1, 1), (3, 3), (4, 5), (5, 4), shape]:
        array = central_mask(shape, sides)
        assert array[shape[0] // 2, shape[1] // 2]
        assert full_center(array) == sides
    assert full_center(torch.zeros(shape, dtype=torch.bool)) == (0, 0)
