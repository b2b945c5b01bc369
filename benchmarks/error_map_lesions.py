"""Lesions that a method adds or erases: which maps see them, at which rate of false alarms?

Discs in phase with the image at random places of the inner body, their contrast relative to the 95th percentile of the
body. Added: the method adds the disc to every image. Erased: the disc is in the scan, and the method takes its samples
out of what it is given. In both cases acquired samples are put back, so that the image agrees with all it was given.

Four maps that take about as many reconstructions: contradiction and error bound (20 together), an ensemble of three
runs with eight mirrored and conjugate views each (24), and dropout of a tenth of the features of each phase in the
trained network (25). An ensemble is seen twice: with the lesion by one of its members, and by all of them, as where
training data are to blame. The spread of magnitudes over an ensemble or dropout is smoothed as the bound is, and
divided by its median inside the body, as the bound is here.

A lesion is found where a map reaches a threshold within 2 pixels of its middle, the contradiction with the right sign.
A false alarm is an honest image whose map reaches the threshold anywhere in the inner body, with any sign.

    python benchmarks/error_map_lesions.py RUN RUN RUN --data DIR --slices 13 --out lesions.json
    python benchmarks/error_map_lesions.py --tables lesions.json [MORE ...] [--figure curves.png]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from _measure import table
from error_maps import choice, scans
from sansref.files import write_text
from sansref.kspace.fourier import fft2c
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import VIEWS, Measurement
from sansref.methods import Method
from sansref.metrics.contradiction import THRESHOLD
from sansref.metrics.error_bound import SMOOTHING
from sansref.metrics.error_maps import error_maps
from sansref.metrics.quality import body_mask
from sansref.randomness import seeded
from sansref.scan import Scan
from sansref.training.run import RunDirectory

Reconstruct = Callable[[Measurement], Tensor]
#: A method that adds or erases a lesion, complex (height, width), made of an honest one.
Tampered = Callable[[Reconstruct, Tensor], Reconstruct]

SIZES, CONTRASTS = (3, 4, 6, 8), (0.1, 0.2, 0.3, 0.5)
#: Pixels from the edge of the body that lesions keep, and to their middle within which they are found.
MARGIN, NEAR = 5, 2
DROPPED, DROPOUTS = 0.1, 25
ALARMS = (0.01, 0.05, 0.1)
DETECTORS = {
    "contradiction": "contradiction",
    "bound": "error bound",
    "dropout": "dropout",
    "ensemble_one": "ensemble, one member tampered with",
    "ensemble_all": "ensemble, all members",
}


def main() -> None:
    """Tamper, print tables, write all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="the run, and the others of its ensemble")
    choice(parser)
    parser.add_argument("--lesions", type=int, default=3, help="lesions go into every so many slices")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tables", type=Path, nargs="+", metavar="SCORES")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.tables:
        _measure(options)
    rows = [row for path in options.tables or [options.out] for row in json.loads(path.read_text())]
    print(table(["lesion", *HEADS], list(_by_lesion(rows))))
    print(table(["map", *(f"{share:.0%} false alarms" for share in ALARMS)], list(_operating(rows))))
    if options.figure:
        _draw(rows, options.figure)


def _measure(options: argparse.Namespace) -> None:
    runs = [RunDirectory(path) for path in options.runs]
    methods = [run.load() for run in runs]
    rows: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {(row["person"], row["slice"]) for row in rows}
    for number, (scan, family) in enumerate(scans(runs[0], options)):
        if (scan.meta.subject, scan.meta.slice) in done:
            continue
        found = [_honest(methods, scan, family)]
        if number % options.lesions == 0:
            turn = number // options.lesions
            found += [
                _lesion(methods, scan, family, size, CONTRASTS[(turn + place) % len(CONTRASTS)], added)
                for place, size in enumerate(SIZES)
                for added in (True, False)
            ]
        rows += [{"person": scan.meta.subject, "slice": scan.meta.slice, **one} for one in found]
        write_text(options.out, json.dumps(rows, indent=1))


