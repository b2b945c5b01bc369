"""Options of the commands that score, apart from the work, so that a wrong word is told before PyTorch is loaded.

The parser imports what stands under ``TYPE_CHECKING``, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sansref.errors import SettingError


@dataclass(frozen=True)
class PerceptualOptions:
    """LPIPS beside the other scores.

    Attributes
    ----------
    lpips
        Backbone of LPIPS, a perceptual distance learned on photographs; its weights are not part of sansref.
    lpips_weights
        File with the backbone's weights (.pth as published by PyTorch, or .safetensors); null looks where PyTorch keeps
        downloads.
    lpips_download
        Download the weights if they are missing.
    """

    lpips: Literal["none", "alex", "vgg"] = "none"
    lpips_weights: Path | None = None
    lpips_download: bool = False

    def __post_init__(self) -> None:
        if self.lpips == "none" and (self.lpips_weights is not None or self.lpips_download):
            raise SettingError(
                "weights for LPIPS are given or asked for, but --lpips is none: add --lpips alex or --lpips vgg"
            )

    @property
    def backbone(self) -> Literal["alex", "vgg"] | None:
        """Of LPIPS, or None."""
        return None if self.lpips == "none" else self.lpips


@dataclass(frozen=True)
class ScoreOptions(PerceptualOptions):
    """How reconstructions are compared with their reference.

    Attributes
    ----------
    normalise
        minmax scales every image by the minimum and maximum of the zero-filled image, and the reference by its own;
        auto does so only for methods that give relative grey values.
    maps
        Coil maps of the scans: a file, or a folder of files named like the scans. null uses the maps in the scan's own
        file, if there are any; none always estimates. The maps of the run's training data are never used.
    classical
        Compressed sensing that stands beside the run, its regularisation chosen by the error on held-out samples.
    error_map
        Show where the run's images may be wrong, estimated without the references: an error bound and contradictions
        over the images of the page, and the estimated PSNR beside the true one. It takes 20 reconstructions per slice.
    bound
        Fraction of the pixels whose error should lie below the bound.
    """

    normalise: Literal["auto", "none", "minmax"] = "auto"
    maps: str | None = None
    classical: tuple[Literal["l1_wavelet", "total_variation"], ...] = ()
    error_map: bool = False
    bound: float = 0.9


@dataclass(frozen=True)
class DemoOptions:
    """Settings of the demo.

    Attributes
    ----------
    seed
        Seed of phase, noise, mask, partitions and weights.
    matrix
        Rows and columns of the slice; fewer than 256 lower its resolution.
    acceleration
        Number of grid points divided by the number of acquired samples.
    snr
        Signal-to-noise ratio of the simulated scan: mean signal of the head over the standard deviation of the noise.
    stages
        Number of stages of IDR. SSDU is trained for the same total number of steps.
    epochs
        Epochs per stage.
    repeats
        Steps per epoch, each with a new partition of the scan.
    phases
        Unrolled iterations of the ISTA-Net+.
    channels
        Number of features in its convolutions.
    learning_rate
        Learning rate of Adam at the start of training.
    threads
        Number of CPU threads; 0 lets PyTorch choose.
    """

    seed: int = 0
    matrix: int = 256
    acceleration: float = 4.0
    snr: float = 50.0
    stages: int = 6
    epochs: int = 5
    repeats: int = 8
    phases: int = 5
    channels: int = 16
    learning_rate: float = 2e-3
    threads: int = 0
