"""What the benchmarks share: interleaved timing, work of convolutions, memory, children of their own, and a table."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any


def seconds(call: Callable[[], object], threads: int = 1) -> float:
    """Processor time of one call, here and in the children that it waits for, so that other programs count less.

    On more than one thread it is the time on the wall, which is what more threads are to save.
    """
    clock = cpu_clock if threads == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def cpu_clock() -> float:
    """Processor time that this process and its finished children have taken."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call: every round plays all of them once, so that a slow minute slows all alike.

    In an order of its own, because what is in the cache depends on who was before.
    """
    order, shuffler = list(calls.items()), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name in calls:
        calls[name]()
    for _ in range(rounds):
        shuffler.shuffle(order)
        for name, call in order:
            times[name].append(seconds(call))
    return {name: median(values) for name, values in times.items()}


def convolution_peak(size: int, batch: int, tries: int = 15) -> tuple[float, float]:
    """The best GFLOP/s of one 3x3 convolution 32 -> 32 as sansref has it, channels last: forward, and with backward."""
    import torch

    from sansref.networks.convolution import conv3x3

    convolution = conv3x3(32, 32, bias=True).to(memory_format=torch.channels_last)
    image = torch.randn(batch, 32, size, size).to(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn_like(image)
    gflop = 2 * 9 * 32 * 32 * batch * size * size / 1e9

    def forward() -> None:
        with torch.no_grad():
            convolution(image)

    forward_time = min(seconds(forward) for _ in range(tries))
    both_time = min(seconds(lambda: convolution(image).backward(gradient)) for _ in range(tries))
    return gflop / forward_time, 3 * gflop / both_time


def convolution_gflop(module: Any, call: Callable[[], object]) -> float:
    """GFLOP of the convolutions that a call runs forward, counted by hooks: two for each product and sum."""
    from torch import nn

    total = 0

    def count(layer: Any, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        # A transposed convolution uses its kernel once for every pixel of its input.
        pixels = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        total += 2 * layer.weight.numel() * pixels.numel() // pixels.shape[1]

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    # A layer that several names share is counted at each call, not at each name.
    handles = [layer.register_forward_hook(count) for layer in set(layers)]
    call()
    for handle in handles:
        handle.remove()
    return total / 1e9


def page_faults() -> int:
    """Pages that the system has provided to this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def peak_megabytes() -> float:
    """Largest resident memory of this process; getrusage would also count the one that it was forked from."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def child(script: str, words: Iterable[object]) -> dict[str, Any]:
    """Run a script in a process of its own, without settings of malloc, and read the JSON of its last line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    environment["OMP_WAIT_POLICY"] = "passive"
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"stopped: {' '.join(command)} failed, see above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def untrained_run(path: Path, network: Any) -> Any:
    """A finished run directory whose weights have learned nothing; ``network`` are its options."""
    from safetensors.torch import save_file

    from sansref.methods.ssdu import SSDUOptions
    from sansref.training.config import RunConfig
    from sansref.training.run import RunDirectory

    config, run = RunConfig("ssdu", SSDUOptions(), network), RunDirectory(path)
    run.start(config, "none")
    save_file(config.build().state_dict(), run.weights)
    run.card.write_text("{}")
    return run


def medians(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Name by name, the median over rounds."""
    return {name: median(one[name] for one in found) for name in found[0]}


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown, the first column to the left and the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
