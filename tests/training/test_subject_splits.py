from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.errors import SettingError
from sansref.training.config import SplitOptions
from sansref.training.subjects import split_halves, split_subjects

NAMES = [f"IXI{number:03}" for number in range(20)]
QUARTER = SplitOptions(validation=0.0, test=0.25)


@settings(max_examples=150, deadline=None)
@given(
    subjects=st.lists(st.text(max_size=3), min_size=1, max_size=40),
    validation=st.floats(0, 0.5),
    test=st.floats(0, 0.5),
    seed=st.integers(0, 9),
)
def test_parts_are_disjoint_complete_and_as_large_as_asked(
    subjects: list[str], validation: float, test: float, seed: int
) -> None:
    names, split = set(subjects), SplitOptions(validation=validation, test=test)
    shares = {"validation": validation, "test": test}
    wanted = {name: max(1, round(share * len(names))) if share else 0 for name, share in shares.items()}
    if sum(wanted.values()) >= len(names):
        with pytest.raises(SettingError, match=r"subject\(s\) cannot be split"):
            split_subjects(subjects, split, seed)
        return
    parts = split_subjects(subjects, split, seed)
    assert list(parts) == ["training", "validation", "test"]
    together = [name for part in parts.values() for name in part]
    assert sorted(together) == sorted(names)
    assert all(part == sorted(part) for part in parts.values())
    assert {name: len(parts[name]) for name in wanted} == wanted
    # Slices or files of a subject, and their order, are of no importance.
    assert split_subjects(reversed([*subjects, *subjects]), split, seed) == parts


def test_the_seed_decides_who_goes_where() -> None:
    tests = {tuple(split_subjects(NAMES, QUARTER, seed)["test"]) for seed in range(6)}
    assert len(tests) == 6
    assert all(len(test) == 5 for test in tests)


def test_every_subject_is_as_likely_to_be_tested_on() -> None:
    rounds = 600
    counts = dict.fromkeys(NAMES, 0)
    for seed in range(rounds):
        for name in split_subjects(NAMES, QUARTER, seed)["test"]:
            counts[name] += 1
    spread = (rounds * 0.25 * 0.75) ** 0.5
    assert all(abs(count - rounds / 4) < 4.5 * spread for count in counts.values())


def test_without_shares_everybody_trains() -> None:
    everybody = {"training": NAMES, "validation": [], "test": []}
    assert split_subjects(NAMES, SplitOptions(validation=0.0), 0) == everybody


@pytest.mark.parametrize(("names", "count"), [(["a", "a"], 1), (["a", "b"], 2), ([], 0)])
def test_too_few_subjects_are_one_line_with_the_cure(names: list[str], count: int) -> None:
    message = f"{count} subject(s) cannot be split into training and validation 0.15, test 0.1: add subjects or set "
    message += "--validation or --test"
    with pytest.raises(SettingError, match=re.escape(message)):
        split_subjects(names, SplitOptions(validation=0.15, test=0.1), 0)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(SettingError, match=rf"the test fraction must lie in \[0, 1\), got {share}: change --test"):
        split_subjects(NAMES, SplitOptions(test=share), 0)


