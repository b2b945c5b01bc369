"""Does the error bound hold for scans that a network learned from alone? Against the references of full scans.

python zero_shot_bounds.py OUT [OUT ...]        # folders that 'sansref zeroshot' has written
"""

import json
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from sansref.commands.zero_shot_choice import judged_mask, scaled_without
from sansref.kspace.measurement import Measurement
from sansref.methods.classical.regularisation import Classical
from sansref.metrics.error_maps import error_maps
from sansref.metrics.quality import body_mask, psnr
from sansref.results.scorer import magnitude, scored_reference
from sansref.training.run import RunDirectory

SLICES = 2

torch.set_num_threads(1)
print("scan | below the bound, body | bound / 90th percentile | PSNR | estimated | regions")
for out in map(Path, sys.argv[1:]):
    record, run = json.loads((out / "zeroshot.json").read_text()), RunDirectory(out / "run")
    config, method = run.config(), run.load()
    share = record["mixture"]["network"]
    name, found = next(iter(record["classical"].items()))
    classical = Classical(name, found["regularisation"], seed=config.training.seed)
    family = cache(config.sampling.family)

    def mixture(given: Measurement) -> Tensor:
        return share * method.reconstruct(given) + (1 - share) * classical.reconstruct(given)  # noqa: B023

    file = Path(record["settings"]["file"])
    for scan in list(config.preparation.scans(file))[:SLICES]:
        judged = judged_mask(scan, config.data_seed + 1)
        scan = scaled_without(scan, judged)
        truth = scored_reference(scan)
        body = body_mask(truth)
        for label, unseen in (("samples for judging", judged), ("all samples", None)):
            maps = error_maps(mixture, scan, family(scan.meta.emulated), unseen=unseen)
            image = magnitude(maps.image, scan)
            error = (image - truth).abs()
            covered = float((error <= maps.bound)[body].float().mean())
            ratio = float(maps.bound[body].mean() / error[body].quantile(0.9))
            shown = float(psnr(image, truth, float(truth.max())))
            print(
                f"{file.name} {scan.meta.slice}, {label} | {covered:.3f} | {ratio:.2f} | {shown:.2f} | {maps.psnr} | "
                f"{len(maps.regions)}",
                flush=True,
            )
