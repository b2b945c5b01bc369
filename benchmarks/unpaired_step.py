"""One training step of ISCL and of switchable ISCL at their published width, in bfloat16, by order of memory.

sansref lays features out with channels last where oneDNN computes so. "PyTorch's order" is the same step without that.
Interleaved rounds in one process, timed by the processor; losses and gradients, without the optimisers.

OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/unpaired_step.py [--size 192 216] [--rounds 5] [--float]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch

import _measure
from sansref.machine import keep_freed_memory
from sansref.methods.base import Method
from sansref.methods.examples import ImagePair
from sansref.methods.unpaired.iscl import ISCL, ISCLOptions, SwitchableISCL, SwitchableOptions
from sansref.networks import discriminator, generator
from sansref.networks.generator import CODE_LENGTH
from sansref.networks.translators import TranslatorOptions
from sansref.training.loop import computed


def step(method: Method[Any, ImagePair], pair: ImagePair, half: bool) -> None:
    """All turns of one batch, as the training loop asks for them."""
    for update in computed(method.step(pair), partial(torch.autocast, "cpu", torch.bfloat16, enabled=half)):
        method.zero_grad()
        update.loss.backward(inputs=update.turn.unfrozen)


def in_pytorchs_order(call: Callable[[], None]) -> None:
    """The call, with features left in the order in which images come."""
    with (
        mock.patch.object(generator, "arranged", lambda image: image),
        mock.patch.object(discriminator, "arranged", lambda image: image),
    ):
        call()


def main() -> None:
    """Print a row for each method and order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[192, 216], metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--float", action="store_true", help="in float32, where the order is PyTorch's in any case")
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    image = partial(torch.rand, 1, 1, *options.size)
    pair = ImagePair(image(), image(), torch.rand(1, *options.size) > 0.7, torch.randn(1, CODE_LENGTH))
    calls: dict[str, Callable[[], None]] = {}
    for name, method in (
        ("ISCL", ISCL(TranslatorOptions(), ISCLOptions())),
        ("switchable ISCL", SwitchableISCL(TranslatorOptions(), SwitchableOptions())),
    ):
        calls[name] = partial(step, method, pair, not options.float)
        calls[f"{name}, PyTorch's order"] = partial(in_pytorchs_order, calls[name])
    times = _measure.interleaved(calls, options.rounds)
    print("| step | ms | times PyTorch's order |\n| --- | ---: | ---: |")
    for name, seconds in times.items():
        other = times[f"{name.split(',')[0]}, PyTorch's order"]
        print(f"| {name} | {1000 * seconds:.0f} | {seconds / other:.2f} |")


if __name__ == "__main__":
    main()
