"""What is made of reconstructions: scores, statistics, tables, figures and the page that shows them.

>>> from sansref.results import ScoredSlice, by_subject, estimate
>>> rows = [ScoredSlice("IDR", 4.0, 0, 0, subject, 0, psnr=psnr) for subject, psnr in (("anna", 31.0), ("ben", 33.0))]
>>> estimate(by_subject(rows, "psnr")).mean
32.0
"""

from __future__ import annotations

from sansref.results.scorer import Scorer
from sansref.results.scores import ScoredSlice, read_scores, write_scores
from sansref.results.statistics import against, by_subject, estimate
from sansref.results.viewer.page import write_page

__all__ = ["ScoredSlice", "Scorer", "against", "by_subject", "estimate", "read_scores", "write_page", "write_scores"]
