"""IDR: self-supervised learning with iterative data refinement, after Liu et al. (arXiv 2211.13440).

The first stage learns to predict a part of the acquired samples from the rest, as SSDU does. Every later stage learns
from refined data: the training scans as the best network so far reconstructs them, with the acquired samples kept.
The loop over stages is in :mod:`sansref.training.stages`; here is what one step of a stage learns from. What the
paper prints is in :mod:`sansref.methods.idr_paper`; these choices reached the best reference-free score
(docs/appendix/2026-11-defaults.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from sansref.errors import FileError, SettingError
from sansref.kspace.grid import is_full
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.noise import estimate_noise, white_noise
from sansref.kspace.partitions import Partition, k_weights, never_held_out, shape_of, split_uniform
from sansref.methods.base import Draw, Needs, Sample
from sansref.methods.examples import KspaceExample
from sansref.methods.unrolled import Consistency, LossName, UnrolledMethod, UnrolledOptions, check_alpha
from sansref.metrics.held_out import reachable
from sansref.networks.reconstructor import Network
from sansref.scan import Scan

CENTER = 16 / 256
"""Side of the center that is always given, as a fraction of the matrix."""


@dataclass(frozen=True)
class IDROptions(UnrolledOptions):
    """Iterative data refinement.

    Attributes
    ----------
    stages
        Number of stages; the first learns from acquired samples alone. The paper uses 15.
    selection
        Share of the acquired samples outside the center that the network is given in the first stage.
    pool
        Number of undersampling masks of later stages: the scan's own and pool - 1 others of its kind. The input of a
        later stage is sampled with one of the others, as new scans will be. With the scan's own mask, the acquired
        samples would be both input and target.
    refined_weight
        Weight of a refined sample in the loss of later stages, next to 1 for an acquired one.
    input_noise
        Noise that is added to the refined samples of the input of later stages, drawn anew for each step, as a multiple
        of the scan's own, known or found in its samples. Refined samples are nearly free of noise; with 1 the input is
        as noisy as the scans that are reconstructed later.
    k_weighting
        Let every location that the network does not see count alike in expectation: an acquired sample outside the
        input gets the weight 1 / P(acquired, given that it is not in the input) (Millard and Chiew, IEEE TCI 2023).
    data_consistency
        hard puts the acquired samples into every reconstruction, and the loss acts on all others only; none leaves the
        reconstruction as the network returns it; soft weighs both against each other, which is what denoise makes of
        hard.
    loss
        mse (the paper), or mixed: SSDU's normalised l1 plus l2.
    denoise
        Learn to take out noise as well, by Recorrupted-to-Recorrupted (Pang et al., CVPR 2021). The acquired samples
        are then not imposed, nor put back into refined data, and the input of later stages has the noise of the first
        one's; full scans are learned from as they are (--acceleration 1).
    alpha
        With denoise, the noise that is added to the input over that of the scan; the target has 1 / alpha more.
    """

    stages: int = 8
    selection: float = 0.6
    pool: int = 256
    refined_weight: float = 0.03
    input_noise: float = 1.0
    k_weighting: bool = True
    data_consistency: Consistency = "hard"
    loss: LossName = "mixed"
    denoise: bool = False
    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages < 1:
            raise SettingError(f"stages must be at least 1, got {self.stages}")
        if self.pool < 2:
            raise SettingError(f"pool must be at least 2, the scan's own mask and another, got {self.pool}")
        if not 0 < self.selection < 1:
            raise SettingError(f"selection must lie between 0 and 1, got {self.selection:g}")
        if self.refined_weight <= 0:
            raise SettingError(f"refined_weight must be positive, got {self.refined_weight}")
        if not self.input_noise >= 0:
            raise SettingError(f"input_noise must not be negative, got {self.input_noise}")
        check_alpha(self.alpha)


class IDR(UnrolledMethod[IDROptions]):
    """One part of the samples predicts the rest; later, samples of another mask predict all that was acquired."""

    needs: ClassVar[Needs] = Needs.UNDERSAMPLED
    options_type: ClassVar[type[Any]] = IDROptions

    def __init__(self, network: Network, options: IDROptions, family: MaskFamily) -> None:
        alpha = options.alpha if options.denoise else None
        super().__init__(network, options.loss, options.data_consistency, alpha, options.views)
        self.options = options
        self.family = family
        self.stages = options.stages

    def examples(self, sample: Sample, draw: Draw) -> list[KspaceExample]:
        """One example of the stage."""
        scan, refined, _ = sample
        generator = draw.fresh()
        if self.alpha is not None:
            return [self._denoising(scan, refined, generator)]
        if self.stages > 1 and is_full(scan.mask):
            problem = "is fully sampled, so that no mask of later stages leaves out anything of it"
            raise FileError(scan.meta.source, problem, "Use an --acceleration above 1, or --denoise true")
        return [self._first(scan, generator) if refined is None else self._later(scan, refined, generator)]

    def _partition(self, scan: Scan, generator: torch.Generator) -> Partition:
        block = never_held_out(shape_of(scan.mask), CENTER)
        return split_uniform(scan.mask, 1 - self.options.selection, generator, block=block)

    def _first(self, scan: Scan, generator: torch.Generator) -> KspaceExample:
        partition = self._partition(scan, generator)
        weight = torch.where(partition.target, self._weight(scan, partition.input, partition.selected), 0.0)
        return KspaceExample(scan.measurement.restricted(partition.input), scan.kspace, weight)

    def _later(self, scan: Scan, refined: Tensor, generator: torch.Generator) -> KspaceExample:
        mask = another_mask(self.family, scan, self.options.pool - 1, generator)
        noisy = self._as_noisy(refined, scan, generator)
        given = replace(scan.measurement, kspace=noisy, mask=torch.ones_like(mask)).restricted(mask)
        independent = torch.zeros(mask.shape)  # nothing is given because it was acquired
        weight = torch.where(scan.mask, self._weight(scan, mask, independent), self.options.refined_weight)
        return KspaceExample(given, refined, self.unless_consistent(weight, mask))

    def _denoising(self, scan: Scan, refined: Tensor | None, generator: torch.Generator) -> KspaceExample:
        """The same of either stage, with samples that are noisy on purpose."""
        assert self.alpha is not None
        if is_full(scan.mask):
            return self.recorrupted_example(scan, scan.mask, torch.zeros(scan.mask.shape), generator)
        if refined is None:
            partition = self._partition(scan, generator)
            weight = self._weight(scan, partition.input, partition.selected)
            return self.recorrupted_example(scan, partition.input, weight, generator)
        mask = another_mask(self.family, scan, self.options.pool - 1, generator)
        measured = self.recorrupted_example(
            scan, scan.mask & mask, self._weight(scan, mask, torch.zeros(mask.shape)), generator
        )
        # Refined samples are nearly free of noise: they get as much as the others have then.
        predicted = refined + white_noise(refined, math.sqrt(1 + self.alpha**2) * scan.noise_level, generator)
        kspace = torch.where(scan.mask, measured.given.kspace, predicted)
        given = replace(scan.measurement, kspace=kspace, mask=torch.ones_like(mask)).restricted(mask)
        target = torch.where(scan.mask, measured.target, refined)
        return KspaceExample(given, target, torch.where(scan.mask, measured.weight, self.options.refined_weight))

    def _as_noisy(self, refined: Tensor, scan: Scan, generator: torch.Generator) -> Tensor:
        """Refined k-space whose predicted samples have noise too."""
        if self.options.input_noise == 0:
            return refined
        known = scan.measurement.noise
        own = estimate_noise(scan.kspace, scan.mask).middle if known is None else known
        level = self.options.input_noise * own
        return torch.where(scan.mask, refined, refined + white_noise(refined, level, generator))

    def _weight(self, scan: Scan, given: Tensor, selected: Tensor) -> Tensor:
        """Weight of an acquired sample's squared error."""
        if not self.options.k_weighting:
            return torch.ones(scan.mask.shape)
        density = self.family.density(scan.mask, scan.meta.calibration)
        return torch.where(given, 1.0, k_weights(density, selected).square())


def another_mask(family: MaskFamily, scan: Scan, others: int, generator: torch.Generator) -> Tensor:
    """Draw a mask of a scan's kind that leaves something of what was acquired to be predicted.

    Laws with few different masks, such as equispaced columns, draw the scan's own one again.

    Parameters
    ----------
    family
        Draws the masks.
    scan
        What the mask is for; where it is zero-padded, the mask has no sample either.
    others
        Number of masks to choose from.
    generator
        Chooses.

    Raises
    ------
    SettingError
        If none of them leaves anything out.
    """
    first = int(torch.randint(others, (), generator=generator))
    for step in range(others):
        mask = reachable(scan, family.another(scan.mask, (first + step) % others))
        if (scan.mask & ~mask).any():
            return mask
    raise SettingError(
        f"{scan.meta.source}: none of {others} masks of its kind leaves out anything that it has acquired: "
        "use a larger --pool, or ssdu, which needs no other masks"
    )
