"""Reconstructions without noise beside those that keep it, with the proof that structure stayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from sansref.commands.output_files import check_finite
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import noise_of
from sansref.metrics.sure import Sure, sure
from sansref.randomness import seeded
from sansref.scan import Scan

KEPT = "The acquired samples are kept as they were measured, with their noise."
"""What is said of the image beside the denoised one."""

TAKEN_OUT = (
    "Noise was taken out by what was learned from noisy scans alone (Recorrupted-to-Recorrupted): acquired samples are"
    " not kept as they were measured, and faint structure may be lost."
)
"""What is said of the denoised image."""

ENDING = "_denoised"
"""Of the name of a file's denoised images."""


@dataclass(frozen=True)
class Denoised:
    """One slice, with its noise and without.

    Attributes
    ----------
    hard
        The reconstruction with the acquired samples put back, complex (height, width): of a full scan, as measured.
    image
        The one without noise, complex (height, width); ``hard`` where ``left_alone``.
    left_alone
        Denoising takes more structure than noise: by SURE, its error is not below that of ``hard``.
    proof
        SURE of the denoised image, whether it was taken or not.
    measured
        The risk of ``hard`` by SURE: 1 for one coil. An image of several coils passes on less of their noise, since
        samples of one coil are told by the others too.
    """

    hard: Tensor
    image: Tensor
    left_alone: bool
    proof: Sure
    measured: float = 1.0

    def numbers(self) -> Denoised:
        """The same without images and maps, to be kept for all slices of a file."""
        empty = torch.empty(0)
        return replace(self, hard=empty, image=empty, proof=replace(self.proof, kept_map=empty, lost_map=empty))


@torch.inference_mode()
def denoised(reconstruct: Callable[[Measurement], Tensor], scan: Scan, device: torch.device | None = None) -> Denoised:
    """Reconstruct a scan without its noise and, where the samples say that this does harm, with it.

    Parameters
    ----------
    reconstruct
        From samples (batch of one) to a complex image (1, height, width) whose samples are not imposed.
    scan
        The scan; where no noise is known or can be found in it, it is left alone.
    device
        Where the method works, None is the CPU.
    """
    given = scan.batch().to(device or torch.device("cpu"))
    image = reconstruct(given)
    hard, sigma = given.data_consistent(image)[0], noise_of(given)
    check_finite(image, scan)
    if not bool((sigma > 0).any()):
        nothing = torch.zeros_like(hard.real)
        return Denoised(hard, hard, True, Sure(1.0, 1.0, 0.0, 0.0, nothing, nothing))

    def imposed(one: Measurement) -> Tensor:
        return one.data_consistent(reconstruct(one))

    proof = sure(reconstruct, given, sigma, seeded("proof"))
    measured = 1.0 if given.maps is None else sure(imposed, given, sigma, seeded("proof")).risk
    # NaN is no proof.
    left_alone = not proof.risk < measured
    return Denoised(hard, hard if left_alone else image[0], left_alone, proof, measured)


def told(found: Sequence[Denoised]) -> str:
    """What denoising did to the slices of a file, in one line."""
    kept, lost = (fmean(getattr(one.proof, name) / one.measured for one in found) for name in ("kept", "lost"))
    alone = sum(one.left_alone for one in found)
    left = f"; {alone} of {len(found)} slices left alone, where more would be lost than gained" if alone else ""
    return f"noise kept {kept:.2f}, structure lost {max(lost, 0.0):.2f}, of 1 as measured{left}"
