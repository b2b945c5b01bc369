"""IDR with every choice that its paper leaves open, for the studies that chose between them.

``sansref.methods.idr`` is what won, ``sansref.methods.idr_paper`` what is printed. Plans name this method by its import
path, ``benchmarks.study.idr_readings:IDRReadings``, from the folder of the repository.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.grid import fraction_sides
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement, mean_over_views
from sansref.kspace.noise import estimate_noise, white_noise
from sansref.kspace.partitions import Partition, k_weights, select_variable_density, split_uniform
from sansref.methods.base import Draw, Needs, Sample
from sansref.methods.examples import KspaceExample
from sansref.methods.idr import another_mask
from sansref.methods.unrolled import Consistency, LossName, UnrolledMethod
from sansref.metrics.held_out import reachable
from sansref.networks.reconstructor import Network
from sansref.scan import Scan


@dataclass(frozen=True)
class IDRReadingsOptions:
    """Iterative data refinement: the paper's open choices, with the defaults of ``sansref.methods.idr``.

    Attributes
    ----------
    stages
        Stages in all, the first on acquired samples alone; the paper has 15.
    selection
        Share of the samples that the selecting mask (Lambda in the paper) keeps as input; with the uniform law, of
        those outside the center that it always keeps.
    selection_law
        Which samples it keeps: mostly low frequencies (variable_density, the paper), or all alike (uniform, SSDU).
    selection_center
        Side of the center that it always keeps, as a fraction of the matrix.
    first_loss
        Loss of the first stage on all acquired samples (the paper), or on the disjoint rest as in SSDU.
    target
        Later stages learn from refined k-space, or from measured samples with refined data in the input only
        (two consistent readings of the paper).
    support
        Where the loss of later stages acts: the full grid or the acquired locations.
    refined_weight
        Weight of a refined sample in the loss of later stages, next to 1 for an acquired one.
    pool
        Undersampling masks (Omega~) of later stages: the scan's own and pool - 1 others of its kind.
    later_selection
        Apply a selecting mask to the input of later stages as well (the paper). Without it the input is
        sampled as at test time, by the others of the pool alone: under its own mask, what is acquired would be
        both input and target.
    input_noise
        Noise that is added to the refined samples of the input of later stages, drawn anew for each step, as a multiple
        of the scan's own (:func:`~sansref.kspace.noise.estimate_noise`). Refined samples are nearly free of noise; with
        1 the input is as noisy as the scans that are reconstructed later.
    k_weighting
        Let every location that the network does not see count alike in expectation: an acquired sample outside the
        input gets the weight 1 / P(acquired, given that it is not in the input) (Millard and Chiew, IEEE TCI 2023).
    replay
        Share of the examples of later stages that are those of the first stage, from acquired samples alone.
    keep_acquired
        Put the acquired samples back into the refined data.
    data_consistency
        hard puts the samples that are given into every reconstruction, as SSDU does, and the loss acts on all others
        only.
    ensemble
        Refine with the mean over mirrored and conjugate scans, instead of the scans as they are alone.
    start
        Start a stage from the best network so far (warm) or from new weights (fresh).
    loss
        mse (the paper), or mixed: SSDU's normalised l1 plus l2.
    """

    stages: int = 8
    selection: float = 0.6
    selection_law: Literal["variable_density", "uniform"] = "uniform"
    selection_center: float = 16 / 256
    first_loss: Literal["all", "disjoint"] = "disjoint"
    target: Literal["refined", "measured"] = "refined"
    support: Literal["full", "acquired"] = "full"
    refined_weight: float = 0.03
    pool: int = 256
    later_selection: bool = False
    input_noise: float = 1.0
    k_weighting: bool = True
    replay: float = 0.0
    keep_acquired: bool = True
    data_consistency: Consistency = "hard"
    ensemble: bool = False
    start: Literal["warm", "fresh"] = "warm"
    loss: LossName = "mixed"

    def __post_init__(self) -> None:
        if self.stages < 1 or self.pool < 1:
            raise SettingError(f"stages and pool must be at least 1, got {self.stages} and {self.pool}")
        if self.pool == 1 and not self.later_selection:
            raise SettingError(
                "a pool of 1 leaves later stages without a mask: use --pool 2 or more, or --later_selection"
            )
        if not 0 < self.selection < 1:
            raise SettingError(f"selection must lie between 0 and 1, got {self.selection:g}")
        if not 0 <= self.selection_center < 1:
            raise SettingError(f"selection_center must lie in [0, 1), got {self.selection_center:g}")
        if self.refined_weight <= 0:
            raise SettingError(f"refined_weight must be positive, got {self.refined_weight}; see --support acquired")
        if not self.input_noise >= 0:
            raise SettingError(f"input_noise must not be negative, got {self.input_noise}")
        if not 0 <= self.replay < 1:
            raise SettingError(f"replay must lie in [0, 1), got {self.replay}")
        if self.target == "measured" and self.support == "full":
            raise SettingError(
                "target 'measured' has no values outside the acquired samples: set support to 'acquired'"
            )


class IDRReadings(UnrolledMethod[IDRReadingsOptions]):
    """What a stage learns from; ``examples`` without refined data is the first stage."""

    needs: ClassVar[Needs] = Needs.UNDERSAMPLED
    options_type: ClassVar[type[Any]] = IDRReadingsOptions

    def __init__(self, network: Network, options: IDRReadingsOptions, family: MaskFamily) -> None:
        super().__init__(network, options.loss, options.data_consistency)
        self.options = options
        self.family = family
        self.stages = options.stages
        self.warm_start = options.start == "warm"

    def refine(self, given: Measurement) -> Tensor:
        """The k-space of the reconstruction, with the acquired samples put back if asked for."""
        image = mean_over_views(self.reconstruct, given) if self.options.ensemble else self.reconstruct(given)
        predicted = given.grid.transform(image)
        return given.grid.impose(predicted, given.kspace) if self.options.keep_acquired else predicted

    def examples(self, sample: Sample, draw: Draw) -> list[KspaceExample]:
        """One example of the stage."""
        scan, refined, _ = sample
        generator = draw.fresh()
        if refined is None or (
            self.options.replay > 0 and float(torch.rand((), generator=generator)) < self.options.replay
        ):
            return [self._first(scan, generator)]
        return [self._later(scan, refined, generator)]

    def _first(self, scan: Scan, generator: torch.Generator) -> KspaceExample:
        partition = self._select(scan.mask, generator)
        if self.options.first_loss == "disjoint":
            partition = partition.disjoint()
        weight = torch.where(partition.target, self._weight(scan, partition.input, partition.selected), 0.0)
        given = scan.measurement.restricted(partition.input)
        return KspaceExample(given, scan.kspace, self.unless_consistent(weight, given.mask))

    def _later(self, scan: Scan, refined: Tensor, generator: torch.Generator) -> KspaceExample:
        mask, selected = self._later_input(scan, generator)
        noisy = self._as_noisy(refined, scan, generator)
        given = replace(scan.measurement, kspace=noisy, mask=torch.ones_like(mask)).restricted(mask)
        target = refined if self.options.target == "refined" else scan.kspace
        outside = self.options.refined_weight if self.options.support == "full" else 0.0
        weight = torch.where(scan.mask, self._weight(scan, mask, selected), outside)
        return KspaceExample(given, target, self.unless_consistent(weight, mask))

    def _as_noisy(self, refined: Tensor, scan: Scan, generator: torch.Generator) -> Tensor:
        """Refined k-space whose predicted samples have noise too."""
        if self.options.input_noise == 0:
            return refined
        level = self.options.input_noise * estimate_noise(scan.kspace, scan.mask).level
        noisy = refined + white_noise(refined, level, generator)
        return torch.where(scan.mask, refined, noisy) if self.options.keep_acquired else noisy

    def _later_input(self, scan: Scan, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the network is given, and the probability that an acquired sample is in it because it was acquired."""
        others = self.options.pool - 1
        independent = torch.zeros(scan.mask.shape)
        if not self.options.later_selection:
            return another_mask(self.family, scan, others, generator), independent
        number = int(torch.randint(others + 1, (), generator=generator))
        if number == 0:
            partition = self._select(scan.mask, generator)
            return partition.input, partition.selected
        another = reachable(scan, self.family.another(scan.mask, number - 1))
        return self._select(another, generator).input, independent

    def _weight(self, scan: Scan, seen: Tensor, selected: Tensor) -> Tensor:
        """Weight of an acquired sample's squared error."""
        if not self.options.k_weighting:
            return torch.ones(scan.mask.shape)
        density = self.family.density(scan.mask, scan.meta.calibration)
        return torch.where(seen, 1.0, k_weights(density, selected).square())

    def _select(self, mask: Tensor, generator: torch.Generator) -> Partition:
        share, center = self.options.selection, self.options.selection_center
        if self.options.selection_law == "variable_density":
            return select_variable_density(mask, generator, fraction=share, center=center)
        block = fraction_sides((mask.shape[0], mask.shape[1]), center)
        return replace(split_uniform(mask, 1 - share, generator, block=block), target=mask)
