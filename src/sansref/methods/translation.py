"""Methods that translate images instead of samples: how scans become images in [-1, 1], and back."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.encoding import EncodingOperator
from sansref.methods.base import Draw, Method
from sansref.methods.batch import Measured, Translation, measured
from sansref.networks.generator import CODE_LENGTH
from sansref.networks.istanet import to_channels, to_complex
from sansref.networks.unpaired import TranslatorOptions
from sansref.randomness import seeded
from sansref.scan import Scan

PLANE = (-2, -1)


@dataclass(frozen=True)
class ImageOptions:
    """How images are scaled for the networks, and what is done with the result.

    Attributes
    ----------
    scaling
        zero_filled: one scale per scan, its brightest zero-filled pixel; grey values keep their meaning. image: every
        image by its own minimum and maximum, as in the papers, which leaves only relative grey values.
    headroom
        How much brighter than the zero-filled image a full one may be, with scaling zero_filled.
    data_consistency
        Put the acquired samples into the reconstruction at the end: exact for one coil, before a magnitude is taken;
        a step towards them for several.
    """

    scaling: Literal["zero_filled", "image"] = "zero_filled"
    headroom: float = 2.0
    data_consistency: bool = False

    def __post_init__(self) -> None:
        if not self.headroom >= 1:
            raise SettingError(f"headroom must be at least 1, got {self.headroom}")


class GreyRange(NamedTuple):
    """The grey values that become -1 and 1, each float32 (batch, 1, 1, 1)."""

    low: Tensor
    high: Tensor

    def to_unit(self, channels: Tensor) -> Tensor:
        """Map ``low`` to -1 and ``high`` to 1."""
        return 2 * (channels - self.low) / (self.high - self.low) - 1

    def from_unit(self, channels: Tensor) -> Tensor:
        """Inverse of :meth:`to_unit`."""
        return self.low + (channels + 1) / 2 * (self.high - self.low)


class ImageTranslation(Method):
    """The common part of unpaired methods and of their supervised twin.

    Parameters
    ----------
    network
        Sizes of the networks.
    options
        Scaling of images.
    """

    network_type: ClassVar[type[Any]] = TranslatorOptions
    idle_parameters: ClassVar[bool] = True  # each turn moves some; batch-instance normalisation's rho needs two images

    def __init__(self, network: TranslatorOptions, options: ImageOptions) -> None:
        super().__init__()
        self.channels = network.channels
        self.image_options = options
        self.relative = options.scaling == "image"

    @abstractmethod
    def restore(self, image: Tensor) -> Tensor:
        """Undersampled to full images, (batch, channels, height, width) in [-1, 1]."""

    def examples(
        self, scan: Scan, draw: Draw, refined: Tensor | None = None, full: Scan | None = None
    ) -> list[Translation]:
        """One example: the scan's zero-filled image beside the full image of another scan.

        Parameters
        ----------
        scan
            Undersampled.
        draw
            Random streams.
        refined
            Not used.
        full
            Fully sampled, of somebody else and of the same height and width.
        """
        if full is None:
            raise ValueError(f"{type(self).__name__} needs a full scan beside {scan.meta.source}")
        image = _coil_combined(measured(full))
        # As bright as it would be if it had been acquired like the other scan.
        as_undersampled = _coil_combined(Measured(full.kspace * scan.mask, scan.mask, full.maps))
        example = self.translation(scan, image, draw, as_undersampled)
        return [example._replace(full_coils=self._coils(full, as_undersampled))]

    def translation(self, scan: Scan, full: Tensor, draw: Draw, full_zero_filled: Tensor | None = None) -> Translation:
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
        zero_filled = _coil_combined(measured(scan))
        return Translation(
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

    def reconstruct(self, given: Measured) -> Tensor:
        """Reconstruct complex images (batch, height, width); magnitudes get the phase of the zero-filled image."""
        encoding = EncodingOperator(given.mask, given.maps)
        zero_filled = encoding.adjoint(given.kspace)
        grey = self.grey_range(zero_filled, zero_filled)
        channels = grey.to_unit(self._to_channels(zero_filled))
        restored = self.restore(channels.to(next(self.parameters()).dtype)).clamp(-1, 1)
        channels = grey.from_unit(restored.to(channels.dtype))
        image = to_complex(channels) if self.channels == 2 else torch.polar(channels[:, 0], zero_filled.angle())
        return encoding.impose_on(image, given.kspace) if self.image_options.data_consistency else image

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
        high = magnitude.amax(PLANE) * (1.0 if self.relative else self.image_options.headroom)
        low = magnitude.amin(PLANE) if self.relative and self.channels == 1 else torch.zeros_like(high)
        # A blank image has no range of its own.
        high = torch.where(high > low, high, low + 1)
        if self.channels == 2:
            low = -high
        return GreyRange(low[:, None, None, None], high[:, None, None, None])

    def to_unit(self, image: Tensor, zero_filled: Tensor) -> Tensor:
        """Complex images (batch, height, width) to channels in [-1, 1], see :meth:`grey_range`."""
        return self.grey_range(image, zero_filled).to_unit(self._to_channels(image))

    def _to_channels(self, image: Tensor) -> Tensor:
        return to_channels(image, 2) if self.channels == 2 else image.abs().unsqueeze(1)


def _coil_combined(given: Measured) -> Tensor:
    """Zero-filled image of one scan, complex64 (1, height, width)."""
    maps = None if given.maps is None else given.maps[None]
    return EncodingOperator(given.mask[None], maps).adjoint(given.kspace[None])
