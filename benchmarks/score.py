"""Can the reference-free score be trusted? Its rank correlation with the true PSNR, and what choosing by it costs.

For every training of a comparison whose plan says ``snapshots: true``, each epoch's weights are scored on the
validation subjects twice: without their references, as training saw them (``metrics.csv``), and with them. Two tables:
over the epochs of each training (which epoch is best?), and over the trainings of each place (which method is best?).

    python benchmarks/score.py runs/STUDY --data DIR
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from _measure import table
from sansref.commands.demo import list_snapshots
from sansref.data.readers import scan_folder
from sansref.training.run import RunDirectory


@dataclass(frozen=True)
class Training:
    """Held-out error and mean true PSNR of each epoch of a training."""

    method: str
    place: str
    scores: list[float]
    psnrs: list[float]

    @property
    def kept(self) -> int:
        """The epoch that training would keep."""
        return int(np.argmin(self.scores))

    def lost(self) -> float:
        """What keeping it costs in dB, next to the truly best epoch."""
        return max(self.psnrs) - self.psnrs[self.kept]

    def correlation(self) -> float:
        """Spearman's over epochs."""
        return float(spearmanr(np.negative(self.scores), self.psnrs).statistic)


def read_training(folder: Path, data: Path) -> Training:
    """Score all snapshots of a cell's run on its validation subjects."""
    run = RunDirectory(folder)
    config = run.config()
    people = run.subjects()["validation"]
    infos, _ = scan_folder(data, config.slices.reader_options)
    scans = [scan for info in infos if info.subject in people for scan in config.preparation.scans(info.path)]
    found = [list_snapshots(run, scan) for scan in scans]
    psnrs = np.mean([[snapshot.psnr for snapshot in snapshots] for snapshots in found], axis=0)
    return Training(folder.parent.name, folder.name, [one.score for one in found[0]], psnrs.tolist())


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of a comparison")
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    folders = [path.parent for path in sorted(options.out.glob("cells/*/*/model.json"))]
    trainings = [
        read_training(folder, options.data) for folder in folders if list(folder.glob("stages/*/epoch-*.safetensors"))
    ]
    rows = [
        [
            f"{one.method}, {one.place}",
            len(one.scores),
            f"{one.correlation():.3f}",
            f"{one.psnrs[one.kept]:.2f}",
            f"{one.lost():.2f}",
        ]
        for one in trainings
    ]
    print(table(["training", "epochs", "Spearman", "PSNR of the epoch kept (dB)", "lost (dB)"], rows))
    rhos, losses = [one.correlation() for one in trainings], [one.lost() for one in trainings]
    print(
        f"\n{len(trainings)} trainings: Spearman {np.median(rhos):.3f} in the median and {min(rhos):.3f} at least;"
        f" lost {np.mean(losses):.3f} dB in the mean and {max(losses):.2f} dB at most"
    )
    places = defaultdict(list)
    for one in trainings:
        places[one.place].append(one)
    rows = []
    for place, group in places.items():
        chosen = min(group, key=lambda one: one.scores[one.kept])
        best = max(group, key=lambda one: one.psnrs[one.kept])
        rho = spearmanr([-one.scores[one.kept] for one in group], [one.psnrs[one.kept] for one in group]).statistic
        lost = best.psnrs[best.kept] - chosen.psnrs[chosen.kept]
        rows.append([place, len(group), f"{rho:.3f}", chosen.method, best.method, f"{lost:.2f}"])
    print()
    print(table(["place", "methods", "Spearman", "chosen", "best", "lost (dB)"], rows))


if __name__ == "__main__":
    main()
