"""Error maps against the truth: coverage of the bound, the estimated PSNR, and lesions that a method adds or erases.

For each person that a run set aside, of the run's own data or of other data (a shift): the share of pixels whose error
is below the 90 % bound, in the body and everywhere; the estimated PSNR beside the true one, and how often its interval
holds it; how many honest images have a region in their contradiction map. Then the method is made dishonest: a disc in
phase with the image, its contrast relative to the 95th percentile of the image, is added to what it gives, or is in the
scan and taken out of what it is given; in both cases acquired samples are put back, so that the image agrees with all
that it was given. A lesion is found where the map reaches the threshold with the right sign within 2 pixels of its
middle; beside this the share that lies above the 99th percentile of the inner body, for the contradiction map and for
the bootstrap's bound.

    sansref train idr --data DIR --out RUN --slices 10 --matrix 96,96 --test 0.4 ...
    python benchmarks/error_maps.py RUN --data DIR --out scores.json
    python benchmarks/error_maps.py RUN --data OTHER --like OTHER_RUN --out shifted.json
    python benchmarks/error_maps.py RUN --data DIR --classical 1e-3 --mask random_columns --out columns.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from _measure import table
from sansref.data.readers import scan_files
from sansref.files import write_text
from sansref.kspace.fourier import fft2c
from sansref.kspace.grid import center_crop
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.methods.classical.regularisation import Classical
from sansref.metrics.contradiction import THRESHOLD
from sansref.metrics.error_maps import ErrorMaps, error_maps
from sansref.metrics.quality import body_mask, psnr
from sansref.randomness import seeded
from sansref.scan import Scan
from sansref.training.run import RunDirectory

Reconstruct = Callable[[Measurement], Tensor]

#: Sizes in pixels and contrasts of lesions.
LESIONS = ((3, 0.3), (4, 0.15), (6, 0.15), (6, 0.3), (8, 0.3))
#: Pixels from the edge of the body that lesions keep, and to their middle within which they are found.
MARGIN, NEAR = 5, 2


def main() -> None:
    """Score, print tables, write all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--like", type=Path, help="run whose choice of slices and subjects is taken")
    parser.add_argument("--subjects", help="names, parted by commas; all that the run set aside")
    parser.add_argument("--every", type=int, default=1, help="take every so many slices")
    parser.add_argument("--lesions", type=int, default=1, help="places for lesions in a slice")
    parser.add_argument("--classical", type=float, help="total variation of this regularisation in the run's place")
    parser.add_argument("--mask", help="another law")
    parser.add_argument("--acceleration", type=float, help="another acceleration")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = RunDirectory(options.run)
    like = RunDirectory(options.like or options.run)
    reconstruct = run.load().reconstruct
    if options.classical is not None:
        reconstruct = Classical("total_variation", options.classical, 60).reconstruct
    rows: list[dict[str, Any]] = []
    for scan, family in _scans(run, like, options):
        rows.append(_honest(reconstruct, scan, family))
        rows[-1]["lesions"] = [
            _lesion(reconstruct, scan, family, size, contrast, added, number)
            for number in range(options.lesions)
            for size, contrast in LESIONS
            for added in (True, False)
        ]
        write_text(options.out, json.dumps(rows, indent=1))  # what is there, if it is stopped
    print(table(["person", *HEADS], [[name, *_summary(own)] for name, own in _by_person(rows)]))
    if options.lesions:
        print(table(["lesion", *LESION_HEADS], list(_found(rows))))


def _scans(run: RunDirectory, like: RunDirectory, options: argparse.Namespace) -> Iterator[tuple[Scan, MaskFamily]]:
    changes = {name: value for name in ("mask", "acceleration") if (value := getattr(options, name)) is not None}
    recipe = run.config().preparation
    sampling = replace(recipe.sampling, **changes)
    recipe = replace(recipe, slices=like.config().slices, sampling=sampling)
    chosen = options.subjects.split(",") if options.subjects else like.subjects()["test"]
    family = sampling.family(emulated=True)
    for info in scan_files(options.data, recipe.slices.reader_options).files:
        if info.subject in chosen:
            for scan in list(recipe.scans(info))[:: options.every]:
                yield scan, family


