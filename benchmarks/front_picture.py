"""Four pictures of a scan that ``sansref zeroshot --error_map`` reconstructed: README's.

Zero-filled, compressed sensing with the regularisation that the command chose, the image that it wrote, and its error
bound over that image. All are of all acquired samples; the first slice is drawn.

python benchmarks/front_picture.py OUT picture.png        # OUT: the folder of the command
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import h5py
import matplotlib
import torch

from sansref.commands.evaluate import CLASSICAL
from sansref.methods.classical.regularisation import Classical
from sansref.results.scorer import magnitude, zero_filled
from sansref.training.run import RunDirectory

matplotlib.use("agg")
import matplotlib.pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    record = json.loads((options.out / "zeroshot.json").read_text())
    file = Path(record["settings"]["file"])
    scan = next(RunDirectory(options.out / "run").config().preparation.scans(file))
    name, found = next(iter(record["classical"].items()))
    with torch.inference_mode():
        classical = Classical(name, found["regularisation"], seed=0).reconstruct(scan.batch())[0]
        pictures = {
            "zero-filled": magnitude(zero_filled(scan.batch())[0], scan) * scan.meta.scale,
            f"compressed sensing\n({CLASSICAL[name]})": magnitude(classical, scan) * scan.meta.scale,
        }
    pictures[f"sansref\n({record['choice']['label']})"] = written(options.out / f"{file.stem}.h5", "reconstruction")
    bound = written(options.out / f"{file.stem}.h5", "error_bound")
    image = list(pictures.values())[-1]
    top = float(image.quantile(0.998))
    figure, axes = plt.subplots(1, 4, figsize=(10, 3.6), layout="constrained")
    for axis, (title, picture) in zip(axes, pictures.items(), strict=False):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=top)
        axis.set_title(title, fontsize=10)
    drawn = axes[3].imshow(100 * bound / image.max(), cmap="inferno", vmin=0)
    axes[3].set_title("error bound\n(% of the maximum)", fontsize=10)
    figure.colorbar(drawn, ax=axes[3], shrink=0.8)
    for axis in axes:
        axis.axis("off")
    figure.savefig(options.picture, dpi=90)


def written(path: Path, name: str) -> torch.Tensor:
    """The first image of a file, or its map, float32 (height, width)."""
    with h5py.File(path) as file:
        return torch.from_numpy(file[name][0])


if __name__ == "__main__":
    main()
