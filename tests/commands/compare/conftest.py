"""A comparison small enough for a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sansref.commands.compare.plan import Plan
from sansref.commands.compare.workplace import Workplace

SHARED = {
    "split": {"test": 0.3, "validation": 0.2},
    "network": {"phases": 1, "channels": 2},
    "training": {"epochs": 2},
    "machine": {"accelerator": "cpu", "threads": 1},
}
METHODS = {
    "Input": {"method": "zero_filled"},
    "Input, best scale": {"method": "zero_filled_best_scale"},
    "TV": {"method": "total_variation"},
    "SSDU": {"method": "ssdu"},
    "IDR": {"method": {"name": "idr", "stages": 2, "pool": 2}, "training": {"epochs": 1}},
    "supervised": {"method": "supervised"},
}


@pytest.fixture(scope="session")
def tiny_plan() -> Callable[..., Plan]:
    """A plan of seconds: ``tiny_plan(accelerations={4.0: {}})``."""

    def make(**changes: Any) -> Plan:
        values = {"title": "Small & quick", "methods": METHODS, "accelerations": {4.0: {}}, "baseline": "SSDU"}
        return Plan(**{**values, "shared": SHARED, "gap": ("SSDU", "supervised"), "figures": 2, **changes})

    return make


@pytest.fixture
def quiet() -> Console:
    """Draws nothing."""
    return Console(quiet=True)


@pytest.fixture
def place(tiny_plan: Callable[..., Plan], heads: Path, tmp_path: Path) -> Callable[..., Workplace]:
    """Where a plan is worked off on the heads."""

    def make(folder: str = "comparison", **changes: Any) -> Workplace:
        return Workplace(tiny_plan(**changes), heads, None, tmp_path / folder)

    return make