def _honest(reconstruct: Reconstruct, scan: Scan, family: MaskFamily) -> dict[str, Any]:
    assert scan.reference is not None
    found = error_maps(reconstruct, scan.without_reference(), family)
    image, truth = found.image.abs(), scan.reference.abs()
    if scan.meta.crop is not None:
        image, truth = (center_crop(one, scan.meta.crop) for one in (image, truth))
    body, error = body_mask(truth), (image - truth).abs()
    return {
        "person": scan.meta.subject,
        "slice": scan.meta.slice,
        "covered_body": float((error <= found.bound)[body].float().mean()),
        "covered": float((error <= found.bound).float().mean()),
        "bound_over_error": float(found.bound[body].mean() / error[body].quantile(0.9)),
        "rank": _rank_correlation(found.bound[body], error[body]),
        "psnr": float(psnr(image, truth, float(truth.max()))),
        "estimated": found.psnr.value,
        "low": found.psnr.low,
        "high": found.psnr.high,
        "regions": len(found.regions),
        "strongest": float(found.contradiction[body].abs().max()),
    }


def _rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's."""
    ranks = torch.stack([one.argsort().argsort().double() for one in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


def _lesion(
    reconstruct: Reconstruct, scan: Scan, family: MaskFamily, size: int, contrast: float, added: bool, number: int
) -> dict[str, Any]:
    from scipy import ndimage

    with torch.inference_mode():
        image = reconstruct(scan.batch())[0]
    body = body_mask(image.abs())
    inner = torch.from_numpy(ndimage.binary_erosion(body.numpy(), iterations=MARGIN))
    places = inner.nonzero()
    stream = seeded("lesion", scan.meta.subject, scan.meta.slice, size, number)
    row, column = places[int(torch.randint(len(places), (), generator=stream))].tolist()
    rows, columns = torch.arange(image.shape[0]) - row, torch.arange(image.shape[1]) - column
    shape = (size / 2 + 0.5 - torch.hypot(rows[:, None].float(), columns[None].float())).clamp(0, 1)
    lesion = contrast * image.abs()[body].quantile(0.95) * torch.polar(shape, image.angle())
    coils = fft2c(lesion[None] if scan.maps is None else scan.maps * lesion)
    with_lesion = replace(scan, kspace=scan.kspace + coils * scan.mask)

    def adding(given: Measurement) -> Tensor:
        return given.data_consistent(reconstruct(given) + lesion)

    def erasing(given: Measurement) -> Tensor:
        bare = replace(given, kspace=given.kspace - given.grid.forward(lesion.expand(len(given.kspace), -1, -1)))
        return given.data_consistent(reconstruct(bare))

    found: ErrorMaps
    found = error_maps(adding, scan, family) if added else error_maps(erasing, with_lesion, family)
    near = (slice(max(row - NEAR, 0), row + NEAR + 1), slice(max(column - NEAR, 0), column + NEAR + 1))
    signed = -found.contradiction if added else found.contradiction
    return {
        "size": size,
        "contrast": contrast,
        "added": added,
        "z": float(signed[near].max()),
        "percentile": float((signed[inner] < signed[near].max()).float().mean()),
        "percentile_of_bound": float((found.bound[inner] < found.bound[near].max()).float().mean()),
    }


def _by_person(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for name in dict.fromkeys(row["person"] for row in rows):
        yield name, [row for row in rows if row["person"] == name]
    yield "all", rows


HEADS = (
    *("slices", "below the bound, body", "everywhere", "bound / 90th percentile of errors", "rank correlation"),
    *("PSNR (dB)", "estimated", "in the interval", "slices with a region"),
)


def _summary(rows: list[dict[str, Any]]) -> list[str]:
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if isinstance(rows[0][name], float)}
    inside = sum(row["low"] <= row["psnr"] <= row["high"] for row in rows)
    marked = sum(row["regions"] > 0 for row in rows)
    return [
        str(len(rows)),
        *(f"{mean[name]:.3f}" for name in ("covered_body", "covered")),
        *(f"{mean[name]:.2f}" for name in ("bound_over_error", "rank")),
        f"{mean['psnr']:.2f}",
        f"{mean['estimated']:.2f} [{mean['low']:.2f}, {mean['high']:.2f}]",
        f"{inside} of {len(rows)}",
        f"{marked} of {len(rows)}",
    ]


LESION_HEADS = (
    *("number", "median z", f"found (z of {THRESHOLD:g})", "above the 99th percentile", "the same of the bound"),
)


def _found(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    lesions = [lesion for row in rows for lesion in row["lesions"]]
    for size, contrast in LESIONS:
        for added in (True, False):
            own = [one for one in lesions if (one["size"], one["contrast"], one["added"]) == (size, contrast, added)]
            yield [
                f"{size} pixels, {contrast:g}, {'added' if added else 'erased'}",
                str(len(own)),
                f"{np.median([one['z'] for one in own]):.1f}",
                f"{np.mean([one['z'] >= THRESHOLD for one in own]):.0%}",
                f"{np.mean([one['percentile'] >= 0.99 for one in own]):.0%}",
                f"{np.mean([one['percentile_of_bound'] >= 0.99 for one in own]):.0%}",
            ]


if __name__ == "__main__":
    main()
