"""The methods by name, and methods of the user's own by import path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from sansref.errors import SettingError
from sansref.methods import IDR, ISCL, SSDU, CycleGAN, IDRPaper, Method, Supervised, SupervisedGenerator, SwitchableISCL

METHODS: dict[str, type[Method]] = {
    "idr": IDR,
    "idr_paper": IDRPaper,
    "ssdu": SSDU,
    "supervised": Supervised,
    "switchable": SwitchableISCL,
    "iscl": ISCL,
    "cyclegan": CycleGAN,
    "supervised_generator": SupervisedGenerator,
}


def find_method(name: str) -> type[Method]:
    """The class of a method.

    Parameters
    ----------
    name
        A key of :data:`METHODS`, or ``module:Class`` of a module that can be imported or lies in the working directory.

    Raises
    ------
    SettingError
        If there is no such method.
    """
    if name in METHODS:
        return METHODS[name]
    module_name, colon, class_name = name.partition(":")
    if not colon:
        raise SettingError(
            f"there is no method {name!r}: use one of {', '.join(METHODS)}, or module:Class for one of your own"
        )
    with _working_directory_first():
        try:
            found = getattr(import_module(module_name), class_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise SettingError(f"method {name!r} cannot be imported ({error}): give module:Class") from None
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise SettingError(f"{name!r} is not a method: it must be a class derived from sansref.methods.Method")
    return found


@contextmanager
def _working_directory_first() -> Iterator[None]:
    """A console command, unlike ``python -m``, does not find modules beside which it was started."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
