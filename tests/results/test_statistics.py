from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.results.scores import ScoredSlice
from sansref.results.statistics import FEW, against, by_subject, estimate, gap_share, holm

NAN_INTERVAL = pytest.approx((math.nan, math.nan), nan_ok=True)


def clustered(
    generator: np.random.Generator, subjects: int, between: float = 1.0, within: float = 0.5
) -> dict[str, list[float]]:
    """Slices of subjects around zero, 4 to 12 of each, of which those of one subject are alike."""
    return {
        f"s{subject}": list(generator.normal(between * generator.normal(), within, generator.integers(4, 13)))
        for subject in range(subjects)
    }


def shifted(values: dict[str, list[float]], by: float, scale: float = 1.0) -> dict[str, list[float]]:
    return {subject: [scale * value + by for value in slices] for subject, slices in values.items()}


def score(seed: int, subject: str, index: int, psnr: float, fold: int = 0) -> ScoredSlice:
    return ScoredSlice("IDR", 4.0, fold, seed, subject, index, psnr)


def coverage(subjects: int, simulations: int) -> float:
    generator = np.random.default_rng(1)
    found = [estimate(clustered(generator, subjects)).interval for _ in range(simulations)]
    return sum(low <= 0 <= high for low, high in found) / simulations


def test_seeds_are_averaged_slice_by_slice() -> None:
    rows = [score(seed, subject, index, 10 * seed + index) for seed in (0, 1) for subject in "ab" for index in (1, 3)]
    assert by_subject(rows, "psnr") == {"a": [6.0, 8.0], "b": [6.0, 8.0]}


def test_folds_are_taken_together() -> None:
    rows = [score(0, "a", 0, 1.0, fold=0), score(0, "b", 0, 2.0, fold=1)]
    assert by_subject(rows, "psnr") == {"a": [1.0], "b": [2.0]}


def test_undefined_scores_are_left_out() -> None:
    rows = [score(0, "a", 0, 1.0), score(1, "a", 0, math.nan), score(0, "a", 1, math.nan), score(0, "b", 0, math.nan)]
    assert by_subject(rows, "ssim") == {}
    rows += [score(seed, "a", 2, 3.0) for seed in (0, 1)]
    assert list(by_subject(rows, "psnr")) == ["a"]
    assert estimate(by_subject(rows, "psnr")).mean == 3.0


def test_a_slice_that_one_method_has_no_score_of_counts_for_none() -> None:
    baseline = {name: [30.0, 20.0] for name in "abcdef"}
    failed = {name: [29.0, math.nan] for name in "abcdef"}
    (found,) = against(baseline, {"failed": failed}).values()
    assert found.mean == -1.0
    assert gap_share(failed, {name: [28.0, 10.0] for name in "abcdef"}, baseline).share == 0.5


def test_equal_slice_numbers_of_several_files_stay_apart() -> None:
    rows = [score(seed, "a", 0, value + seed) for seed in (0, 1) for value in (1.0, 5.0)]
    assert by_subject(rows, "psnr") == {"a": [1.5, 5.5]}


def test_mean_and_spread_are_over_slices() -> None:
    found = estimate({"a": [1.0, 2.0, 3.0], "b": [6.0]})
    assert (found.mean, found.slices, found.subjects) == (3.0, 4, 2)
    assert found.std == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3))


def test_intervals_of_two_or_three_subjects_are_their_range() -> None:
    # A resample is of the lowest subject alone in 1 of 4 or 27 cases, more than the tail of 2.5 %.
    assert estimate({"a": [1.0, 3.0], "b": [5.0]}).interval == pytest.approx((2.0, 5.0))
    assert estimate({"a": [1.0], "b": [5.0, 7.0], "c": [4.0]}).interval == pytest.approx((1.0, 6.0))


def test_interval_is_that_of_scipy() -> None:
    values = clustered(np.random.default_rng(3), 12)
    sums, counts = [sum(slices) for slices in values.values()], [len(slices) for slices in values.values()]
    expected = scipy.stats.bootstrap(
        (sums, counts),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(4),
    ).confidence_interval
    width = expected.high - expected.low
    assert estimate(values).interval == pytest.approx((expected.low, expected.high), abs=0.04 * width)