def _honest(methods: Sequence[Method], scan: Scan, family: MaskFamily) -> dict[str, Any]:
    inner, _ = _inside(methods[0], scan)
    maps = _maps(methods, scan, family, lambda method, lesion: method, torch.zeros(inner.shape, dtype=torch.complex64))
    return {"maxima": {name: float(one.abs()[inner].max()) for name, one in maps.items()}}


def _lesion(
    methods: Sequence[Method], scan: Scan, family: MaskFamily, size: int, contrast: float, added: bool
) -> dict[str, Any]:
    inner, image = _inside(methods[0], scan)
    places = inner.nonzero()
    stream = seeded("lesion", scan.meta.subject, scan.meta.slice, size, added)
    row, column = places[int(torch.randint(len(places), (), generator=stream))].tolist()
    rows, columns = torch.arange(image.shape[0]) - row, torch.arange(image.shape[1]) - column
    shape = (size / 2 + 0.5 - torch.hypot(rows[:, None].float(), columns[None].float())).clamp(0, 1)
    lesion = contrast * image.abs()[body_mask(image.abs())].quantile(0.95) * torch.polar(shape, image.angle())
    if not added:
        coils = fft2c(lesion[None] if scan.maps is None else scan.maps * lesion)
        scan = replace(scan, kspace=scan.kspace + coils * scan.mask)
    near = (slice(max(row - NEAR, 0), row + NEAR + 1), slice(max(column - NEAR, 0), column + NEAR + 1))
    told: dict[str, Any] = {"size": size, "contrast": contrast, "added": added, "near": {}, "percentile": {}}
    for name, one in _maps(methods, scan, family, _adding if added else _erasing, lesion).items():
        signed = -one if added and name == "contradiction" else one
        told["near"][name] = float(signed[near].max())
        told["percentile"][name] = float((signed[inner] < signed[near].max()).float().mean())
    return told


def _adding(method: Reconstruct, lesion: Tensor) -> Reconstruct:
    return lambda given: given.data_consistent(method(given) + lesion)


def _erasing(method: Reconstruct, lesion: Tensor) -> Reconstruct:
    def reconstruct(given: Measurement) -> Tensor:
        own = given.grid.forward(lesion.expand(len(given.kspace), *lesion.shape[-2:]))
        return given.data_consistent(method(replace(given, kspace=given.kspace - own)))

    return reconstruct


def _inside(method: Method, scan: Scan) -> tuple[Tensor, Tensor]:
    """The inner body, bool (height, width), and the honest image."""
    with torch.inference_mode():
        image = method.reconstruct(scan.batch())[0]
    body = body_mask(image.abs())
    return torch.from_numpy(ndimage.binary_erosion(body.numpy(), iterations=MARGIN)), image


@torch.inference_mode()
def _maps(
    methods: Sequence[Method], scan: Scan, family: MaskFamily, tampered: Tampered, lesion: Tensor
) -> dict[str, Tensor]:
    first, *others = (method.reconstruct for method in methods)
    own = tampered(first, lesion)
    found = error_maps(own, scan, family)
    body = body_mask(found.image.abs())
    spread: dict[str, Tensor] = {"bound": found.bound}
    views = {"own": _views(first, scan, tampered, lesion)}
    for name, with_lesion in (("ensemble_one", lambda method, _: method), ("ensemble_all", tampered)):
        members = [views["own"], *(_views(other, scan, with_lesion, lesion) for other in others)]
        spread[name] = _spread(torch.cat(members))
    with _dropout(methods[0]):
        spread["dropout"] = _spread(torch.cat([own(scan.batch()) for _ in range(DROPOUTS)]))
    return {"contradiction": found.contradiction} | {name: one / one[body].median() for name, one in spread.items()}


