"""One training step of ISTA-Net+ (9 phases x 32 channels, complex, symmetry term) against plain PyTorch and peers.

Every contender runs in a process of its own, in interleaved rounds, and is timed by the processor (with more threads on
the wall). The work of the convolutions is counted by hooks in the first step, times three for forward and backward; the
peak is that of one of sansref's 3x3 convolutions 32 -> 32, forward and backward. sansref, plain PyTorch and deepinv
draw a new partition of the samples in every step. Keeping freed memory (``sansref.machine``) helps whoever asks for it,
so that the peers are shown with it too.

OMP_WAIT_POLICY=passive python benchmarks/training_step.py [--batch 1 4] [--rounds 5] [--precision bf16]
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import _measure
import _peers
from _plain import PlainISTANet, plain_loss
from sansref.data.simulate import Sampling
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.machine import keep_freed_memory
from sansref.methods.base import Draw, Sample
from sansref.methods.examples import KspaceExample
from sansref.methods.ssdu import SSDU, SSDUOptions
from sansref.networks import convolution
from sansref.networks.istanet import to_channels
from sansref.networks.reconstructor import NetworkOptions, Reconstructor
from sansref.scan import Scan, ScanMeta

GAMMA = 0.01
PHASES, CHANNELS = 9, 32
HEADER = [
    "contender",
    "ms per scan",
    "times sansref",
    "GFLOP per scan",
    "GFLOP/s",
    "of the peak",
    "page faults",
    "peak MB",
]
# Label: network, whether freed memory is kept, precision.
CONTENDERS = {
    "sansref": ("ours", True, "32"),
    "sansref, bf16": ("ours", True, "bf16"),
    "sansref, no symmetry term": ("ours-plain-loss", True, "32"),
    "sansref, oneDNN's gradients of kernels": ("onednn", True, "32"),
    "sansref, freed memory returned": ("ours", False, "32"),
    "plain PyTorch": ("plain", False, "32"),
    "plain PyTorch, freed memory kept": ("plain", True, "32"),
    "deepinv unfolded PGD": ("deepinv", False, "32"),
    "deepinv unfolded PGD, freed memory kept": ("deepinv", True, "32"),
    "fastMRI U-Net": ("unet", False, "32"),
    "fastMRI U-Net, freed memory kept": ("unet", True, "32"),
}
Losing = tuple[nn.Module, Callable[[], Tensor]]


def scans(size: int, batch: int) -> tuple[Tensor, list[Scan]]:
    """Smooth complex images (batch, size, size) and their undersampled scans."""
    generator = torch.Generator().manual_seed(0)
    mask = Sampling().draw((size, size), generator).array
    axis = torch.arange(size) - size // 2
    noise = torch.randn(batch, size, size, dtype=torch.complex64, generator=generator)
    images = ifft2c(fft2c(noise) / (1 + torch.hypot(*(a.float() for a in torch.meshgrid(axis, axis, indexing="ij")))))
    images = images / images.abs().max()
    meta = ScanMeta("benchmark", "benchmark")
    return images, [Scan(fft2c(image)[None] * mask, mask, meta) for image in images]


def with_ssdu(size: int, batch: int, gamma: float, plain: bool) -> Losing:
    """SSDU's loss with sansref's network, or with the plain one of the same weights."""
    _, given = scans(size, batch)
    # Random weights: the identity's last convolutions are zero, and would hide a difference between the networks.
    options = NetworkOptions(phases=PHASES, channels=CHANNELS, init="xavier", symmetry=gamma)
    method = SSDU(Reconstructor(options), SSDUOptions(), Sampling().family(emulated=True))
    step = 0

    def examples() -> KspaceExample:
        nonlocal step
        step += 1
        return KspaceExample.stacked(
            [method.examples(Sample(scan), Draw(0, step, item))[0] for item, scan in enumerate(given)]
        )

    if not plain:
        return method, lambda: next(method.step(examples())).loss
    network = PlainISTANet(PHASES, CHANNELS)
    network.load_state_dict(method.network.network.state_dict())
    return network, lambda: plain_loss(network, examples(), gamma)


def with_deepinv(size: int, batch: int) -> Losing:
    """Measurement splitting, deepinv's name of SSDU, with the same share of samples for the loss."""
    images, given = scans(size, batch)
    physics = _peers.physics(given[0].mask)
    splitting = _peers.load("deepinv").loss.SplittingLoss(split_ratio=1 - SSDUOptions().ratio, eval_split_input=False)
    model = splitting.adapt_model(_peers.unfolded_pgd(PHASES, CHANNELS)).train()
    measured = physics(to_channels(images, 2).contiguous())

    # It says that it draws its masks itself, which is what is wanted.
    warnings.filterwarnings("ignore", "Mask generator not defined")

    def loss() -> Tensor:
        image = model(measured, physics, update_parameters=True)
        return splitting(image, measured, physics, model).mean()

    return model, loss