def test_interval_holds_the_mean_as_often_as_it_says() -> None:
    # The standard error of the share is 0.014; an interval over slices, as if independent, would hold it in 0.52.
    assert coverage(subjects=30, simulations=300) == pytest.approx(0.94, abs=0.04)


def test_intervals_of_few_subjects_are_too_narrow() -> None:
    assert 5 < FEW < 30
    assert coverage(subjects=5, simulations=400) == pytest.approx(0.84, abs=0.05)


def test_order_of_subjects_changes_nothing() -> None:
    values = clustered(np.random.default_rng(0), 7)
    backwards = dict(reversed(values.items()))
    other = shifted(values, 1.0, 2.0)
    assert estimate(values) == estimate(backwards)
    assert against(values, {"m": other}) == against(backwards, {"m": other})
    assert gap_share(backwards, values, other) == gap_share(values, values, dict(reversed(other.items())))


@settings(max_examples=15, deadline=None)
@given(st.floats(-100, 100), st.floats(0.01, 100))
def test_shift_and_scale_carry_over(by: float, scale: float) -> None:
    generator = np.random.default_rng(0)
    values, other, top = (shifted(clustered(generator, 6), place) for place in (0, 1, 4))
    before, after = estimate(values), estimate(shifted(values, by, scale))
    assert after.interval == pytest.approx([scale * end + by for end in before.interval], abs=1e-9)
    assert after.std == pytest.approx(scale * before.std)
    (one,) = against(values, {"m": other}).values()
    (moved,) = against(shifted(values, by, scale), {"m": shifted(other, by, scale)}).values()
    assert moved.interval == pytest.approx([scale * end for end in one.interval], abs=1e-9)
    assert moved.p == one.p
    share = gap_share(other, values, top)
    found = gap_share(*(shifted(part, by, scale) for part in (other, values, top)))
    assert (found.share, *found.interval) == pytest.approx((share.share, *share.interval), abs=1e-9)
    turned = gap_share(*(shifted(part, by, -scale) for part in (other, values, top)), better="lower")
    assert (turned.share, *turned.interval) == pytest.approx((share.share, *share.interval), abs=1e-9)


def test_one_subject_has_no_interval() -> None:
    found = estimate({"a": [2.0]})
    assert (found.mean, found.std, found.slices, found.subjects) == (2.0, 0.0, 1, 1)
    assert found.interval == NAN_INTERVAL
    (difference,) = against({"a": [2.0]}, {"m": {"a": [3.0]}}).values()
    assert (difference.mean, difference.p, difference.smallest) == (1.0, 1.0, 1.0)
    assert difference.interval == NAN_INTERVAL
    assert gap_share({"a": [1.0]}, {"a": [0.0]}, {"a": [4.0]}).share == 0.25
    assert gap_share({"a": [1.0]}, {"a": [0.0]}, {"a": [4.0]}).interval == NAN_INTERVAL


@pytest.mark.parametrize("values", [{}, {"a": []}])
def test_nothing_is_undefined(values: dict[str, list[float]]) -> None:
    found = estimate(values)
    assert (found.slices, found.subjects) == (0, 0)
    assert math.isnan(found.mean)
    assert math.isnan(found.std)
    (difference,) = against({"b": [1.0]}, {"m": values}).values()
    assert difference.subjects == 0
    assert all(math.isnan(value) for value in (difference.mean, difference.p, difference.corrected))
    assert math.isnan(gap_share(values, {"b": [1.0]}, {"b": [2.0]}).share)


def test_infinite_scores_leave_intervals_undefined() -> None:
    values = {"a": [math.inf], "b": [30.0], "c": [31.0]}
    assert estimate(values).mean == math.inf
    assert math.isnan(estimate(values).std)
    (difference,) = against(values, {"m": {"a": [math.inf], "b": [31.0], "c": [33.0]}}).values()
    assert math.isnan(difference.mean)
    assert math.isnan(difference.p)
    assert math.isnan(gap_share(values, {"a": [1.0], "b": [1.0]}, values).share)


