from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.data.splits import split_subjects
from sansref.errors import SettingError

NAMES = [f"IXI{number:03}" for number in range(20)]


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
    names, fractions = set(subjects), {"training": 0.0, "validation": validation, "test": test}
    wanted = {name: max(1, round(share * len(names))) if share else 0 for name, share in fractions.items()}
    del wanted["training"]
    if sum(wanted.values()) >= len(names):
        with pytest.raises(SettingError, match=r"subject\(s\) cannot be split"):
            split_subjects(subjects, fractions, seed)
        return
    parts = split_subjects(subjects, fractions, seed)
    assert list(parts) == ["training", "validation", "test"]
    together = [name for part in parts.values() for name in part]
    assert sorted(together) == sorted(names)
    assert all(part == sorted(part) for part in parts.values())
    assert {name: len(parts[name]) for name in wanted} == wanted
    # Slices or files of a subject, and their order, are of no importance.
    assert split_subjects(reversed([*subjects, *subjects]), fractions, seed) == parts


def test_the_seed_decides_who_goes_where() -> None:
    fractions = {"training": 0.0, "test": 0.25}
    tests = {tuple(split_subjects(NAMES, fractions, seed)["test"]) for seed in range(6)}
    assert len(tests) == 6
    assert all(len(test) == 5 for test in tests)


def test_every_subject_is_as_likely_to_be_tested_on() -> None:
    rounds = 600
    counts = dict.fromkeys(NAMES, 0)
    for seed in range(rounds):
        for name in split_subjects(NAMES, {"training": 0.0, "test": 0.25}, seed)["test"]:
            counts[name] += 1
    spread = (rounds * 0.25 * 0.75) ** 0.5
    assert all(abs(count - rounds / 4) < 4.5 * spread for count in counts.values())


def test_without_shares_everybody_trains() -> None:
    assert split_subjects(NAMES, {"training": 0.0, "validation": 0.0}, 0) == {"training": NAMES, "validation": []}


@pytest.mark.parametrize(("names", "count"), [(["a", "a"], 1), (["a", "b"], 2), ([], 0)])
def test_too_few_subjects_are_one_line_with_the_cure(names: list[str], count: int) -> None:
    message = f"{count} subject(s) cannot be split into training and validation 0.15, test 0.1: add subjects or set"
    with pytest.raises(SettingError, match=re.escape(message)):
        split_subjects(names, {"training": 0.0, "validation": 0.15, "test": 0.1}, 0)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(SettingError, match=rf"the test fraction must lie in \[0, 1\), got {share}"):
        split_subjects(NAMES, {"training": 0.0, "test": share}, 0)