# --- cross-validation ------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    subjects=st.lists(st.text(max_size=3), min_size=1, max_size=40),
    folds=st.integers(2, 8),
    validation=st.sampled_from([0.0, 0.1, 0.25]),
    seed=st.integers(0, 9),
)
def test_every_subject_is_tested_on_in_exactly_one_fold(
    subjects: list[str], folds: int, validation: float, seed: int
) -> None:
    names = set(subjects)
    splits = [SplitOptions(validation, folds=folds, fold=number) for number in range(folds)]
    validated = max(1, round(validation * len(names))) if validation else 0
    if len(names) < folds or -(-len(names) // folds) + validated >= len(names):
        with pytest.raises(SettingError, match=r"subject\(s\) cannot be split into"):
            for split in splits:
                split_subjects(subjects, split, seed)
        return
    rounds = [split_subjects(subjects, split, seed) for split in splits]
    assert sorted(name for parts in rounds for name in parts["test"]) == sorted(names)
    sizes = {len(parts["test"]) for parts in rounds}
    assert max(sizes) - min(sizes) <= 1
    for parts in rounds:
        assert list(parts) == ["training", "validation", "test"]
        assert sorted(name for part in parts.values() for name in part) == sorted(names)
        assert all(part == sorted(part) for part in parts.values())
        assert len(parts["validation"]) == validated


def test_folds_of_a_seed_share_one_order_and_other_seeds_have_another() -> None:
    splits = [SplitOptions(validation=0.0, folds=4, fold=number) for number in range(4)]
    tests = {seed: [split_subjects(NAMES, split, seed)["test"] for split in splits] for seed in range(3)}
    assert len({tuple(test) for found in tests.values() for test in found}) == 12
    assert split_subjects(reversed(NAMES * 2), splits[1], 0)["test"] == tests[0][1]
    assert any(sorted(test) != NAMES[5 * i : 5 * i + 5] for i, test in enumerate(tests[0]))


def test_validation_subjects_change_with_the_fold() -> None:
    splits = [SplitOptions(validation=0.25, folds=4, fold=number) for number in range(4)]
    found = {tuple(split_subjects(NAMES, split, 0)["validation"]) for split in splits}
    assert len(found) == 4
    assert {name for part in found for name in part} == set(NAMES)


@pytest.mark.parametrize(
    ("number", "of", "message"),
    [
        (0, 1, "a cross-validation takes at least 2 folds, got 1"),
        (4, 4, "4 folds are numbered from 0 to 3, there is no fold 4"),
        (-1, 4, "4 folds are numbered from 0 to 3, there is no fold -1"),
    ],
)
def test_a_fold_that_does_not_exist_is_refused(number: int, of: int, message: str) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        split_subjects(NAMES, SplitOptions(folds=of, fold=number), 0)


def test_fewer_subjects_than_folds_are_one_line_with_the_cure() -> None:
    message = "3 subject(s) cannot be split into 4 folds: add subjects or take fewer folds (--folds)"
    with pytest.raises(SettingError, match=re.escape(message)):
        split_subjects(["a", "b", "c"], SplitOptions(folds=4), 0)


def test_too_few_subjects_beside_a_fold_are_one_line_with_the_cure() -> None:
    message = "2 subject(s) cannot be split into training and validation 0.1, test one of 2 folds: add subjects or set"
    with pytest.raises(SettingError, match=re.escape(message)):
        split_subjects(["a", "b"], SplitOptions(validation=0.1, folds=2), 0)


@pytest.mark.parametrize("share", [0.2, float("nan")])
def test_a_fold_and_a_test_fraction_contradict_each_other(share: float) -> None:
    message = f"the test split is fold 1 of 4 or a fraction, not both: set the test fraction to 0, got {share:g}"
    message += " (--test 0, or --folds 0)"
    with pytest.raises(SettingError, match=re.escape(message)):
        split_subjects(NAMES, SplitOptions(test=share, folds=4, fold=1), 0)


# --- unpaired halves -------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(subjects=st.lists(st.text(max_size=3), min_size=1, max_size=40), seed=st.integers(0, 9))
def test_halves_are_disjoint_complete_and_of_one_size(subjects: list[str], seed: int) -> None:
    names = sorted(set(subjects))
    if len(names) < 2:
        return
    full, undersampled = split_halves(subjects, seed)
    assert sorted(full + undersampled) == names
    assert (full, undersampled) == (sorted(full), sorted(undersampled))
    assert len(undersampled) - len(full) == len(names) % 2
    assert split_halves(reversed([*subjects, *subjects]), seed) == (full, undersampled)


def test_the_seed_decides_who_is_in_which_half() -> None:
    rounds = 400
    halves = [split_halves(NAMES, seed)[0] for seed in range(rounds)]
    spread = (rounds * 0.25) ** 0.5
    for name in NAMES:
        assert abs(sum(name in half for half in halves) - rounds / 2) < 4.5 * spread


def test_halves_do_not_follow_the_order_of_a_split() -> None:
    first = split_subjects(NAMES, SplitOptions(validation=0.0, test=0.5), 0)["test"]
    assert split_halves(NAMES, 0)[0] != first


@pytest.mark.parametrize(("names", "count"), [([], 0), (["a"], 1), (["a", "a"], 1)])
def test_one_subject_cannot_be_halved(names: list[str], count: int) -> None:
    message = f"{count} subject(s) cannot be halved into full and undersampled scans: at least 2 are needed"
    with pytest.raises(SettingError, match=re.escape(message)):
        split_halves(names, 0)
