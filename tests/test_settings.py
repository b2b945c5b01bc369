"""Values of settings against what options declare, from command lines and from YAML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from sansref.errors import SettingError
from sansref.settings import grouped, in_words, merged, new_parser, parse, read


@dataclass(frozen=True)
class Inner:
    """Settings.

    Attributes
    ----------
    rate
        A number, see :class:`~sansref.scan.Scan` and ``None``.
    maybe
        Perhaps a number.
    size
        Two numbers.
    law
        One of two.
    many
        Any number of them.
    count
        How often.
    on
        Whether.
    text
        Words.
    """

    rate: float = 1.0
    maybe: float | None = None
    size: tuple[int, int] | None = None
    law: Literal["adam", "radam"] = "adam"
    many: tuple[int, ...] = ()
    count: int = 3
    on: bool = False
    text: str | None = None


def parser() -> Any:
    made = new_parser("sansref test", "Tests.")
    made.add_argument("--place", type=Path, default=None, help="a place")
    made.add_class_arguments(Inner, "own", as_group=False)
    made.add_argument("--other.count", type=int, default=0, help="another")
    return made


FITTING = [
    ("rate", 3, 3.0),
    ("rate", "1e-3", 1e-3),  # YAML 1.1 wants a dot before it takes this for a number
    ("maybe", "1e-3", 1e-3),
    ("maybe", None, None),
    ("text", "1e3", "1e3"),
    ("size", [96, 80], (96, 80)),
    ("size", "96,80", (96, 80)),
    ("size", "96 x 80", (96, 80)),
    ("text", "96,80", "96,80"),
    ("many", [], ()),
    ("many", [3, 1], (3, 1)),
    ("law", "radam", "radam"),
    ("on", True, True),
]


@pytest.mark.parametrize(("name", "value", "expected"), FITTING)
def test_fitting_values(name: str, value: object, expected: object) -> None:
    found = read(parser(), {"own": {name: value}})["own"][name]
    assert found == expected
    assert type(found) is type(expected)


UNFITTING = [
    ("law", "sgd", "one of adam, radam, not sgd"),
    ("law", "radm", "did you mean radam?"),
    ("rate", "fast", "a number, not fast"),
    ("count", 2.5, "a whole number, not 2.5"),
    ("count", True, "a whole number, not True"),
    ("count", None, "a whole number, not null"),
    ("size", [96], r"2 whole numbers such as 128,128 or null, not \[96\]"),
    ("many", [3, "a"], "a list, not"),
    ("count", 2**53 + 1, "whole numbers up to"),
    ("size", [8, 10**30], "whole numbers up to"),
]


@pytest.mark.parametrize(("name", "value", "words"), UNFITTING)
def test_values_of_another_type_are_one_line(name: str, value: object, words: str) -> None:
    with pytest.raises(SettingError, match=words) as error:
        read(parser(), {"own": {name: value}})
    assert "\n" not in str(error.value)
    assert f"own.{name}" in str(error.value)


def test_the_last_part_of_a_name_is_enough_where_it_is_the_only_one() -> None:
    assert parse(parser(), ["--rate", "2", "--own.count=4"]).own.rate == 2
    assert parse(parser(), ["--size", "96x80"]).own.size == (96, 80)
    assert parse(parser(), ["--size=96,80"]).own.size == (96, 80)
    with pytest.raises(SettingError, match="there is no option --count"):
        parse(parser(), ["--count", "4"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rat", "2"], "there is no option --rat: did you mean --rate?"),
        (["--own.rat", "2"], "there is no option --own.rat: did you mean --own.rate?"),
        (["--law", "sgd"], "--law takes one of adam, radam, not sgd"),
        (["--rate"], "--own.rate needs a value: a number"),
        (["--own.count", "null"], "--own.count takes a whole number, not null"),
        (["more"], "'more' is not expected here"),
        (["--own", "3"], "there is no option --own"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], said: str) -> None:
    with pytest.raises(SettingError) as error:
        parse(parser(), words)
    assert said in str(error.value)
    assert str(error.value).endswith("(see 'sansref test --help')")


def test_help_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(parser(), ["--help"])
    text = capsys.readouterr().out
    assert "A number, see Scan and null. (a number; default 1.0)" in " ".join(text.split())
    assert "`" not in text
    assert "None" not in text
    assert "A place. (a path)" in text


def test_settings_by_short_names_go_into_their_groups() -> None:
    assert grouped(parser(), {"rate": 2, "other.count": 1, "own": {"on": True}}) == {
        "own": {"rate": 2, "on": True},
        "other": {"count": 1},
    }


def test_groups_are_merged_at_every_depth() -> None:
    base = {"a": {"b": {"c": 1, "d": 2}}, "e": 3}
    assert merged(base, {"a": {"b": {"c": 4}}, "e": None}) == {"a": {"b": {"c": 4, "d": 2}}, "e": None}
    assert base["a"] == {"b": {"c": 1, "d": 2}}


def test_types_in_words() -> None:
    assert in_words(tuple[int, ...]) == "a list"
    assert in_words(int | None) == "a whole number or null"
