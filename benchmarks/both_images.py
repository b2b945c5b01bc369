"""Draw a slice of the two files that a denoising command writes, and five times their difference.

python benchmarks/both_images.py DIR/NAME.h5 DIR/NAME_denoised.h5 --slice 5 --out both.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import torch

from noisy_pair import draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("noisy", type=Path)
    parser.add_argument("clean", type=Path)
    parser.add_argument("--slice", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("both.png"))
    options = parser.parse_args()
    images = {}
    for name, path in (("as measured", options.noisy), ("denoised", options.clean)):
        with h5py.File(path) as file:
            images[name] = torch.from_numpy(file["reconstruction"][options.slice])
    draw(images, options.out, float(images["as measured"].quantile(0.995)))


if __name__ == "__main__":
    main()
