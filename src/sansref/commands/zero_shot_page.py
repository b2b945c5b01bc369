"""The page of a zero-shot reconstruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from sansref.commands.evaluate import CLASSICAL
from sansref.results.scores import ScoredSlice
from sansref.results.tables import Scoring, summarise
from sansref.results.viewer.contents import Contents, Curve, ViewerSlice
from sansref.results.viewer.page import write_page
from sansref.training.history import read_history
from sansref.training.run import RunDirectory, environment


def write_report(
    out: Path,
    record: Mapping[str, Any],
    reason: str,
    rows: Sequence[ScoredSlice],
    shown: Sequence[ViewerSlice],
    run: RunDirectory,
) -> None:
    """Write ``report.html``: what was chosen and why, scores, images, and the score over the time of training."""
    page = Contents(
        f"{Path(record['settings']['file']).name}, reconstructed from itself",
        f"{reason[0].upper()}{reason[1:]}.",
        [
            "Not worse than compressed sensing by the error on held-out samples: this is all that is promised.",
            "The error is that of images without the samples for judging, on these samples. The images shown are made "
            "of all samples.",
        ],
        _facts(record, rows),
        summarise(rows, Scoring()).scores(),
        slices=shown,
        curves=_curves(record, run),
        curve_label="held-out error on the samples for stopping",
        curve_axis="seconds of training",
        config=run.config_file.read_text(encoding="utf-8"),
        versions={name: str(value) for name, value in environment().items()},
    )
    write_page(out / "report.html", page)


def _facts(record: Mapping[str, Any], rows: Sequence[ScoredSlice]) -> dict[str, str]:
    facts = {"Slices": str(len({row.slice for row in rows})), "Acceleration": f"{rows[0].acceleration:.2f}x"}
    for name, found in record["classical"].items():
        facts[CLASSICAL[name].capitalize() if name != "l1_wavelet" else CLASSICAL[name]] = (
            f"regularisation {found['regularisation']:.2g}"
        )
    if "mixture" in record:
        facts["Mixture"] = ", ".join(f"{share:.0%} {name}" for name, share in record["mixture"].items())
    return facts


def _curves(record: Mapping[str, Any], run: RunDirectory) -> list[Curve]:
    """The network's score after every epoch, and those of compressed sensing as lines beside it."""
    history = read_history(run.path / "metrics.csv")
    if not history:
        return []
    seconds = list(accumulate(float(row["seconds"]) for row in history))
    curves = [
        Curve(CLASSICAL[name], "", [0, seconds[-1]], [found["stopping"]] * 2)
        for name, found in record["classical"].items()
    ]
    return [*curves, Curve("network", "", seconds, [float(row["score"]) for row in history])]
