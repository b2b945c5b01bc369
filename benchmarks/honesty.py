"""What makes a synthetic benchmark look better than it is: real images, no noise, zero-padded k-space.

The first fold of ``benchmarks/study/idr.yaml`` at 4x, trained anew on variants of the same data:

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

import nibabel
import numpy as np
import torch
import yaml

from sansref.data.prepare import Selection, resized_image
from sansref.data.readers import FileInfo, open_scan_file, scan_folder
from sansref.experiments.comparison.compare import compare
from sansref.experiments.comparison.plan import load_plan
from sansref.experiments.comparison.records import read_scores
from sansref.experiments.comparison.workplace import Workplace
from sansref.files import write_text
from sansref.kspace.fourier import fft2c, ifft2c

#: Sides of the images, and of the k-space that was acquired before it was padded.
MATRIX, ACQUIRED = 96, 64
PLAN = Path(__file__).parent / "study" / "idr.yaml"
METHODS = ("zero-filled", "SSDU", "IDR", "supervised")
#: Changes of what the methods share.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "complex": {},
    "real": {"phase": 0.0},
    "no noise": {"snr": None},
    "SNR 20": {"snr": 20.0},
    "zero-padded": {"slices": 0, "matrix": None},
}


def plan_of(variant: str) -> dict[str, Any]:
    """The study's plan, less what is not needed here."""
    plan: dict[str, Any] = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    plan["methods"] = {name: plan["methods"][name] for name in METHODS}
    plan["methods"]["total variation"] = {"method": "total_variation"}
    plan["shared"] |= {**VARIANTS[variant], "snapshots": False}
    return plan | {"title": f"What makes a benchmark easy: {variant}", "accelerations": [4], "run_folds": [0]}


def write_padded(data: Path, slices: int, out: Path) -> None:
    """One NIfTI volume a subject: magnitudes of the study's slices at low resolution, in pixels of the high one."""
    selection = Selection(slices=slices, matrix=(MATRIX, MATRIX))
    infos, _ = scan_folder(data, selection.reader_options)
    for info in infos:
        path = out / info.subject / info.path.name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            volume = np.stack([padded(image, selection) for image in images_of(info, selection)], axis=-1)
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)  # type: ignore[no-untyped-call]


def images_of(info: FileInfo, selection: Selection) -> list[torch.Tensor]:
    """The magnitudes that the study takes from a file."""
    reader = open_scan_file(info.path, selection.reader_options)
    return [piece.image for piece in reader.read(info.path, selection.indices(info.slices))]


def padded(image: torch.Tensor, selection: Selection) -> np.ndarray:
    """The magnitude of an image whose outer k-space has been zeroed."""
    kspace = fft2c(resized_image(image, selection))
    border = (MATRIX - ACQUIRED) // 2
    inner = slice(border, border + ACQUIRED)
    kept = torch.zeros_like(kspace)
    kept[inner, inner] = kspace[inner, inner]
    return ifft2c(kept).abs().numpy()


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
    names = ("zero-filled", "total variation", "SSDU", "IDR", "supervised")
    table = ["| data | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for variant in VARIANTS:
        folder = options.out / variant.replace(" ", "-")
        plan = plan_of(variant)
        write_text(folder / "plan.yaml", yaml.safe_dump(plan, sort_keys=False))
        data = options.data
        if variant == "zero-padded":
            data = options.out / "padded"
            write_padded(options.data, yaml.safe_load(PLAN.read_text(encoding="utf-8"))["shared"]["slices"], data)
        compare(Workplace(load_plan(str(folder / "plan.yaml")), data, None, folder), options.jobs)
        psnr = mean_psnr(folder / "scores.csv")
        table.append(f"| {variant} | " + " | ".join(f"{psnr[name]:.2f}" for name in names) + " |")
    print("\n".join(table))


if __name__ == "__main__":
    main()
