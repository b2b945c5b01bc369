"""Values as YAML gives them, checked against the types that options declare."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from sansref.errors import SettingError, did_you_mean

LARGEST = 2**53
"""Of whole numbers, below which all are exact as floating point numbers too; seeds may be a thousand times as large."""


def checked(name: str, value: Any, hint: Any) -> Any:
    """A value of the declared type: a list becomes a tuple, and a number that YAML leaves as text (1e-3) a number.

    Parameters
    ----------
    name
        Of the setting, for the message.
    value
        As it was read.
    hint
        A class, a ``Literal``, a tuple of them, or any of several; what is something else is not checked.

    Raises
    ------
    SettingError
        If the value is not one of the choices, of another type, or a whole number beyond any use.
    """
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, str) and holds_numbers(hint) and re.fullmatch(r"\s*\d+(\s*[x,]\s*\d+)+\s*", value):
        value = tuple(map(int, re.findall(r"\d+", value)))
    if isinstance(value, str) and not _fits(value, hint) and _fits(0.0, hint):
        with suppress(ValueError):  # told below, as it stands in the file
            value = float(value)
    if not _fits(value, hint):
        raise SettingError(f"{name} takes {in_words(hint)}, not {value!r}{_nearest(value, hint)}")
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(number, int) and abs(number) > LARGEST for number in numbers):
        raise SettingError(f"{name} takes whole numbers up to {LARGEST}, which {value!r} is beyond")
    return value


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        inner = inner[:1] * len(value) if Ellipsis in inner else inner
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str | Path)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _nearest(value: Any, hint: Any) -> str:
    return did_you_mean(str(value), choices(hint))


def choices(hint: Any) -> list[str]:
    """The values of a ``Literal``, also of one among several types, as they are written."""
    if get_origin(hint) is Literal:
        return list(map(str, get_args(hint)))
    return [value for one in get_args(hint) for value in choices(one)]


def holds_numbers(hint: Any) -> bool:
    """Whether values are tuples of whole numbers, or may be."""
    if get_origin(hint) is tuple:
        return int in get_args(hint)
    return any(holds_numbers(one) for one in get_args(hint))


def in_words(hint: Any) -> str:
    """What values of a type are, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(in_words(one) for one in inner)
    if origin is tuple:
        if set(inner) == {int}:
            return f"{len(inner)} whole numbers such as {','.join(['128'] * len(inner))}"
        return "a list" if Ellipsis in inner else f"a list of {len(inner)}"
    names = {NoneType: "null", int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    names[Path] = "a path"
    return names.get(hint, getattr(hint, "__name__", str(hint)))
