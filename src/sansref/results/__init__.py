"""What is made of reconstructions: scores, statistics, tables, figures and the page that shows them.

>>> from sansref.results import SliceScore, by_subject, estimate
>>> rows = [SliceScore("IDR", 4.0, 0, 0, subject, 0, psnr=psnr) for subject, psnr in (("anna", 31.0), ("ben", 33.0))]
>>> estimate(by_subject(rows, "psnr")).mean
32.0
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sansref.results.scores import Score, SliceScore, Summary, read_scores, score_scan, write_scores
    from sansref.results.statistics import against, by_subject, estimate

__all__ = [
    "Score",
    "SliceScore",
    "Summary",
    "against",
    "by_subject",
    "estimate",
    "read_scores",
    "score_scan",
    "write_scores",
]

_HOMES = {
    "SliceScore": "score_rows",
    "read_scores": "score_rows",
    "write_scores": "score_rows",
    "Score": "scores",
    "Summary": "scores",
    "score_scan": "scores",
    "against": "statistics",
    "by_subject": "statistics",
    "estimate": "statistics",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: commands that score nothing need no statistics."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sansref.results' has no attribute {name!r}")
    return getattr(import_module(f"sansref.results.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, before they are imported too."""
    return sorted({*globals(), *__all__})
