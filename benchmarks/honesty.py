"""What makes a synthetic benchmark look better than it is: real images, no noise, zero-padded k-space.

One fold of ``benchmarks/study/idr.yaml`` at 4x, trained anew on variants of the same data:

- complex: as in the study, smooth phase, SNR 50;
- real: no phase, so that k-space is Hermitian and half of it is known twice;
- no noise, and SNR 20;
- zero-padded: magnitudes of 64 x 64 samples of k-space, padded to 96 x 96 before they are saved, as scanners and public
  collections do; "implicit data crimes" (Shimron et al., PNAS 119:e2117203119, 2022).

    python benchmarks/honesty.py --data DIR --out runs/honesty
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from _measure import table
from sansref.commands.compare.compare import compare
from sansref.commands.compare.plan import load_plan
from sansref.commands.compare.workplace import Workplace
from sansref.data.readers import open_scan_file, scan_folder
from sansref.data.slices import Slices, resized_image
from sansref.files import write_text
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop
from sansref.outputs.writers import nifti_slices
from sansref.results.scores import read_scores

#: Sides of the images, and of the k-space that was acquired before it was padded.
MATRIX, ACQUIRED = 96, 64
STUDY = Path(__file__).resolve().parent / "study" / "idr.yaml"
SLICES = 10
METHODS = ("zero-filled", "total variation", "SSDU", "IDR", "supervised")
#: Changes of what the methods share.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "complex": {},
    "real": {"simulation": {"phase": 0.0}},
    "no noise": {"simulation": {"snr": None}},
    "SNR 20": {"simulation": {"snr": 20.0}},
    "zero-padded": {"slices": 0, "matrix": None},
}


def plan_of(variant: str) -> dict[str, Any]:
    """What it changes in the study's plan."""
    return {
        "kind": "comparison",
        "extends": str(STUDY),
        "title": f"What makes a benchmark easy: {variant}",
        "shared": {"data": {"slices": SLICES, **VARIANTS[variant]}},
        "accelerations": [4],
        "run_folds": [3],
        "methods": {
            "total variation": {"method": "total_variation"},
            **dict.fromkeys(("K-weighted SSDU", "IDR (paper, A)", "IDR (paper, B)")),
        },
    }


def write_padded(data: Path, out: Path) -> None:
    """One NIfTI volume a subject: magnitudes of the study's slices at low resolution, in pixels of the high one."""
    selection = Slices(slices=SLICES, matrix=(MATRIX, MATRIX))
    for info in scan_folder(data, selection.reader_options)[0]:
        path = out / info.subject / info.path.name
        if path.exists():
            continue
        chosen = selection.indices(info.slices)
        path.parent.mkdir(parents=True, exist_ok=True)
        with nifti_slices(path, (len(chosen), MATRIX, MATRIX)) as put:
            for index, piece in enumerate(open_scan_file(info.path, selection.reader_options).read(info.path, chosen)):
                put(index, padded(resized_image(piece.image, selection)))


def padded(image: Tensor) -> Tensor:
    """The magnitude of an image whose outer k-space has been zeroed."""
    kspace = fft2c(image)
    kept = torch.zeros_like(kspace)
    center_crop(kept, (ACQUIRED, ACQUIRED))[:] = center_crop(kspace, (ACQUIRED, ACQUIRED))
    return ifft2c(kept).abs()


def mean_psnr(path: Path) -> dict[str, float]:
    """Of each method of a comparison."""
    found = defaultdict(list)
    for row in read_scores(path):
        found[row.label].append(row.psnr)
    return {name: float(np.mean(values)) for name, values in found.items()}


def main() -> None:
    """Train what is missing, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    rows = []
    for variant in VARIANTS:
        folder, data = options.out / variant.replace(" ", "-"), options.data
        write_text(folder / "plan.yaml", yaml.safe_dump(plan_of(variant), sort_keys=False))
        if variant == "zero-padded":
            data = options.out / "padded"
            write_padded(options.data, data)
        compare(Workplace(load_plan(str(folder / "plan.yaml")), data, None, folder), options.jobs)
        psnr = mean_psnr(folder / "scores.csv")
        rows.append([variant, *(f"{psnr[name]:.2f}" for name in METHODS)])
    print(table(["data", *METHODS], rows))


if __name__ == "__main__":
    main()
