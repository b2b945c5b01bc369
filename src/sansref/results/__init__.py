"""What is made of reconstructions: scores, statistics, tables, figures and the page that shows them.

>>> from sansref.results import ScoredSlice, by_subject, estimate
>>> rows = [ScoredSlice("IDR", 4.0, 0, 0, subject, 0, psnr=psnr) for subject, psnr in (("anna", 31.0), ("ben", 33.0))]
>>> estimate(by_subject(rows, "psnr")).mean
32.0
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sansref.results.scorer import Scorer
    from sansref.results.scores import ScoredSlice, read_scores, write_scores
    from sansref.results.statistics import against, by_subject, estimate
    from sansref.results.viewer.page import write_page

_HOMES = {
    "Scorer": "scorer",
    **dict.fromkeys(("ScoredSlice", "read_scores", "write_scores"), "scores"),
    **dict.fromkeys(("against", "by_subject", "estimate"), "statistics"),
    "write_page": "viewer.page",
}

__all__ = ["ScoredSlice", "Scorer", "against", "by_subject", "estimate", "read_scores", "write_page", "write_scores"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: commands that score nothing need no statistics."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sansref.results' has no attribute {name!r}")
    return getattr(import_module(f"sansref.results.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, before they are imported too."""
    return sorted({*globals(), *__all__})
