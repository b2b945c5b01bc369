"""Low-field scans as they were acquired: every sample outside the center predicted from four fifths of the others.

What a sample's prediction does not share with it is mostly noise, since the noise of samples is independent. Prints
the error of the predictions beside the part of it that noise makes, and saves images.

    python as_acquired.py OUT.npz RUN DATA
"""

import sys
from pathlib import Path

import numpy as np
import torch
from _air import air_power

from sansref.data.prepare import scaled
from sansref.data.readers import open_scan_file
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop
from sansref.training.run import RunDirectory

PARTS = 5
run = RunDirectory(Path(sys.argv[2]))
method, recipe = run.load(), run.config().preparation
images, rows = {}, []
for path in sorted(p for name in run.subjects()["test"] for p in Path(sys.argv[3]).glob(f"{name}/*.mat")):
    for whole in open_scan_file(path, recipe.slices.reader_options).read(path):
        scan = scaled(whole)
        center = torch.zeros_like(scan.mask)
        center_crop(center, (8, 8))[:] = True
        part = torch.randint(PARTS, scan.mask.shape, generator=torch.Generator().manual_seed(whole.meta.slice))
        predicted = scan.kspace[0].clone()
        for number in range(PARTS):
            left_out = scan.mask & ~center & (part == number)
            with torch.inference_mode():
                image = method.reconstruct(scan.restricted(~left_out).batch())[0]
            predicted[left_out] = fft2c(image)[left_out]
        outer = scan.mask & ~center
        noisy, clean = ifft2c(scan.kspace[0]), ifft2c(predicted)
        before, after = air_power(noisy), air_power(clean)
        power = before * scan.mask.numel() / int(scan.mask.sum())  # of the noise, per measured sample
        energy = float(scan.kspace[0][outer].abs().square().sum())
        error = float((predicted - scan.kspace[0])[outer].abs().square().sum())
        rows.append((error / energy, power * int(outer.sum()) / energy, (after / before) ** 0.5))
        images[f"{path.name[7:12]} {whole.meta.slice}"] = np.stack([noisy.abs().numpy(), clean.abs().numpy()])
    mean = np.mean(rows[-4:], 0)
    print(
        f"{path.name[7:12]}: error {mean[0]:.3f}, of which noise {mean[1]:.3f}; noise in air {mean[2]:.2f} of before",
        flush=True,
    )
print("all: error {:.3f}, of which noise {:.3f}; noise in air {:.2f} of before".format(*np.mean(rows, 0)))
np.savez(sys.argv[1], **images)
