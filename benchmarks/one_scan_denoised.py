"""A single noisy slice denoised by what is learned from it alone: its true error, and what SURE and held-out noise say.

Simulates a full scan of a slice of a magnitude volume at an SNR of 10, plays ``sansref zeroshot --denoise true`` on it,
and prints for each image the squared error over the energy of the noise.

OMP_WAIT_POLICY=passive python benchmarks/one_scan_denoised.py VOLUME.nii.gz --slice 80 --out FOLDER [--minutes 2]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel
import numpy as np
import torch

import _measure
from sansref.commands.reconstruct import scans_of
from sansref.commands.zero_shot import DEFAULTS, DENOISING, ZeroShotOptions, zero_shot
from sansref.commands.zero_shot_choice import ADDED, noisier
from sansref.data.simulate import Simulation, simulate
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop
from sansref.kspace.noise import noise_of
from sansref.methods.classical.non_local_means import non_local_means
from sansref.methods.classical.total_variation import total_variation
from sansref.metrics.image_error import ImageError, best_share
from sansref.metrics.sure import sure
from sansref.randomness import seeded
from sansref.scan import ScanMeta
from sansref.training.config import RunConfig
from sansref.training.run import RunDirectory

SIDE, SNR = 128, 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("volume", type=Path)
    parser.add_argument("--slice", type=int, default=80, help="along the first axis")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plane = np.asarray(nibabel.load(options.volume).dataobj[options.slice], dtype=np.float32)
    image = ifft2c(center_crop(fft2c(torch.from_numpy(plane)), (SIDE, SIDE))).abs()
    meta = ScanMeta("subject", str(options.volume))
    whole = simulate(image / image.max(), Simulation(snr=SNR), seeded("one scan", options.slice), meta)
    assert whole.reference is not None
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "scan.npy"
    np.save(file, whole.kspace[None].numpy())
    config = RunConfig.from_values({"method": "idr"}).changed(**DEFAULTS, **DENOISING)
    config = config.changed(denoise=True, axes="slice,coil,row,column", threads=1)
    found = zero_shot(config, file, options.out / "zeroshot", ZeroShotOptions(options.minutes), say=print)
    network = RunDirectory(options.out / "zeroshot" / "run").load().eval().reconstruct
    (scan,) = scans_of(config, config.preparation.describe(file))
    given, clean = scan.batch(), fft2c(whole.reference / scan.meta.scale)[None, None]
    nothing, energy = torch.zeros_like(scan.mask), float((given.kspace - clean).abs().square().sum())
    judge = ImageError(scan, nothing, nothing.float(), noisier(scan, config.data_seed + 1), ADDED)
    methods = {
        "total variation, 0.03": lambda one: total_variation(one, 0.03),
        "non-local means": non_local_means,
        "network": network,
    }
    share = best_share([judge], [judge.answer(network)], [judge.answer(non_local_means)])
    methods[f"{share:.0%} network, the rest non-local means"] = lambda one: (
        share * network(one) + (1 - share) * non_local_means(one)
    )
    rows = []
    for name, method in methods.items():
        with torch.inference_mode():
            true = float((fft2c(method(given))[:, None] - clean).abs().square().sum()) / energy
            plain = sure(method, given, noise_of(given), seeded("proof"), 2).risk
            rows.append([name, f"{true:.3f}", f"{plain:.3f}", f"{judge.error(judge.answer(method)):.3f}"])
    print(_measure.table(["", "truth", "SURE", "by held-out noise"], rows))
    print(f"chosen: {found.choice.reason}")


if __name__ == "__main__":
    main()
