"""Reconstruction with trained-size networks against peers, and the time from the command to the first PNG.

Slices per second and peak memory, one slice at a time: 256 x 256 with a single coil, and 320 x 320 with 15 coils. Every
contender runs in a process of its own, in interleaved rounds, and is timed by the processor (with more threads on the
wall). deepinv's network has the convolutions of ISTA-Net+; fastMRI's VarNet has 9 cascades with the 18 channels of its
authors, and estimates the coil maps as well, which the others are given: its GFLOP say how much larger it is. All keep
freed memory (``sansref.machine``), as every command does.

OMP_WAIT_POLICY=passive python benchmarks/inference.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor, nn

import _measure
import _peers
from sansref.data.simulate import Sampling
from sansref.kspace.coils import birdcage_maps, combine
from sansref.kspace.fourier import ifft2c
from sansref.kspace.measurement import Measurement
from sansref.machine import keep_freed_memory
from sansref.methods.ssdu import SSDUOptions
from sansref.networks.istanet import to_channels
from sansref.networks.reconstructor import NetworkOptions
from sansref.training.config import RunConfig

SETTINGS = {"single": (256, 1), "multi": (320, 15)}
CONTENDERS = ["sansref ISTA-Net+", "deepinv unfolded PGD", "sansref U-Net", "fastMRI U-Net", "fastMRI VarNet"]
HEADER = ["contender", "slices/s", "times sansref ISTA-Net+", "GFLOP a slice", "GFLOP/s", "peak MB"]
Network = tuple[nn.Module, Callable[[], object]]


def given(size: int, coils: int, mask: str) -> Measurement:
    """Undersampled noise: how long a network takes does not depend on what it sees."""
    generator = torch.Generator().manual_seed(0)
    chosen = Sampling(mask=mask).draw((size, size), generator).array
    kspace = chosen * torch.randn(1, coils, size, size, dtype=torch.complex64, generator=generator)
    maps = birdcage_maps((size, size), coils)[None] if coils > 1 else None
    return Measurement(kspace, chosen[None], maps)


def ours(samples: Measurement, name: str) -> Network:
    network = NetworkOptions(name="unet" if name == "sansref U-Net" else "ista_plus")
    method = RunConfig("ssdu", SSDUOptions(), network).build().eval()
    return method, lambda: method.reconstruct(samples)


def with_deepinv(samples: Measurement) -> Network:
    physics = _peers.physics(samples.mask[0], None if samples.maps is None else samples.maps[0])
    kspace = torch.view_as_real(samples.kspace).permute(0, 4, 1, 2, 3).contiguous()
    measured = kspace[:, :, 0] if samples.maps is None else kspace
    model = _peers.unfolded_pgd(9, 32).eval()
    return model, lambda: model(measured, physics)


def with_unet(samples: Measurement) -> Network:
    network = _peers.unet().eval()

    def reconstruct() -> Tensor:
        images = ifft2c(samples.kspace)
        return network(to_channels(images[:, 0] if samples.maps is None else combine(images, samples.maps), 2))

    return network, reconstruct


def with_varnet(samples: Measurement) -> Network:
    network = _peers.load("fastmri.models.varnet").VarNet(num_cascades=9).eval()
    kspace = torch.view_as_real(samples.kspace)
    columns = samples.mask[:, None, :1, :, None]
    return network, lambda: network(kspace, columns)


def build(name: str, setting: str) -> Network:
    size, coils = SETTINGS[setting]
    # VarNet reads the columns of the center off the mask, so that all are given columns where it takes part.
    samples = given(size, coils, "variable_density" if coils == 1 else "equispaced_columns")
    if name.startswith("sansref"):
        return ours(samples, name)
    kinds = {"deepinv unfolded PGD": with_deepinv, "fastMRI U-Net": with_unet, "fastMRI VarNet": with_varnet}
    return kinds[name](samples)


def play(name: str, setting: str, slices: int, keep: bool, threads: int) -> dict[str, float]:
    """A child's work: one slice to warm up, whose convolutions are counted, and those that are timed."""
    if keep:
        keep_freed_memory()
    with torch.inference_mode():
        module, reconstruct = build(name, setting)
        gflop = _measure.convolution_gflop(module, reconstruct)
        times = [_measure.seconds(reconstruct, threads) for _ in range(slices)]
    return {"seconds": sum(times) / slices, "gflop": gflop, "peak": _measure.peak_megabytes()}


def compare(setting: str, options: argparse.Namespace) -> None:
    size, coils = SETTINGS[setting]
    names = [name for name in CONTENDERS if coils > 1 or name != "fastMRI VarNet"]
    words = ["--setting", setting, "--slices", options.slices, "--threads", options.threads]
    words += ["--give_back"] if options.give_back else []
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, values in found.items():
            values.append(_measure.child(__file__, ["--child", name, *words]))
    middle = {name: _measure.medians(values) for name, values in found.items()}
    rows = [
        [
            name,
            f"{1 / one['seconds']:.2f}",
            f"{one['seconds'] / middle[CONTENDERS[0]]['seconds']:.2f}",
            f"{one['gflop']:.0f}",
            f"{one['gflop'] / one['seconds']:.1f}",
            f"{one['peak']:.0f}",
        ]
        for name, one in middle.items()
    ]
    print(f"\n{size} x {size}, {coils} coil(s), {options.threads} thread(s), {options.rounds} rounds.\n")
    print(_measure.table(HEADER, rows), flush=True)


def first_png(folder: Path, slices: int, number: int, threads: int) -> float:
    """Seconds from the start of the command to its first PNG."""
    volume = np.random.default_rng(0).random((256, 256, slices), dtype=np.float32)
    file, out = folder / f"sub-{slices}_T1w.nii.gz", folder / f"out-{slices}-{number}"
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), file)
    command = [sys.executable, "-m", "sansref", "reconstruct", folder / "run", file, "--out", out, "--format", "png"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while not any(out.glob("*/*.png")):
            if process.poll() is not None and not any(out.glob("*/*.png")):
                sys.exit("stopped: 'sansref reconstruct' ended without a PNG, see above")
            time.sleep(0.005)
        return time.perf_counter() - start


def show_first_png(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _measure.untrained_run(folder / "run", NetworkOptions())
        times = {slices: [] for slices in (1, 8)}
        for number in range(options.rounds):
            for slices, values in times.items():
                values.append({"seconds": first_png(folder, slices, number, options.threads)})
    rows = [[f"{slices} slice(s)", f"{_measure.medians(values)['seconds']:.2f}"] for slices, values in times.items()]
    print("\nFrom 'sansref reconstruct' to the first PNG, ISTA-Net+, a NIfTI volume of 256 x 256 x slices.\n")
    print(_measure.table(["volume", "seconds"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=list(SETTINGS), nargs="+", default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=3, help="timed slices of each contender in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--give_back", action="store_true", help="do not keep freed memory, as the commands do")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        found = play(options.child, options.setting[0], options.slices, not options.give_back, options.threads)
        print(json.dumps(found))
        return
    _peers.load("deepinv")
    _peers.load("fastmri.models.unet")
    for setting in options.setting:
        compare(setting, options)
    show_first_png(options)


if __name__ == "__main__":
    main()
