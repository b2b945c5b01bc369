"""Methods that translate images instead of samples: how scans become images in [-1, 1], and back."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.fourier import PLANE
from sansref.kspace.measurement import Measurement
from sansref.methods.base import Draw, Method, Sample
from sansref.methods.examples import ImagePair
from sansref.networks.generator import CODE_LENGTH
from sansref.networks.istanet import to_channels, to_complex
from sansref.networks.translators import TranslatorOptions
from sansref.randomness import seeded
from sansref.scan import Scan


@dataclass(frozen=True)
class ImageOptions:
    """How images are scaled for the networks, and what is done with the result.

    Attributes
    ----------
    scaling
        zero_filled: one scale per scan, its brightest zero-filled pixel; grey values keep their meaning. image: every
        image by its own minimum and maximum, as in the papers, which leaves only relative grey values.
    headroom
        With scaling zero_filled: how much brighter than the zero-filled image a full one may be. With 2, images fill
        half of what a generator can draw.
    data_consistency
        hard puts the acquired samples into the reconstruction at the end: exact for one coil, before a magnitude is
        taken; a step towards them for several. none leaves it as the networks return it.
    """

    scaling: Literal["zero_filled", "image"] = "zero_filled"
    headroom: float = 1.25
    data_consistency: Literal["none", "hard"] = "none"

    def __post_init__(self) -> None:
        if not self.headroom >= 1:
            raise SettingError(f"headroom must be at least 1, got {self.headroom}")


Options = TypeVar("Options", bound=ImageOptions)


class GreyRange(NamedTuple):
    """The grey values that become -1 and 1, each float32 (batch, 1, 1, 1)."""

    lower: Tensor
    higher: Tensor

    def to_unit(self, channels: Tensor) -> Tensor:
        """Map ``lower`` to -1 and ``higher`` to 1."""
        return 2 * (channels - self.lower) / (self.higher - self.lower) - 1

    def from_unit(self, channels: Tensor) -> Tensor:
        """Inverse of :meth:`to_unit`."""
        return self.lower + (channels + 1) / 2 * (self.higher - self.lower)


class ImageTranslation(Method[Options, ImagePair]):
    """The common part of unpaired methods and of their supervised twin.

    Parameters
    ----------
    network
        Sizes of the networks.
    options
        Scaling of images.
    """

    network_type: ClassVar[type[Any]] = TranslatorOptions
    independent = False  # the networks normalise by the statistics of their batch
    options: Options

    def __init__(self, network: TranslatorOptions, options: Options) -> None:
        super().__init__()
        self.channels = network.channels
        self.options = options
        self.relative = options.scaling == "image"

    @abstractmethod
    def restore(self, image: Tensor) -> Tensor:
        """Undersampled to full images, (batch, channels, height, width) in [-1, 1]."""

    def examples(self, sample: Sample, draw: Draw) -> list[ImagePair]:
        """One example: the scan's zero-filled image beside the full image of another scan."""
        scan, _, full = sample
        if full is None:
            raise ValueError(f"{type(self).__name__} needs a full scan beside {scan.meta.source}")
        # As bright as it would be if it had been acquired like the other scan.
        as_undersampled = _coil_combined(full.measurement.restricted(scan.mask))
        example = self.pair(scan, _coil_combined(full.measurement), draw, as_undersampled)
        return [example._replace(full_coils=self._coils(full, as_undersampled))]

    def pair(self, scan: Scan, full: Tensor, draw: Draw, full_zero_filled: Tensor | None = None) -> ImagePair:
        """The example of an undersampled scan and a full image.

        Parameters
        ----------
        scan
            Undersampled.
        full
            Complex64 (1, height, width).
        draw
            Random streams.
        full_zero_filled
            Undersampled version of ``full``; None if that is the scan itself.
        """
        zero_filled = _coil_combined(scan.measurement)
        return ImagePair(
            self.to_unit(zero_filled, zero_filled)[0],
            self.to_unit(full, zero_filled if full_zero_filled is None else full_zero_filled)[0],
            scan.mask,
            torch.randn(CODE_LENGTH, generator=self.code_stream(draw)),
            self._coils(scan, zero_filled),
        )

    def _coils(self, scan: Scan, zero_filled: Tensor) -> Tensor | None:
        """What the coils see of an image's channels; a magnitude has the phase that :meth:`reconstruct` gives it."""
        if scan.maps is None or self.channels == 2:
            return scan.maps
        return scan.maps * torch.polar(torch.ones(()), zero_filled.angle())

    def code_stream(self, draw: Draw) -> torch.Generator:
        """Random stream of the code's noise: that of the epoch, the same for all its examples."""
        return seeded(draw.seed, "code", draw.epoch)

    def reconstruct(self, given: Measurement) -> Tensor:
        """Reconstruct complex images (batch, height, width); magnitudes get the phase of the zero-filled image."""
        zero_filled = given.physics.adjoint(given.kspace)
        grey = self.grey_range(zero_filled, zero_filled)
        channels = grey.to_unit(self._to_channels(zero_filled))
        restored = self.restore(channels.to(next(self.parameters()).dtype)).clamp(-1, 1)
        channels = grey.from_unit(restored.to(channels.dtype))
        image = to_complex(channels) if self.channels == 2 else torch.polar(channels[:, 0], zero_filled.angle())
        return given.data_consistent(image) if self.options.data_consistency == "hard" else image

    def grey_range(self, image: Tensor, zero_filled: Tensor) -> GreyRange:
        """The grey values of complex images (batch, height, width) that become -1 and 1.

        Parameters
        ----------
        image
            To be scaled.
        zero_filled
            Undersampled version of the same.
        """
        magnitude = (image if self.relative else zero_filled).abs()
        higher = magnitude.amax(PLANE) * (1.0 if self.relative else self.options.headroom)
        lower = magnitude.amin(PLANE) if self.relative and self.channels == 1 else torch.zeros_like(higher)
        # A blank image has no range of its own.
        higher = torch.where(higher > lower, higher, lower + 1)
        if self.channels == 2:
            lower = -higher
        return GreyRange(lower[:, None, None, None], higher[:, None, None, None])

    def to_unit(self, image: Tensor, zero_filled: Tensor) -> Tensor:
        """Complex images (batch, height, width) to channels in [-1, 1], see :meth:`grey_range`."""
        return self.grey_range(image, zero_filled).to_unit(self._to_channels(image))

    def _to_channels(self, image: Tensor) -> Tensor:
        return to_channels(image, 2) if self.channels == 2 else image.abs().unsqueeze(1)


def _coil_combined(given: Measurement) -> Tensor:
    """Zero-filled image of one scan, complex64 (1, height, width)."""
    return given.physics.adjoint(given.kspace)[None]
