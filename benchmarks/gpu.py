"""The paper's training step on a GPU: milliseconds per iteration, and what the card can do.

ISTA-Net+ with 9 phases x 32 channels, complex, with the symmetry term, batch 4 at 256 x 256: the step of 90,000 that
the paper's IDR training has. Variants: float32, TF32 convolutions (PyTorch's default on GPUs) and bfloat16 (autocast;
Fourier transforms stay float32), each as it is and through torch.compile; and one CUDA graph of the forward and
backward pass. Beside each: the loss against float32 on the CPU, the achieved FLOP/s of the convolutions against the
best convolution of the card, and the achieved bandwidth (bytes that the step must move at least: every feature map
written once and read once in each direction) against the card's copy bandwidth.

python benchmarks/gpu.py [--steps 50] [--device cuda] [--size 256] [--batch 4]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

import _measure
from sansref.kspace.fourier import fft2c
from sansref.kspace.measurement import Measurement
from sansref.methods.examples import KspaceExample
from sansref.methods.supervised import Supervised, SupervisedOptions
from sansref.networks.reconstructor import NetworkOptions, Reconstructor

PHASES, CHANNELS, GAMMA, ITERATIONS = 9, 32, 0.01, 90_000
# Of 32 channels in a phase and the direction forward: features, two activations of the transform, its sparse result,
# the shrunk one, and in both branches of the backward transform two maps more, the residual of the symmetry among them.
MAPS = 10
VARIANTS = {
    "float32": ("float32", False, False),
    "TF32": ("tf32", False, False),
    "TF32, compiled": ("tf32", True, False),
    "TF32, CUDA graph": ("tf32", False, True),
    "bfloat16": ("bf16", False, False),
    "bfloat16, compiled": ("bf16", True, False),
}


def method_of(device: torch.device, phases: int, channels: int) -> Supervised:
    torch.manual_seed(0)
    network = Reconstructor(NetworkOptions(phases=phases, channels=channels, init="xavier", symmetry=GAMMA))
    return Supervised(network, SupervisedOptions()).to(device)


def example_of(size: int, batch: int, device: torch.device) -> KspaceExample:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(batch, size, size, dtype=torch.complex64, generator=generator)
    mask = (torch.rand(size, size, generator=generator) < 0.25).expand(batch, size, size).clone()
    full = fft2c(image)[:, None]
    given = Measurement((full * mask[:, None]).to(device), mask.to(device))
    return KspaceExample(given, full.to(device), torch.ones(batch, size, size, device=device))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], object], steps: int, device: torch.device) -> float:
    """Seconds of one call, over several, after five that warm up."""
    for _ in range(5):
        call()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(steps):
        call()
    synchronise(device)
    return (time.perf_counter() - start) / steps


def step_of(method: Supervised, example: KspaceExample, precision: str, graph: bool) -> Callable[[], Tensor]:
    """Forward, backward and Adam; returns the loss before the step."""
    device = example.weight.device
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3, capturable=graph, fused=device.type == "cuda")

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=not graph)
        with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
            loss = next(method.step(example)).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    if not graph:
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        loss = step()

    def replay() -> Tensor:
        captured.replay()
        return loss

    return replay


def ceilings(device: torch.device, steps: int, batch: int, size: int) -> dict[str, float]:
    """What the card reaches in what the step is made of: TFLOP/s of a convolution by precision, TB/s of a copy."""
    found = {}
    for name, kind in (("float32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        torch.backends.cudnn.allow_tf32 = name == "tf32"
        convolution = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, device=device, dtype=kind)
        convolution = convolution.to(memory_format=torch.channels_last)
        image = torch.randn(batch, CHANNELS, size, size, device=device, dtype=kind)
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            seconds = timed(lambda layer=convolution, data=image: layer(data), steps, device)
        found[name] = 2 * 9 * CHANNELS**2 * batch * size**2 / seconds / 1e12
    source = torch.empty(2**26, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * source.nbytes / timed(lambda: target.copy_(source), steps, device) / 1e12
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--phases", type=int, default=PHASES)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here: --device cpu --steps 1 shows that the script runs, and no more")
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = True
    known = ceilings(device, options.steps, options.batch, options.size)
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, PyTorch {torch.__version__}")
    print(", ".join(f"{name} {value:.3g} T{'B' if name == 'copy' else 'FLOP'}/s" for name, value in known.items()))
    example = example_of(options.size, options.batch, torch.device("cpu"))
    truth = float(next(method_of(torch.device("cpu"), options.phases, CHANNELS).step(example)).loss.detach())
    example = example_of(options.size, options.batch, device)
    reference = method_of(torch.device("cpu"), options.phases, CHANNELS)
    forward = reference.network.eval()
    one = example_of(options.size, 1, torch.device("cpu"))
    counted = _measure.convolution_gflop(forward, lambda: forward.with_penalty(one.given))
    flop = 3 * options.batch * counted * 1e9
    moved = 2 * 2 * 3 * MAPS * options.phases * options.batch * CHANNELS * options.size**2
    rows = []
    for name, (precision, compiled, graph) in VARIANTS.items():
        if graph and device.type != "cuda":
            continue
        torch.backends.cudnn.allow_tf32 = precision != "float32"
        method = method_of(device, options.phases, CHANNELS)
        if compiled:
            method.network.compile()
        step = step_of(method, example, precision, graph)
        first = float(step())
        seconds = timed(step, options.steps, device)
        bytes_moved = moved * (1 if precision == "bf16" else 2) / 2
        rows.append(
            [
                name,
                f"{1000 * seconds:.2f}",
                f"{seconds * ITERATIONS / 60:.1f}",
                "-" if graph else f"{abs(first / truth - 1):.1e}",
                f"{flop / seconds / 1e12:.3g} ({flop / seconds / 1e12 / known[precision]:.0%})",
                f"{bytes_moved / seconds / 1e12:.3g} ({bytes_moved / seconds / 1e12 / known['copy']:.0%})",
            ]
        )
    header = ["variant", "ms", "min for 90,000", "loss against CPU", "TFLOP/s (of peak)", "TB/s at least (of copy)"]
    print(_measure.table(header, rows))


if __name__ == "__main__":
    main()
