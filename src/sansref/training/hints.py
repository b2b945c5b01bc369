"""Values as YAML gives them, checked against the types that options declare."""

from __future__ import annotations

from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from sansref.errors import SettingError


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
        If the value is not one of the choices, or of another type.
    """
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, str) and not _fits(value, hint) and _fits(0.0, hint):
        with suppress(ValueError):  # told below, as it stands in the file
            value = float(value)
    if not _fits(value, hint):
        raise SettingError(f"{name} takes {_words(hint)}, not {value!r}")
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
    return isinstance(value, hint) if isinstance(hint, type) else True


def _words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(_words(one) for one in inner)
    if origin is tuple:
        return "a list" if Ellipsis in inner else f"a list of {len(inner)}"
    names = {NoneType: "null", int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
