"""The methods by name, and methods of the user's own by import path."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path

from sansref.errors import SettingError, no_method
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

    A module is executed when it is imported, whatever is in it: give only names that come from the user, and never
    those in a run directory, which may be a stranger's (:meth:`sansref.training.run.RunDirectory.config`).

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
        raise no_method(name, METHODS)
    with _working_directory_first():
        try:
            found = getattr(import_module(module_name), class_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise SettingError(f"method {name!r} cannot be imported ({error}): give module:Class") from None
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise SettingError(f"{name!r} is not a method: it must be a class derived from sansref.methods.Method")
    return found


def lies_in(name: str, folder: Path) -> bool:
    """Whether a module that ``name`` asks for lies in a folder, or is reached through it; nothing is imported."""
    inside = folder.resolve()
    places: Sequence[str] | None = [str(Path.cwd()), *sys.path]
    for part in name.partition(":")[0].split("."):
        spec = PathFinder.find_spec(part, places)  # by its last name: of a whole one it would look for the parents
        if spec is None:
            return False
        places = list(spec.submodule_search_locations or ())
        origins = [*places, *([spec.origin] if spec.has_location and spec.origin else [])]
        if any(Path(origin).resolve().is_relative_to(inside) for origin in origins):
            return True
    return False


@contextmanager
def _working_directory_first() -> Iterator[None]:
    """A console command, unlike ``python -m``, does not find modules beside which it was started."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
