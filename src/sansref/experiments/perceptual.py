"""Whether and with which weights the perceptual distance is taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sansref.errors import SettingError
from sansref.metrics.lpips import LPIPS
from sansref.metrics.lpips_features import BackboneName, MissingWeightsError


@dataclass(frozen=True)
class PerceptualOptions:
    """LPIPS beside the other scores.

    Attributes
    ----------
    lpips
        Backbone of LPIPS, a perceptual distance learned on photographs; its weights are not part of sansref.
    lpips_weights
        File of the backbone's weights, .pth as PyTorch publishes them or .safetensors; null looks where PyTorch keeps
        downloads.
    lpips_download
        Download weights that are not there.
    """

    lpips: Literal["none", "alex", "vgg"] = "none"
    lpips_weights: Path | None = None
    lpips_download: bool = False

    def __post_init__(self) -> None:
        if self.lpips == "none" and (self.lpips_weights is not None or self.lpips_download):
            raise SettingError(
                "weights are given or to be downloaded for LPIPS, which is none: add --lpips alex or vgg"
            )

    @property
    def backbone(self) -> BackboneName | None:
        """Of LPIPS, or None."""
        return None if self.lpips == "none" else self.lpips

    def load(self) -> tuple[LPIPS | None, str]:
        """LPIPS, or None and why it is missing: scores that need no weights must not wait for them.

        Raises
        ------
        FileError
            If the given weights cannot be read.
        SettingError
            If they cannot be downloaded.
        """
        if self.backbone is None:
            return None, ""
        try:
            return LPIPS.load(self.backbone, self.lpips_weights, self.lpips_download), ""
        except MissingWeightsError as error:
            return None, str(error)
