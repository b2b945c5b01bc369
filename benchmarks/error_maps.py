"""Error maps against the truth: coverage of the bound, the estimated PSNR, regions in honest images.

For each person that a run set aside, of the run's own data or of other data (a shift): the share of pixels whose error
is below the 90 % bound, in the body and everywhere; the estimated PSNR beside the true one, and how often its interval
holds it; how many honest images have a region in their contradiction map. A run that was killed goes on where it was.

    sansref train idr --data DIR --out RUN --slices 10 --matrix 96,96 --test 0.4 ...
    python benchmarks/error_maps.py RUN --data DIR --out scores/NAME-SEED.json
    python benchmarks/error_maps.py RUN --data OTHER --like OTHER_RUN --out scores/shifted-SEED.json
    python benchmarks/error_maps.py RUN --data DIR --classical 1e-3 --mask random_columns --out columns.json
    python benchmarks/error_maps.py --tables scores/*.json        # a row for all seeds of a name
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
from sansref.kspace.grid import center_crop
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.methods.classical.regularisation import Classical
from sansref.metrics.error_maps import error_maps
from sansref.metrics.quality import body_mask, psnr
from sansref.scan import Scan
from sansref.training.run import RunDirectory

Reconstruct = Callable[[Measurement], Tensor]


def main() -> None:
    """Score, print tables, write all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    choice(parser)
    parser.add_argument("--classical", type=float, help="total variation of this regularisation in the run's place")
    parser.add_argument("--mask", help="another law")
    parser.add_argument("--acceleration", type=float, help="another acceleration")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tables", type=Path, nargs="+", metavar="SCORES")
    options = parser.parse_args()
    if options.tables:
        print(table(["files", "seeds", "people", *HEADS], list(_by_name(options.tables))))
        return
    torch.set_num_threads(1)
    run = RunDirectory(options.run)
    reconstruct = run.load().reconstruct
    if options.classical is not None:
        reconstruct = Classical("total_variation", options.classical, 60).reconstruct
    rows: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {(row["person"], row["slice"]) for row in rows}
    for scan, family in scans(run, options, mask=options.mask, acceleration=options.acceleration):
        if (scan.meta.subject, scan.meta.slice) not in done:
            rows.append(_honest(reconstruct, scan, family))
            write_text(options.out, json.dumps(rows, indent=1))
    print(table(["person", *HEADS], [[name, *_summary(own)] for name, own in _by_person(rows)]))


def choice(parser: argparse.ArgumentParser) -> None:
    """Options that say which scans are taken."""
    parser.add_argument("--data", type=Path)
    parser.add_argument("--like", type=Path, help="run whose choice of slices and subjects is taken")
    parser.add_argument("--subjects", help="names, parted by commas; all that the run set aside")
    parser.add_argument("--slices", type=int, help="another number of slices for each person")
    parser.add_argument("--every", type=int, default=1, help="take every so many slices")


def scans(run: RunDirectory, options: argparse.Namespace, **changes: Any) -> Iterator[tuple[Scan, MaskFamily]]:
    """Scans that :func:`choice` says, undersampled as the run's own but for ``changes``, with masks of their kind."""
    like = RunDirectory(options.like or run.path)
    recipe, slices = run.config().preparation, like.config().slices
    sampling = replace(recipe.sampling, **{name: value for name, value in changes.items() if value is not None})
    slices = slices if options.slices is None else replace(slices, slices=options.slices)
    recipe = replace(recipe, slices=slices, sampling=sampling)
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


def _by_person(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for name in dict.fromkeys(row["person"] for row in rows):
        yield name, [row for row in rows if row["person"] == name]
    yield "all", rows


HEADS = (
    *("slices", "below the bound, body", "everywhere", "bound / 90th percentile of errors", "rank correlation"),
    *("PSNR (dB)", "estimated", "in the interval", "slices with a region"),
)


def _by_name(files: list[Path]) -> Iterator[list[str]]:
    """Rows of files whose names are one but for the seed at their end, with the range over seeds and people."""
    stems = {path: path.stem.rpartition("-")[0] for path in files}
    for name in dict.fromkeys(stems.values()):
        seeds = [json.loads(path.read_text()) for path in files if stems[path] == name]
        covered = [_summary(own)[1] for rows in seeds for _, own in [*_by_person(rows)][:-1]]
        count, _, *others = _summary([row for rows in seeds for row in rows])
        people = str(len({row["person"] for row in seeds[0]}))
        yield [name, str(len(seeds)), people, count, f"{min(covered)} to {max(covered)}", *others]


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


if __name__ == "__main__":
    main()
