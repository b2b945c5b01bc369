"""SSIM of 32 slices of 256 x 256: sansref against skimage, interleaved in one run, one thread.

OMP_WAIT_POLICY=passive python benchmarks/ssim.py
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import torch
from skimage.metrics import structural_similarity

from sansref.metrics.quality import ssim

ROUNDS = 15


def timed(call, *arguments):
    start = time.perf_counter()
    value = call(*arguments)
    return time.perf_counter() - start, value


def by_skimage(images: np.ndarray, references: np.ndarray) -> list[float]:
    pairs = zip(images, references, strict=True)
    return [float(structural_similarity(image, reference, data_range=1.0)) for image, reference in pairs]


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(32, 256, 256, generator=generator)
    image = (reference + 0.1 * torch.randn(reference.shape, generator=generator)).clamp(0, 1)
    arrays = image.numpy(), reference.numpy()
    ours, theirs = [], []
    for _ in range(ROUNDS):
        seconds, value = timed(ssim, image, reference, 1.0)
        ours.append(seconds)
        seconds, expected = timed(by_skimage, *arrays)
        theirs.append(seconds)
    difference = float(np.abs(value.numpy() - np.array(expected)).max())
    print(f"sansref {1000 * median(ours):.0f} ms, skimage {1000 * median(theirs):.0f} ms, medians of {ROUNDS}")
    print(f"ratio {median(theirs) / median(ours):.2f}, largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
