"""Values of configurations, against what options declare."""

from __future__ import annotations

from typing import Literal

import pytest

from sansref.errors import SettingError
from sansref.training.config import RunConfig, TrainingOptions, checked


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, 3),
        (3, float, 3),
        ("1e-3", float, 1e-3),  # YAML 1.1 wants a dot before it takes this for a number
        ("1e-3", float | None, 1e-3),
        (None, float | None, None),
        ("1e3", str, "1e3"),
        ([96, 80], tuple[int, int] | None, (96, 80)),
        ("96,80", tuple[int, int] | None, (96, 80)),
        ("96 x 80", tuple[int, int], (96, 80)),
        ("96,80", str | None, "96,80"),
        ([], tuple[int, ...], ()),
        ([3, 1], tuple[int, ...], (3, 1)),
        ("adam", Literal["adam", "radam"], "adam"),
        (False, bool, False),
        ({"any": 1}, dict[str, int], {"any": 1}),  # not checked
    ],
)
def test_fitting_values(value: object, hint: object, expected: object) -> None:
    found = checked("name", value, hint)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "hint", "words"),
    [
        ("sgd", Literal["adam", "radam"], "one of adam, radam, not 'sgd'"),
        ("fast", float, "a number, not 'fast'"),
        (True, int, "a whole number, not True"),
        (2.5, int, "a whole number, not 2.5"),
        (1, bool, "true or false, not 1"),
        ([96], tuple[int, int] | None, r"2 whole numbers such as 128,128 or null, not \(96,\)"),
        (["a", "b"], tuple[int, int], r"2 whole numbers such as 128,128, not \('a', 'b'\)"),
        (3, tuple[int, ...], "a list, not 3"),
        ([3, "a"], tuple[int, ...], r"a list, not \(3, 'a'\)"),
        (4, str, "text, not 4"),
        (2**53 + 1, int | None, "whole numbers up to"),
        (-(10**30), float, "whole numbers up to"),
        ([8, 10**30], tuple[int, int] | None, "whole numbers up to"),
    ],
)
def test_values_of_another_type_are_one_line(value: object, hint: object, words: str) -> None:
    with pytest.raises(SettingError, match=f"name takes {words}"):
        checked("name", value, hint)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schedule": "cosine"}, "schedule takes one of plateau, linear, cooldown, not 'cosine'"),
        ({"data_consistency": "soft"}, "data_consistency takes one of none, hard, not 'soft'"),
        ({"network": {"name": "resnet"}}, "network.name takes one of ista_plus, ista, unet"),
        ({"magnitude": "yes"}, "magnitude takes true or false"),
        ({"seed": 2**64}, "seed takes whole numbers up to"),
    ],
)
def test_a_configuration_with_a_misspelt_choice_trains_nothing(settings: dict[str, object], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        RunConfig.from_flat({"method": "idr", **settings})


def test_the_largest_seed_can_be_used_and_no_larger_one() -> None:
    assert RunConfig.from_flat({"method": "idr", "seed": 2**53}).build().stages > 0
    with pytest.raises(SettingError, match="data_seed takes whole numbers up to"):
        TrainingOptions(data_seed=-(2**60))