def test_difference_is_of_subject_means_over_common_subjects() -> None:
    baseline = {"a": [1.0, 3.0], "b": [5.0], "only": [100.0]}
    (found,) = against(baseline, {"m": {"a": [4.0], "b": [5.0, 6.0, 7.0], "other": [-100.0]}}).values()
    assert (found.mean, found.subjects) == (1.5, 2)
    assert found.interval == pytest.approx((1.0, 2.0))


def signed_ranks(differences: Sequence[float]) -> float:
    """The exact test from its definition: all signs that the ranks could have had."""
    ranks = scipy.stats.rankdata(np.abs(differences))
    center = ranks.sum() / 2
    found = abs(ranks[np.asarray(differences) > 0].sum() - center)
    signs = [abs(np.dot(ranks, taken) - center) for taken in product((0, 1), repeat=len(ranks))]
    return float(np.mean([one >= found - 1e-9 for one in signs]))


@pytest.mark.parametrize("subjects", [2, 5, 9])
def test_p_is_that_of_all_sign_assignments(subjects: int) -> None:
    generator = np.random.default_rng(subjects)
    for center in (0.0, 0.5, 5.0):
        differences = generator.normal(center, 1, subjects)
        baseline = {str(index): [0.0] for index in range(subjects)}
        (found,) = against(baseline, {"m": {str(i): [value] for i, value in enumerate(differences)}}).values()
        assert found.p == pytest.approx(signed_ranks(differences))
        assert found.p >= found.smallest == 2 / 2**subjects


def test_five_subjects_cannot_give_a_smaller_p_than_one_in_sixteen() -> None:
    values = {name: [float(place)] for place, name in enumerate("abcde")}
    found = against(values, {"all better": shifted(values, 1.0, 3.0), "all worse": shifted(values, -1.0, 0.5)})
    assert [one.p for one in found.values()] == [0.0625, 0.0625]
    assert [one.smallest for one in found.values()] == [0.0625, 0.0625]
    assert [one.corrected for one in found.values()] == [0.125, 0.125]


@pytest.mark.parametrize("differences", [(1, 1, 1, 2, -1, 3), (-3, -3, -3, -3, -2, -2, 2), (1, -1), (2, 2, 2, 2)])
def test_p_is_exact_where_sizes_are_equal(differences: tuple[int, ...]) -> None:
    baseline = {str(index): [0.0] for index in range(len(differences))}
    values = {str(index): [float(value)] for index, value in enumerate(differences)}
    (found,) = against(baseline, {"m": values}).values()
    assert found.p == pytest.approx(signed_ranks(differences))


def test_equal_methods_are_not_told_apart() -> None:
    values = clustered(np.random.default_rng(0), 5)
    (found,) = against(values, {"m": values}).values()
    assert (found.mean, found.interval, found.p, found.corrected) == (0.0, (0.0, 0.0), 1.0, 1.0)


def test_subjects_without_a_difference_are_left_out_of_the_test() -> None:
    baseline = {name: [0.0] for name in "abcdefg"}
    changed = {name: [value] for name, value in zip("abcdefg", [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0], strict=True)}
    (found,) = against(baseline, {"m": changed}).values()
    assert (found.p, found.subjects) == (0.0625, 7)


def test_holm_steps_down() -> None:
    # Holm by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04, which must not fall below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.5, 0.6]) == [1.0, 1.0, 1.0]
    assert holm([0.02, math.nan, 0.03]) == pytest.approx([0.04, math.nan, 0.04], nan_ok=True)
    assert holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_closed_testing_by_bonferroni(p: list[float]) -> None:
    # A hypothesis is rejected if every intersection that holds it is: its p is the largest of theirs.
    tests = range(len(p))
    families = [family for size in tests for family in combinations(tests, size + 1)]
    expected = [
        max(min(1.0, len(family) * min(p[other] for other in family)) for family in families if test in family)
        for test in tests
    ]
    assert holm(p) == pytest.approx(expected)


def test_only_methods_with_scores_count_as_tests() -> None:
    values = {name: [float(place)] for place, name in enumerate("abcde")}
    found = against(values, {"m": shifted(values, 1.0, 2.0), "failed": {}})
    assert found["m"].corrected == found["m"].p
    assert math.isnan(found["failed"].corrected)


