"""What noise alone costs: floors of the scores on fully sampled scans of one coil, from the corners of their images.

python noise_floor.py RUN DATA
"""

import sys
from pathlib import Path

import torch
from _air import air_power

from sansref.data.readers import open_scan_file
from sansref.metrics.held_out import held_out_mask
from sansref.training.run import RunDirectory

run = RunDirectory(Path(sys.argv[1]))
config, recipe = run.config(), run.config().preparation
family = config.sampling.family(True)
tested = run.subjects()["test"]
floors = []
for path in sorted(p for name in tested for p in Path(sys.argv[2]).glob(f"{name}/*.mat")):
    full = {scan.meta.slice: scan for scan in open_scan_file(path, recipe.slices.reader_options).read(path)}
    per_file = []
    for scan in recipe.scans(path):
        image = scan.reference
        measured = int(full[scan.meta.slice].mask.sum())
        power = air_power(image) * image.numel() / measured  # of the noise, per measured sample
        held = held_out_mask(scan, config.split.held_out, config.data_seed, scan.meta.slice)
        weight = 1 / family.density(scan.mask)[held].clamp(min=1e-3)
        floor = power * float(weight.sum()) / float((weight * scan.kspace[0][held].abs().square()).sum())
        nmse = power * measured / float(image.abs().square().sum())
        per_file.append((floor, nmse, float(image.abs().max()) / (power / 2) ** 0.5))
    mean = torch.tensor(per_file).mean(0).tolist()
    print(
        f"{path.name[7:12]}: held-out floor {mean[0]:.3f}, noise {mean[1]:.4f} of the energy, peak/sigma {mean[2]:.0f}"
    )
    floors += per_file
mean = torch.tensor(floors).mean(0).tolist()
print(f"all: held-out floor {mean[0]:.3f}, noise {mean[1]:.4f} of the energy, peak/sigma {mean[2]:.0f}")
