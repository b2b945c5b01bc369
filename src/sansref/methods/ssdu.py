"""SSDU: self-supervised learning via data undersampling (Yaman et al., MRM 84:3172, 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.grid import is_full
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.partitions import Partition, k_weights, never_held_out, shape_of, split_gaussian, split_uniform
from sansref.methods.base import Draw, Needs, Sample
from sansref.methods.examples import KspaceExample
from sansref.methods.unrolled import Consistency, LossName, UnrolledMethod, UnrolledOptions, check_alpha
from sansref.networks.reconstructor import Network
from sansref.scan import Scan


@dataclass(frozen=True)
class SSDUOptions(UnrolledOptions):
    """SSDU and its variants.

    Attributes
    ----------
    split
        How the samples for the loss are drawn from the acquired ones.
    ratio
        Share of the acquired samples outside the central block that goes to the loss (rho in the paper).
    split_center
        Side of the central block that always stays in the input, as a fraction of the matrix. The authors keep
        4 samples; without its low frequencies a single-coil input differs too much from what is
        reconstructed later.
    partitions
        Partitions of each scan per step; more than one is multi-mask SSDU (Yaman et al., NMR Biomed 2022).
    redraw
        Draw new partitions every epoch; False draws them once for the whole training, as the authors do.
    unit
        Split single samples, or whole phase-encoding columns of a 1-D mask.
    loss
        mixed: SSDU's normalised l1 plus l2; or mse, as in the baseline of arXiv 2211.13440.
    k_weighting
        Weight the loss by 1 / (1 - K), which makes up for unequal sampling and split densities (Millard and
        Chiew, IEEE TCI 2023). With denoise it always is.
    data_consistency
        hard puts the acquired samples into the reconstruction, as the layer does that SSDU's original network ends in;
        none leaves it as the network returns it. The loss never compares the network with its own input, so that what
        it returns there is arbitrary. soft weighs both against each other, which is what denoise makes of hard.
    denoise
        Learn to take out noise as well, by Recorrupted-to-Recorrupted (Pang et al., CVPR 2021). The acquired samples
        are then not imposed; full scans are learned from as they are (--acceleration 1).
    alpha
        With denoise, the noise that is added to the input over that of the scan; the target has 1 / alpha more.
    """

    split: Literal["uniform", "gaussian"] = "uniform"
    ratio: float = 0.4
    split_center: float = 16 / 256
    partitions: int = 1
    redraw: bool = True
    unit: Literal["point", "column"] = "point"
    loss: LossName = "mixed"
    k_weighting: bool = False
    data_consistency: Consistency = "hard"
    denoise: bool = False
    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ratio < 1:
            raise SettingError(f"ratio must lie between 0 and 1, got {self.ratio:g}")
        if not 0 <= self.split_center < 1:
            raise SettingError(f"split_center must lie in [0, 1), got {self.split_center:g}")
        if self.partitions < 1:
            raise SettingError(f"partitions must be at least 1, got {self.partitions}")
        check_alpha(self.alpha)


class SSDU(UnrolledMethod[SSDUOptions]):
    """One part of the acquired samples is the input, the disjoint rest is the loss."""

    needs: ClassVar[Needs] = Needs.UNDERSAMPLED
    options_type: ClassVar[type[Any]] = SSDUOptions

    def __init__(self, network: Network, options: SSDUOptions, family: MaskFamily) -> None:
        alpha = options.alpha if options.denoise else None
        super().__init__(network, options.loss, options.data_consistency, alpha, options.views)
        self.options = options
        self.family = family

    def examples(self, sample: Sample, draw: Draw) -> list[KspaceExample]:
        """One example per partition."""
        scan, options = sample.scan, self.options
        generator = draw.fresh() if options.redraw else draw.once()
        if options.denoise and is_full(scan.mask):
            noise, nothing = draw.fresh(), torch.zeros(scan.mask.shape)
            return [self.recorrupted_example(scan, scan.mask, nothing, noise) for _ in range(options.partitions)]
        split = split_gaussian if options.split == "gaussian" else split_uniform
        block = never_held_out(shape_of(scan.mask), options.split_center) if options.split_center > 0 else (0, 0)
        partitions = [
            split(scan.mask, options.ratio, generator, block=block, unit=options.unit)
            for _ in range(options.partitions)
        ]
        if options.denoise:
            noise = draw.fresh()  # also where partitions stay
            weights = [torch.where(part.target, self._k_weights(scan, part), 0.0) for part in partitions]
            return [
                self.recorrupted_example(scan, part.input, weight, noise)
                for part, weight in zip(partitions, weights, strict=True)
            ]
        return [self._example(scan, partition) for partition in partitions]

    def _example(self, scan: Scan, partition: Partition) -> KspaceExample:
        weight = partition.target.float()
        if self.options.k_weighting:
            weight = weight * self._k_weights(scan, partition)
        return KspaceExample(scan.measurement.restricted(partition.input), scan.kspace, weight)

    def _k_weights(self, scan: Scan, partition: Partition) -> Tensor:
        # The weights are those of residuals; here errors are weighted after squaring.
        return k_weights(self.family.density(scan.mask, scan.meta.calibration), partition.selected).square()