def with_unet(size: int, batch: int) -> Losing:
    """Supervised, as fastMRI trains it: zero-filled image in, l1 error."""
    images, given = scans(size, batch)
    zero_filled = torch.cat([to_channels(ifft2c(scan.kspace), 2) for scan in given]).contiguous()
    target = to_channels(images, 2).contiguous()
    network = _peers.unet(CHANNELS)
    return network, lambda: F.l1_loss(network(zero_filled), target)


def build(network: str, size: int, batch: int) -> Losing:
    torch.manual_seed(0)
    if network == "deepinv":
        return with_deepinv(size, batch)
    if network == "unet":
        return with_unet(size, batch)
    if network == "onednn":
        convolution._products_are_faster = lambda features: False
    return with_ssdu(size, batch, 0.0 if network == "ours-plain-loss" else GAMMA, network == "plain")


def play(label: str, size: int, batch: int, steps: int, threads: int) -> dict[str, float]:
    """A child's work: one step to warm up, whose convolutions are counted, and the steps that are timed."""
    network, keep, precision = CONTENDERS[label]
    if keep:
        keep_freed_memory()
    module, loss_of = build(network, size, batch)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    losses = []

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            loss = loss_of()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    gflop = 3 * _measure.convolution_gflop(module, step)
    faults = _measure.page_faults()
    times = [_measure.seconds(step, threads) for _ in range(steps)]
    return {
        "seconds": sum(times) / steps,
        "gflop": gflop,
        "faults": (_measure.page_faults() - faults) / steps,
        "peak": _measure.peak_megabytes(),
        "loss": losses[0],
    }


def peak(size: int, batch: int) -> dict[str, float]:
    keep_freed_memory()
    forward, both = _measure.convolution_peak(size, batch)
    return {"forward": forward, "both": both}


def compare(labels: list[str], batch: int, options: argparse.Namespace) -> None:
    common = ["--size", options.size, "--threads", options.threads, "--steps", options.steps, "--batch", batch]
    found: dict[str, list[dict[str, float]]] = {label: [] for label in ["peak", *labels]}
    for _ in range(options.rounds):
        for label, values in found.items():
            values.append(_measure.child(__file__, ["--child", label, *common]))
    best = {name: max(one[name] for one in found["peak"]) for name in ("forward", "both")}
    middle = {label: _measure.medians(found[label]) for label in labels}
    rows = []
    for label, one in middle.items():
        rate = one["gflop"] / one["seconds"]
        rows.append(
            [
                label,
                f"{1000 * one['seconds'] / batch:.0f}",
                f"{one['seconds'] / middle['sansref']['seconds']:.2f}",
                f"{one['gflop'] / batch:.0f}",
                f"{rate:.1f}",
                f"{rate / best['both']:.0%}",
                f"{one['faults']:.0f}",
                f"{one['peak']:.0f}",
            ]
        )
    print(f"\nBatch {batch}, {options.size} x {options.size}, {options.threads} thread(s), {options.rounds} rounds.")
    print(f"Convolution peak: {best['forward']:.1f} GFLOP/s forward, {best['both']:.1f} forward and backward.\n")
    print(_measure.table(HEADER, rows))
    for label in ("plain PyTorch", "sansref, bf16"):
        if label in middle:
            difference = abs(middle[label]["loss"] / middle["sansref"]["loss"] - 1)
            print(f"\nRelative difference of the first loss, {label}: {difference:.1e}", flush=True)
            if label == "plain PyTorch" and difference > 1e-5:
                sys.exit("stopped: plain PyTorch does not compute the same loss, so that its time means nothing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of each contender in a round")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["32", "bf16"], default="32", help="bf16: show sansref in it as well")
    parser.add_argument("--only", nargs="+", choices=[*CONTENDERS], help="these contenders beside sansref")
    parser.add_argument("--child", choices=["peak", *CONTENDERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        size, batch = options.size, options.batch[0]
        found = (
            peak(size, batch)
            if options.child == "peak"
            else play(options.child, size, batch, options.steps, options.threads)
        )
        print(json.dumps(found))
        return
    chosen = options.only or [label for label, entry in CONTENDERS.items() if entry[2] in ("32", options.precision)]
    for network, module in {"deepinv": "deepinv", "unet": "fastmri.models.unet"}.items():
        if any(CONTENDERS[label][0] == network for label in chosen):
            _peers.load(module)  # or an error now
    for batch in options.batch:
        compare(["sansref", *(label for label in chosen if label != "sansref")], batch, options)


if __name__ == "__main__":
    main()
