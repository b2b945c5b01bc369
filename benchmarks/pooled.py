"""One table of a comparison whose folds were trained in several places: machines, sittings, colleagues.

Reads the ``scores.csv`` of each place, the scores of every slice, and the plan, which names methods, baseline and gap.
No scan is needed.

    python benchmarks/pooled.py PLAN SCORES.csv [SCORES.csv ...] [--lpips alex]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sansref.commands.compare.plan import load_plan
from sansref.commands.compare.tables import build_table, comparison_markdown
from sansref.results.score_rows import SliceScore, read_scores
from sansref.results.score_tables import Scoring


def read_all(paths: list[Path]) -> list[SliceScore]:
    """Rows of all files, each training in one of them."""
    rows: list[SliceScore] = []
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
    print(comparison_markdown(build_table(plan, read_all(options.scores), scoring)))


if __name__ == "__main__":
    main()
