"""Supervised learning: the upper bound that needs full references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from sansref.errors import FileError
from sansref.methods.base import Draw, Needs, Sample
from sansref.methods.examples import KspaceExample
from sansref.methods.unrolled import Consistency, LossName, UnrolledMethod, UnrolledOptions
from sansref.networks.reconstructor import Network


@dataclass(frozen=True)
class SupervisedOptions(UnrolledOptions):
    """Supervised training.

    Attributes
    ----------
    loss
        mse, or mixed: normalised l1 plus l2 of the k-space, as SSDU has it.
    data_consistency
        hard puts the acquired samples into the reconstruction, and the loss acts on all others only; none leaves the
        reconstruction as the network returns it; soft weighs both against each other.
    """

    loss: LossName = "mixed"
    data_consistency: Consistency = "none"


class Supervised(UnrolledMethod[SupervisedOptions]):
    """The error against the reference, all acquired samples as input.

    With one coil the squared error in k-space equals the error of the image (Parseval); with several, the reference
    is compared as the coils would have seen it.
    """

    needs: ClassVar[Needs] = Needs.PAIRED
    options_type: ClassVar[type[Any]] = SupervisedOptions

    def __init__(self, network: Network, options: SupervisedOptions) -> None:
        super().__init__(network, options.loss, options.data_consistency, views=options.views)
        self.options = options

    def examples(self, sample: Sample, draw: Draw) -> list[KspaceExample]:
        """One example: the acquired samples and the full k-space of the reference."""
        scan = sample.scan
        if scan.reference is None:
            raise ValueError(f"supervised training got {scan.meta.source} without its reference")
        target = scan.measurement.physics.transform(scan.reference.to(torch.complex64))
        weight = self.unless_consistent(torch.ones(scan.mask.shape), scan.mask)
        if not bool(weight.any()):
            problem = "is fully sampled, so that data_consistency hard leaves nothing to learn from it"
            raise FileError(scan.meta.source, problem, "Use --data_consistency none, or a higher --acceleration")
        return [KspaceExample(scan.measurement, target, weight)]
