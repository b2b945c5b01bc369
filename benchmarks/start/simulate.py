"""Undersampled scans of several protocols, simulated from open volumes: what the shipped start was trained on.

Each file is one scan of one person: four slices of a random plane, size, contrast, phase, noise, number of coils, mask
and acceleration. Only acquired samples are written, so that nothing that learns from the files sees a reference.

    python simulate.py FOLDER [FOLDER ...] OUT
"""

import sys
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import torch

from sansref.data.simulate import Sampling, Simulation, simulate
from sansref.errors import SettingError
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop
from sansref.randomness import seeded
from sansref.scan import ScanMeta

SLICES = 4
SIZES = (96, 112, 128, 144, 160)
COILS = (1, 1, 2, 4, 6, 8, 8)
SCANS = {"ds000011": 12, "ds002748": 8}  # of each file; one of files in other folders

# Law, and the range of its acceleration with one coil; several coils allow up to twice as much.
LAWS = {
    "variable_density": (2.0, 5.0),
    "poisson_disc": (2.0, 5.0),
    "uniform_random": (1.5, 3.0),
    "random_columns": (1.5, 3.0),
    "equispaced_columns": (1.5, 2.5),
}


def scan(volume: np.ndarray, name: str, number: int) -> torch.Tensor:
    """One scan, complex64 (slices, coils, height, width), zero where nothing was acquired."""
    random = np.random.default_rng([number, *name.encode()])
    generator = seeded(number, "start", name)
    planes = volume.swapaxes(0, random.integers(3))
    bright = planes.reshape(len(planes), -1).mean(1)
    inside = np.flatnonzero(bright > 0.5 * bright.max())
    first, last = inside[0], inside[-1]
    places = np.linspace(random.uniform(first, first + (last - first) / 4), last, SLICES, endpoint=False).astype(int)
    curve, flips = random.uniform(-0.5, 1.2), random.integers(2, size=3)
    height, width = (int(random.choice(SIZES)) for _ in range(2))
    coils = int(random.choice(COILS))
    law = str(random.choice(list(LAWS)))
    least, most = LAWS[law]
    acceleration = random.uniform(least, most * (1 if coils == 1 else 2 if coils > 4 else 1.5))
    options = Simulation(
        phase=random.uniform(0, 2), snr=float(np.exp(random.uniform(np.log(20), np.log(300)))), coils=coils
    )
    mask = Sampling(law, acceleration, exact=False).draw((height, width), generator).array
    kspace = []
    for place in places:
        image = resized(torch.from_numpy(np.ascontiguousarray(planes[place])), (height, width))
        if flips[0]:
            image = image.flip(0)
        if flips[1]:
            image = image.flip(1)
        image = image / image.max()
        image = (image * (1 - curve * image)).abs()  # another contrast
        full = simulate(image, options, seeded(number, "start", name, place), ScanMeta(name, name, int(place)))
        kspace.append(full.kspace * mask)
    return torch.stack(kspace)


def resized(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A magnitude image on a grid of the size, its longer side just filled: blurred where the grid is coarse."""
    side = max(image.shape)
    square = torch.zeros(side, side)
    top, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    square[top : top + image.shape[0], left : left + image.shape[1]] = image
    kspace = fft2c(square.to(torch.complex64))
    spectrum = torch.zeros(max(side, size[0]), max(side, size[1]), dtype=torch.complex64)
    rows, columns = (spectrum.shape[0] - side) // 2, (spectrum.shape[1] - side) // 2
    spectrum[rows : rows + side, columns : columns + side] = kspace
    return ifft2c(center_crop(spectrum, size)).abs()


def main() -> None:
    """Write the files."""
    *folders, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True)
    count: Counter[str] = Counter()  # runs of each person
    for folder in folders:
        repetitions = next((count for name, count in SCANS.items() if name in folder.name), 1)
        for file in sorted(folder.glob("*.nii.gz")):
            volume = np.asarray(nibabel.load(file).dataobj, dtype=np.float32).clip(min=0)
            person = file.name.split("_")[0].replace("-", f"-{folder.name[-6:]}x")
            for number in range(count[person], count[person] + repetitions):
                try:
                    np.save(out / f"{person}_run-{number:02d}.npy", scan(volume, person, number).numpy())
                except SettingError as error:  # a law that cannot be so sparse at this size
                    print(f"{person} {number}: {error}")
            count[person] += repetitions


main()
