"""Supervised learning: the upper bound that needs full references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sansref.kspace.encoding import EncodingOperator
from sansref.methods.base import Draw, Needs
from sansref.methods.batch import Example, Measured
from sansref.methods.unrolled import LossName, UnrolledMethod
from sansref.networks.build import Reconstructor
from sansref.scan import Scan


@dataclass(frozen=True)
class SupervisedOptions:
    """Supervised training.

    Attributes
    ----------
    loss
        mse, or mixed: normalised l1 plus l2 of the k-space, as SSDU has it.
    impose
        Put the acquired samples into the reconstruction, and let the loss act on all others only.
    gamma
        Weight of ISTA-Net's symmetry term; 0.01 in the papers, which makes a step about half again as long.
    """

    loss: LossName = "mixed"
    impose: bool = False
    gamma: float = 0.0


class Supervised(UnrolledMethod):
    """The error against the reference, all acquired samples as input.

    With one coil the squared error in k-space equals the error of the image (Parseval); with several, the reference
    is compared as the coils would have seen it.
    """

    needs: ClassVar[Needs] = Needs.PAIRED
    options_type: ClassVar[type[Any]] = SupervisedOptions

    def __init__(self, network: Reconstructor, options: SupervisedOptions) -> None:
        super().__init__(network, options.gamma, options.loss, options.impose)

    def examples(self, scan: Scan, draw: Draw, refined: Tensor | None = None) -> list[Example]:
        """One example: the acquired samples and the full k-space of the reference."""
        if scan.reference is None:
            raise ValueError(f"supervised training was handed {scan.meta.source} without its reference")
        target = EncodingOperator(scan.mask, scan.maps).transform(scan.reference.to(torch.complex64))
        weight = self.unless_imposed(torch.ones(scan.mask.shape), scan.mask)
        return [Example(Measured(scan.kspace, scan.mask, scan.maps), target, weight)]
