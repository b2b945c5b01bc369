"""Coil maps by ESPIRiT of one slice of real k-space: sansref against sigpy and BART, interleaved, one thread.

All three with kernels of 6 x 6 in a center of 24 x 24. BART compares squared singular values with its threshold, and
starts a program of its own that reads and writes files. The angle is between the vectors of sensitivities at pixels
that both see.

OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/coil_maps.py SCAN:320x320 SCAN.npy:coil,row,column ...

A scan may be zero-padded to a size, which changes the work but not the samples of its center.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import _measure
from sansref.data.coil_maps import CoilOptions, espirit_maps
from sansref.data.readers.formats import open_scan_file
from sansref.data.readers.reader import ReaderOptions
from sansref.kspace.coils import rss
from sansref.kspace.grid import center_pad, central_mask
from sansref.scan import Scan

try:
    from sigpy.mri.app import EspiritCalib
except ImportError as error:
    sys.exit(f"a peer cannot be imported ({error}): pip install sigpy")

SIDE, KERNEL = 24, 6
OPTIONS = CoilOptions(kernel=KERNEL)


def scan_of(words: str) -> Scan:
    """The first slice of a file, of which only the center is taken for acquired."""
    path, *choices = words.split(":")
    sizes = [word for word in choices if re.fullmatch(r"\d+x\d+", word)]
    axes = next((word for word in choices if word not in sizes), None)
    scan = next(iter(open_scan_file(Path(path), ReaderOptions(axes=axes)).read(Path(path), [0])))
    assert isinstance(scan, Scan)
    kspace = scan.kspace
    if sizes:
        height, width = map(int, sizes[0].split("x"))
        kspace = center_pad(kspace, (height, width))
    mask = central_mask((kspace.shape[1], kspace.shape[2]), (SIDE, SIDE))
    return Scan(kspace * mask, mask, scan.meta)


def by_sigpy(scan: Scan) -> Tensor:
    """Of arrays in memory."""
    options = {"thresh": OPTIONS.threshold, "crop": OPTIONS.crop, "kernel_width": KERNEL, "calib_width": SIDE}
    with np.errstate(all="ignore"):
        return torch.from_numpy(EspiritCalib(scan.kspace.numpy(), **options, show_pbar=False).run()).nan_to_num()


def by_bart(scan: Scan, folder: Path) -> Tensor:
    """With its files in memory, where the folder is."""
    coils, height, width = scan.kspace.shape
    (folder / "k.hdr").write_text(f"# Dimensions\n{height} {width} 1 {coils}{' 1' * 12}\n")
    (folder / "k.cfl").write_bytes(scan.kspace.permute(1, 2, 0).numpy().tobytes(order="F"))
    limits = f"-t {OPTIONS.threshold**2} -c {OPTIONS.crop} -k {KERNEL} -r {SIDE}"
    subprocess.run(f"bart ecalib {limits} -m 1 k maps".split(), cwd=folder, check=True, capture_output=True)
    found = np.fromfile(folder / "maps.cfl", np.complex64).reshape((height, width, coils), order="F")
    return torch.from_numpy(found).permute(2, 0, 1)


def compared(maps: Tensor, others: Tensor) -> tuple[str, str]:
    """Mean sine of the angle between the vectors, and the share of pixels that only one of both sees."""
    sizes = rss(maps), rss(others)
    both = (sizes[0] > 0.5) & (sizes[1] > 0.5)
    cosine = ((maps.conj() * others).sum(0).abs() / (sizes[0] * sizes[1]).clamp(min=1e-9))[both].double()
    apart = ((sizes[0] > 0.5) != (sizes[1] > 0.5)).double().mean()
    return f"{(1 - cosine.clamp(max=1).square()).sqrt().mean():.1e}", f"{100 * apart:.2f} %"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for words in arguments.scans:
            scan = scan_of(words)
            calls: Mapping[str, Callable[[], Tensor]] = {
                "sansref": partial(espirit_maps, scan, OPTIONS),
                "sigpy": partial(by_sigpy, scan),
            }
            if shutil.which("bart"):
                calls = {**calls, "BART": partial(by_bart, scan, Path(folder))}
            times = _measure.interleaved(dict(calls), arguments.rounds)
            size = " x ".join(map(str, scan.kspace.shape))
            maps = calls["sansref"]()
            for name, call in calls.items():
                ratio = f"{times[name] / times['sansref']:.2f}"
                agreement = ("", "") if name == "sansref" else compared(maps, call())
                rows.append((f"{size}: {name}", f"{times[name]:.2f}", ratio, *agreement))
    print(_measure.table(["coils x height x width", "seconds", "times sansref", "angle", "seen by one only"], rows))


if __name__ == "__main__":
    main()
