"""Held-out errors of several runs, and of compressed sensing, on one scan that they were trained on.

The samples that are scored (--held_out of the run, seed 0) were withheld from the training and are withheld from every
reconstruction; the number of compressed sensing is chosen on others, held out of the rest.

    python single_scan.py OUT.npz FILE AXES RUN [RUN ...]
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from sansref.methods.classical.regularisation import Classical, choose_regularisation
from sansref.metrics.held_out import HeldOut, held_out_mask
from sansref.results.scorer import Scorer, magnitude, zero_filled
from sansref.training.run import RunDirectory

out, file, axes, *runs = sys.argv[1:]
config = RunDirectory(Path(runs[0])).config()
recipe = config.preparation
(scan,) = replace(recipe, slices=replace(recipe.slices, axes=axes)).scans(Path(file))
family = config.sampling.family(scan.meta.emulated)
rest = scan.restricted(~held_out_mask(scan, config.split.held_out, 0, 0))
inner = held_out_mask(rest, config.split.held_out, 1, 0)
methods = {"zero-filled": zero_filled}
for name in ("l1_wavelet", "total_variation"):
    start = time.time()
    choice = choose_regularisation(name, [rest], [inner], family)
    print(f"{name}: regularisation {choice.regularisation:.2g}, {time.time() - start:.0f} s")
    methods[name] = Classical(name, choice.regularisation).reconstruct
for run in runs:
    methods[run] = RunDirectory(Path(run)).load().reconstruct
scorer = Scorer(methods, HeldOut(config.split.held_out, 0, config.sampling.family))
images = {}
print("method | held-out | PSNR | SSIM | seconds")
for name, method in methods.items():
    start = time.time()
    method(scan.batch())
    spent = time.time() - start
    images[name] = scorer.image(name, scan)
    (score,) = replace(scorer, methods={name: method}).score(scan, 0)
    print(f"{name} | {score.held_out:.4f} | {score.psnr:.2f} | {score.ssim:.4f} | {spent:.2f}", flush=True)
if scan.reference is not None:
    images["reference"] = magnitude(scan.reference, scan)
np.savez(out, **{name: np.asarray(image) for name, image in images.items()})