def _views(method: Reconstruct, scan: Scan, tampered: Tampered, lesion: Tensor) -> Tensor:
    seen = Measurement.stacked([scan.measurement.seen(view) for view in VIEWS])
    images = tampered(method, torch.stack([view.image(lesion) for view in VIEWS]))(seen)
    return torch.stack([view.image(image) for view, image in zip(VIEWS, images, strict=True)])


def _spread(images: Tensor) -> Tensor:
    variance = images.abs().double().var(0).numpy()
    return torch.from_numpy(ndimage.gaussian_filter(variance, SMOOTHING, mode="wrap")).clamp(min=0).sqrt().float()


class _dropout:  # noqa: N801, a context like a function
    """Leaves out a tenth of the features of each phase of an ISTA-Net, others each time."""

    def __init__(self, method: Method) -> None:
        self._hooked = [module for name, module in method.named_modules() if name.endswith(("forward1", "backward1"))]
        assert self._hooked, "dropout is put into the phases of ISTA-Net"

    def __enter__(self) -> None:
        torch.manual_seed(0)
        self._hooks = [
            module.register_forward_hook(lambda module, given, out: F.dropout2d(out, DROPPED))
            for module in self._hooked
        ]

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


HEADS = (
    *("number", "median z", f"found (z of {THRESHOLD:g})"),
    *(f"above the 99th percentile: {name}" for name in ("contradiction", "bound", "dropout", "ensemble, one")),
)


def _by_lesion(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    lesions = [row for row in rows if "near" in row]
    for size in SIZES:
        for contrast in CONTRASTS:
            for added in (True, False):
                own = [
                    row for row in lesions if (row["size"], row["contrast"], row["added"]) == (size, contrast, added)
                ]
                if not own:
                    continue
                z = [one["near"]["contradiction"] for one in own]
                shown = ("contradiction", "bound", "dropout", "ensemble_one")
                yield [
                    f"{size} pixels, {contrast:g}, {'added' if added else 'erased'}",
                    str(len(own)),
                    f"{np.median(z):.1f}",
                    f"{np.mean([one >= THRESHOLD for one in z]):.0%}",
                    *(f"{np.mean([one['percentile'][name] >= 0.99 for one in own]):.0%}" for name in shown),
                ]


def _curve(rows: list[dict[str, Any]], name: str, lesions: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Rates of false alarms and of lesions that are found, from the strictest threshold on."""
    maxima = sorted((row["maxima"][name] for row in rows if "maxima" in row), reverse=True)
    near = np.array([row["near"][name] for row in lesions])
    alarms = [count / len(maxima) for count in range(len(maxima) + 1)]
    # With so many false alarms, the threshold lies just above the next honest image.
    return alarms, [float((near > limit).mean()) for limit in [*maxima, 0.0]]


def _operating(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    lesions = [row for row in rows if "near" in row]
    for name, words in DETECTORS.items():
        alarms, found = _curve(rows, name, lesions)
        yield [words, *(f"{found[int(share * (len(alarms) - 1) + 1e-9)]:.0%}" for share in ALARMS)]


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lesions = [row for row in rows if "near" in row]
    groups = {
        "contrast 0.1": lambda row: row["contrast"] == 0.1,
        "contrast 0.2": lambda row: row["contrast"] == 0.2,
        "contrast 0.3": lambda row: row["contrast"] == 0.3,
        "contrast 0.5": lambda row: row["contrast"] == 0.5,
    }
    figure, axes = pyplot.subplots(1, len(groups), figsize=(12, 3.4), sharey=True, layout="constrained")
    for axis, (title, chosen) in zip(axes, groups.items(), strict=True):
        own = list(filter(chosen, lesions))
        for (name, words), line in zip(DETECTORS.items(), ("-", "--", ":", "-.", (0, (1, 3))), strict=True):
            axis.step(*_curve(rows, name, own), where="post", label=words, linestyle=line)
        axis.set(
            title=f"{title} ({len(own)} lesions)",
            xlabel="honest images with a false alarm",
            xlim=(0, 1),
            ylim=(0, 1.02),
        )
    axes[0].set_ylabel("lesions found")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(DETECTORS), fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
