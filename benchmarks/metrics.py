"""PSNR and SSIM of 32 slices of 256 x 256: sansref against skimage and torchmetrics, interleaved, one thread.

SSIM in both windows: 7 x 7 uniform (skimage's default) and 11 x 11 Gaussian (Wang et al., torchmetrics' default).
sansref and skimage compute in float64, torchmetrics in float32, as it is used. By default it also counts the border,
where it reflects the image; values are compared where the window lies inside.

OMP_WAIT_POLICY=passive python benchmarks/metrics.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import _measure
from sansref.metrics import quality

try:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr
    from torchmetrics.functional.image import structural_similarity_index_measure as torchmetrics_ssim
except ImportError as error:
    sys.exit(f"a peer cannot be imported ({error}): pip install scikit-image torchmetrics")

TOLERANCE = 1e-5
GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
Metric = Callable[[], np.ndarray]


def by_slice(metric: Callable[..., float], image: np.ndarray, reference: np.ndarray, **choices: object) -> np.ndarray:
    """skimage knows no batches."""
    pairs = zip(reference, image, strict=True)
    return np.array([metric(truth, one, data_range=1.0, **choices) for truth, one in pairs])


def metrics(image: Tensor, reference: Tensor) -> dict[str, dict[str, Metric]]:
    """Contenders of each metric, sansref first."""
    arrays = image.numpy(), reference.numpy()
    single = image[:, None], reference[:, None]

    def gaussian() -> np.ndarray:
        full = torchmetrics_ssim(*single, data_range=1.0, reduction="none", return_full_image=True)[1]
        border = quality.GAUSSIAN_RADIUS
        return full[..., border:-border, border:-border].double().mean((1, 2, 3)).numpy()

    def psnr() -> np.ndarray:
        return torchmetrics_psnr(*single, data_range=1.0, reduction="none", dim=(1, 2, 3)).numpy()

    return {
        "PSNR (dB)": {
            "sansref": lambda: quality.psnr(image, reference, 1.0).numpy(),
            "skimage": lambda: by_slice(peak_signal_noise_ratio, *arrays),
            "torchmetrics": psnr,
        },
        "SSIM, 7 x 7": {
            "sansref": lambda: quality.ssim(image, reference, 1.0).numpy(),
            "skimage": lambda: by_slice(structural_similarity, *arrays),
        },
        "SSIM, Gaussian": {
            "sansref": lambda: quality.ssim(image, reference, 1.0, "gaussian").numpy(),
            "skimage": lambda: by_slice(structural_similarity, *arrays, **GAUSSIAN),
            "torchmetrics": gaussian,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(32, 256, 256, generator=generator)
    image = (reference + 0.1 * torch.randn(reference.shape, generator=generator)).clamp(0, 1)
    rows, unequal = [], []
    for metric, contenders in metrics(image, reference).items():
        times = _measure.interleaved(dict(contenders), options.rounds)
        ours = contenders["sansref"]()
        for name, contender in contenders.items():
            difference = float(np.abs(contender() - ours).max())
            ratio = times[name] / times["sansref"]
            rows.append([f"{metric}: {name}", f"{1000 * times[name]:.1f}", f"{ratio:.2f}", f"{difference:.1e}"])
            if difference > TOLERANCE:
                unequal.append(f"{metric} of {name}")
    print(_measure.table(["metric", "ms", "times sansref", "largest difference"], rows))
    if unequal:
        sys.exit(f"stopped: {', '.join(unequal)} differ by more than {TOLERANCE:g}, so that times mean nothing")


if __name__ == "__main__":
    main()