def test_share_is_how_far_the_mean_has_come() -> None:
    low, high = {"a": [20.0, 22.0], "b": [24.0]}, {"a": [30.0, 32.0], "b": [34.0]}
    middle = {"a": [25.0, 27.0], "b": [29.0]}
    assert gap_share(middle, low, high).share == pytest.approx(0.5)
    # The same subjects are drawn for all three, so that what differs between subjects falls out.
    assert gap_share(middle, low, high).interval == pytest.approx((0.5, 0.5))
    assert gap_share(low, low, high).share == 0.0
    assert gap_share(high, low, high).interval == (1.0, 1.0)
    assert gap_share({"a": [10.0, 12.0], "b": [14.0]}, low, high).share == pytest.approx(-1)


def test_share_of_a_score_that_should_be_low() -> None:
    low, high = {"a": [0.5], "b": [0.7]}, {"a": [0.1], "b": [0.3]}
    assert gap_share({"a": [0.2], "b": [0.4]}, low, high, "lower").share == pytest.approx(0.75)
    assert math.isnan(gap_share({"a": [0.2], "b": [0.4]}, low, high).share)


def test_share_has_only_subjects_that_all_three_have() -> None:
    values = {"a": [1.0], "b": [2.0]}
    low, high = {"a": [0.0], "b": [0.0], "c": [0.0]}, {"a": [4.0], "b": [4.0], "c": [400.0], "d": [9.0]}
    assert gap_share(values, low, high).share == pytest.approx(1.5 / 4)


def test_share_is_undefined_without_a_gap() -> None:
    values = {"a": [1.0], "b": [2.0]}
    for high in (values, shifted(values, -1.0)):
        found = gap_share(values, values, high)
        assert math.isnan(found.share)
        assert found.interval == NAN_INTERVAL


def test_interval_of_the_share_is_that_of_a_plain_loop() -> None:
    generator = np.random.default_rng(5)
    low = clustered(generator, 15)
    middle, high = (
        {name: list(np.array(slices) + by + generator.normal(0, 0.5)) for name, slices in low.items()}
        for by in (1.0, 2.0)
    )
    shares = []
    for drawn in generator.choice(list(low), (3000, len(low))):
        m, bottom, top = (np.mean([v for name in drawn for v in part[name]]) for part in (middle, low, high))
        shares.append((m - bottom) / (top - bottom))
    expected = np.percentile(shares, [2.5, 97.5])
    found = gap_share(middle, low, high)
    assert found.interval == pytest.approx(expected, abs=0.05 * float(np.ptp(expected)))


def half_way(subjects: int, odd: int, reverse: float, over: float = 0.1) -> list[dict[str, list[float]]]:
    """A method a bit over half way through a gap of 1 for most subjects and of ``-reverse`` for the odd ones."""
    gaps = {f"s{index:02d}": -reverse if index < odd else 1.0 for index in range(subjects)}
    return [
        {name: [gap / 2 + over] for name, gap in gaps.items()},
        {name: [0.0] for name in gaps},
        {name: [gap] for name, gap in gaps.items()},
    ]


def test_a_gap_that_resampling_can_close_leaves_the_interval_undefined() -> None:
    # The one odd subject is two or more of four in 26 % of the resamples.
    found = gap_share(*half_way(4, odd=1, reverse=1.0))
    assert found.share == pytest.approx(0.5 + 0.1 / 0.5)
    assert found.interval == NAN_INTERVAL


def test_few_resamples_without_a_gap_widen_the_interval() -> None:
    # With k odd subjects drawn the gap is 1 - k / 7.5 and the share 0.5 + 0.1 / gap: 0.6 for none of them, 1 for six,
    # 2 for seven, which 2.1 % of the resamples are, and undefined for more, which 1.1 % are.
    reverse = 100 / 7.5 - 1
    found = gap_share(*half_way(100, odd=3, reverse=reverse))
    assert found.share == pytest.approx(0.5 + 0.1 / 0.6)
    assert found.interval == pytest.approx((0.6, 2.0))
    below = gap_share(*half_way(100, odd=3, reverse=reverse, over=-0.1))
    assert below.interval == pytest.approx((-1.0, 0.4))
