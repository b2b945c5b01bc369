"""Examples in docstrings give what they say."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import sansref

HOME = Path(sansref.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(HOME.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(module_name(path) for path in HOME.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))
PUBLIC = ["data", "kspace", "methods", "metrics", "networks", "results"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_give_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tried = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert tried.attempted > 0
    assert tried.failed == 0


@pytest.mark.parametrize("name", ["sansref", *(f"sansref.{room}" for room in PUBLIC)])
def test_what_a_package_offers_is_there_and_has_an_example(name):
    package = import_module(name)
    assert name in MODULES
    assert sorted(package.__all__) == sorted(set(package.__all__))
    assert {*package.__all__} <= {*dir(package)}
    assert all(getattr(package, one, None) is not None for one in package.__all__)
