"""One table of a comparison whose folds were trained in several places: machines, days, colleagues.

Reads the ``scores.csv`` of each place, the scores of every slice, and the plan, which names methods, baseline and gap.
No scan is needed.

    python benchmarks/pooled.py PLAN SCORES.csv [SCORES.csv ...] [--lpips alex]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sansref.commands.compare.compare import summaries_of
from sansref.commands.compare.plan import load_plan
from sansref.results.render import markdown
from sansref.results.scores import ScoredSlice, read_scores
from sansref.results.tables import Scoring


def read_all(paths: list[Path]) -> list[ScoredSlice]:
    """Rows of all files, each training in one of them."""
    rows: list[ScoredSlice] = []
    seen: dict[tuple[str, float, int, int], Path] = {}
    for path in paths:
        found = read_scores(path)
        for training in dict.fromkeys((row.label, row.acceleration, row.fold, row.seed) for row in found):
            if seen.setdefault(training, path) is not path:
                label, acceleration, fold, seed = training
                place = f"{acceleration:g}x, fold {fold}, seed {seed}"
                sys.exit(f"stopped: {label} at {place} is in {seen[training]} and in {path}; give it once")
        rows += found
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan")
    parser.add_argument("scores", type=Path, nargs="+")
    parser.add_argument("--lpips", choices=["alex", "vgg"], help="show LPIPS, which was taken with this network")
    options = parser.parse_args()
    plan = load_plan(options.plan)
    scoring = Scoring(plan.normalise, options.lpips)
    summaries = summaries_of(plan, read_all(options.scores), scoring)
    print(markdown([table for summary in summaries for table in summary.tables()], plan.title))


if __name__ == "__main__":
    main()
