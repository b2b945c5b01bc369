"""The page of a single scan's reconstruction, which needs no reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from sansref.commands.evaluate import CLASSICAL
from sansref.data.placement import for_people
from sansref.kspace.coils import unstacked
from sansref.results.figures import maps_figure
from sansref.results.scores import ScoredSlice
from sansref.results.tables import Scoring, summarise
from sansref.results.viewer.contents import Contents, Curve, Figure, Section, ViewerSlice
from sansref.results.viewer.page import write_page
from sansref.scan import Scan
from sansref.training.history import read_history
from sansref.training.run import RunDirectory, environment

PROMISED = (
    "By the error on held-out samples, the image is not worse than that of compressed sensing. No more is promised.",
    "The error is that of images without the samples for judging, on these samples. The images shown are made of all "
    "samples.",
)
"""What a reader must know of an image whose noise stays."""


def write_report(
    out: Path,
    record: Mapping[str, Any],
    reason: str,
    rows: Sequence[ScoredSlice],
    shown: Sequence[ViewerSlice],
    run: RunDirectory,
    scan: Scan,
    notes: Sequence[str],
) -> None:
    """Write ``report.html``: what was chosen and why, scores, images, coil maps, and the score over training.

    ``notes`` is what a reader must know, a line each.
    """
    page = Contents(
        f"{Path(record['settings']['file']).name}, reconstructed by learning from this scan alone",
        f"{reason[0].upper()}{reason[1:]}.",
        notes,
        _facts(record, rows, scan),
        summarise(rows, Scoring()).scores(),
        slices=shown,
        curves=_curves(record, run),
        sections=_maps(out / "maps.png", scan),
        curve_label=f"{'loss' if run.config().denoises else 'held-out error'} on the samples for stopping",
        curve_axis="seconds of training",
        config=run.config_file.read_text(encoding="utf-8"),
        versions={name: str(value) for name, value in environment().items()},
    )
    write_page(out / "report.html", page)


def chosen_first(shown: ViewerSlice, label: str) -> ViewerSlice:
    """A slice whose chosen image is the one that the page opens with."""
    return replace(shown, images={label: shown.images[label], **shown.images})


def marked(shown: ViewerSlice, label: str) -> ViewerSlice:
    """A slice whose chosen image is called so."""
    names = {name: f"{name} (written)" if name == label else name for name in shown.images}
    return replace(
        shown,
        images={names[name]: image for name, image in shown.images.items()},
        captions={names[name]: caption for name, caption in shown.captions.items()},
    )


def _facts(record: Mapping[str, Any], rows: Sequence[ScoredSlice], scan: Scan) -> dict[str, str]:
    facts = {"Slices": str(len({row.slice for row in rows})), "Acceleration": f"{rows[0].acceleration:.2f}x"}
    if scan.meta.emulated:
        facts["Sampling"] = "full scan, undersampled by this command"
    for name, found in record["classical"].items():
        facts[CLASSICAL[name].capitalize() if name != "l1_wavelet" else CLASSICAL[name]] = (
            f"regularisation {found['regularisation']:.2g}"
        )
    if "mixture" in record:
        facts["Mixture"] = ", ".join(f"{share:.0%} {name}" for name, share in record["mixture"].items())
    return facts


def _maps(path: Path, scan: Scan) -> list[Section]:
    """The coil maps of a slice, of several coils."""
    if scan.maps is None:
        return []
    sets = unstacked(scan.maps.abs(), scan.mask.shape[0]).transpose(0, 1)
    maps = {
        f"coil {coil + 1}" + (f", set {number + 1}" if len(sets) > 1 else ""): for_people(one, scan.meta.geometry)
        for number, coils in enumerate(sets)
        for coil, one in enumerate(coils)
    }
    maps_figure(path, {name: one.numpy() for name, one in maps.items()})
    told = (
        f"Coil sensitivity maps of slice {scan.meta.slice}, without the samples for judging. Bright: the coil sees "
        "this place well. Maps follow the coils, not the anatomy; noise or edges in them become errors of the image."
    )
    return [Section("Coil maps", [told], [Figure(path, "Magnitude of each coil's map.", "Coil maps")])]


def _curves(record: Mapping[str, Any], run: RunDirectory) -> list[Curve]:
    """The network's score after every epoch, and those of compressed sensing as lines beside it."""
    history = read_history(run.path / "metrics.csv")
    if not history:
        return []
    seconds = list(accumulate(float(row["seconds"]) for row in history))
    if run.config().denoises:  # its scores are no held-out errors
        return [Curve("network", "", seconds, [float(row["score"]) for row in history])]
    curves = [
        Curve(CLASSICAL[name], "", [0, seconds[-1]], [found["stopping"]] * 2)
        for name, found in record["classical"].items()
    ]
    scores = [float(row["score"]) for row in history]
    if record["before"] is not None:
        seconds, scores = [0.0, *seconds], [record["before"], *scores]
    return [*curves, Curve("network", "", seconds, scores)]
