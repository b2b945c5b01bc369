"""IDR as its paper prints it (Liu et al., arXiv 2211.13440), in the two readings that the text allows.

Lambda is the selecting mask, Omega the mask of the scan, Omega~ a mask of the pool, y the acquired k-space and
f_j the network of stage j. The first stage minimises L(y_Omega, E f_0(y_{Lambda x Omega})) over all acquired samples.
Later stages read Lambda x Omega~ of the refined k-space f_{j-1}(y), in which the acquired samples are kept:

- reading A (figure 1 and the abstract): the loss compares with the refined k-space at every location;
- reading B (the formula): it compares with the acquired samples alone, and refined data are in the input only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from sansref.errors import SettingError
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.kspace.partitions import select_variable_density
from sansref.methods.base import Draw, Needs, Sample
from sansref.methods.examples import KspaceExample
from sansref.methods.idr import CENTER
from sansref.methods.unrolled import UnrolledMethod, UnrolledOptions
from sansref.metrics.held_out import reachable
from sansref.networks.reconstructor import Network


@dataclass(frozen=True)
class IDRPaperOptions(UnrolledOptions):
    """IDR as printed.

    Attributes
    ----------
    stages
        Number of stages.
    selection
        Share of the samples that the selecting mask Lambda keeps as input; the paper says roughly half.
    pool
        Number of undersampling masks Omega~: the scan's own and pool - 1 others of its kind.
    reading
        What later stages are compared with: A, the refined k-space everywhere; B, the acquired samples.
    """

    stages: int = 15
    selection: float = 0.5
    pool: int = 4
    reading: Literal["A", "B"] = "A"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages < 1 or self.pool < 1:
            raise SettingError(f"stages and pool must be at least 1, got {self.stages} and {self.pool}")
        if not 0 < self.selection < 1:
            raise SettingError(f"selection must lie between 0 and 1, got {self.selection:g}")


class IDRPaper(UnrolledMethod[IDRPaperOptions]):
    """Mean squared error of the network's k-space; nothing is put into its images."""

    needs: ClassVar[Needs] = Needs.UNDERSAMPLED
    options_type: ClassVar[type[Any]] = IDRPaperOptions
    defaults: ClassVar[Mapping[str, Any]] = {"network.symmetry": 0.01}

    def __init__(self, network: Network, options: IDRPaperOptions, family: MaskFamily) -> None:
        super().__init__(network, "mse", views=options.views)
        self.options = options
        self.family = family
        self.stages = options.stages

    def examples(self, sample: Sample, draw: Draw) -> list[KspaceExample]:
        """Lambda x Omega of the scan, later Lambda x Omega~ of its refined k-space."""
        scan, refined, _ = sample
        generator = draw.fresh()
        if refined is None:
            given = self._selected(scan.measurement, generator)
            return [KspaceExample(given, scan.kspace, scan.mask.float())]
        number = int(torch.randint(self.options.pool, (), generator=generator))
        omega = scan.mask if number == 0 else reachable(scan, self.family.another(scan.mask, number - 1))
        given = self._selected(replace(scan.measurement, kspace=refined, mask=omega), generator)
        if self.options.reading == "B":
            return [KspaceExample(given, scan.kspace, scan.mask.float())]
        return [KspaceExample(given, refined, torch.ones(scan.mask.shape))]

    def _selected(self, given: Measurement, generator: torch.Generator) -> Measurement:
        """What Lambda keeps of the samples under their mask: most low frequencies, some high ones."""
        share = self.options.selection
        return given.restricted(select_variable_density(given.mask, generator, fraction=share, center=CENTER).input)
