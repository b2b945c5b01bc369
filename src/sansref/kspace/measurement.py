"""What was acquired: samples, their places and the coils, without or with a batch axis, and mirrored views of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Self

import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import unstacked
from sansref.kspace.physics import Physics


@dataclass(frozen=True)
class View:
    """A mirror image of a scan, its complex conjugate, or both; its own inverse.

    Mirroring an image about its center mirrors its k-space about DC; conjugating it mirrors k-space about DC in both
    directions and conjugates it. No sample is interpolated, and noise stays what it was.

    Parameters
    ----------
    rows, columns
        Mirror up and down, left and right.
    conjugate
        Take the complex conjugate of the image.
    """

    rows: bool
    columns: bool
    conjugate: bool

    def image(self, image: Tensor) -> Tensor:
        """View an image (..., height, width), or coil images, or sensitivity maps."""
        return self._seen(image, self.rows, self.columns)

    def kspace(self, kspace: Tensor) -> Tensor:
        """View k-space (..., height, width)."""
        return self._seen(kspace, self.rows != self.conjugate, self.columns != self.conjugate)

    def mask(self, mask: Tensor) -> Tensor:
        """View a mask, or weights, of k-space (..., height, width)."""
        return mirrored(mask, self.rows != self.conjugate, self.columns != self.conjugate)

    def _seen(self, data: Tensor, rows: bool, columns: bool) -> Tensor:
        data = mirrored(data, rows, columns)
        return data.conj().resolve_conj() if self.conjugate else data


def mirrored(data: Tensor, rows: bool, columns: bool) -> Tensor:
    """Mirror the last two axes about their center, which is at index n // 2; the ends wrap around."""
    axes = [axis for axis, wanted in ((-2, rows), (-1, columns)) if wanted]
    if not axes:
        return data
    return torch.roll(data.flip(axes), [1 - data.shape[axis] % 2 for axis in axes], axes)


VIEWS = tuple(View(*choice) for choice in product((False, True), repeat=3))
"""All of them, the scan as it is first."""


@dataclass(frozen=True)
class Measurement:
    """The acquired samples of one scan, or of a batch of scans, and all that is known of how they were acquired.

    ``*samples`` are two axes: (height, width) on a grid, (spokes, readout) along radial lines. Another kind of
    acquisition is a subclass with a ``physics`` of its own.

    Attributes
    ----------
    kspace
        Samples, complex64 ``(batch, coils, *samples)``, zero where ``mask`` is False.
    mask
        Which samples were acquired, bool ``(batch, *samples)``.
    maps
        Coil sensitivity maps, complex64 (batch, coils, height, width); None for one coil.
    trajectory
        Places of the samples in k-space, float32 ``(batch, *samples, 2)``, in cycles per field of view; None for a
        Cartesian grid with DC in the center.
    noise
        Standard deviation of the noise in the real, and of the imaginary, part in each coil, float32
        (batch, coils, 1, 1); None where it has to be found in the samples, see :func:`sansref.kspace.noise.noise_of`.
    """

    kspace: Tensor
    mask: Tensor
    maps: Tensor | None = None
    trajectory: Tensor | None = None
    noise: Tensor | None = None

    @cached_property
    def physics(self) -> Physics:
        """The operators of the acquisition."""
        return self.grid

    @cached_property
    def grid(self) -> Cartesian:
        """The operators of a Cartesian acquisition, which know more than others.

        Raises
        ------
        SettingError
            If the samples lie on a trajectory.
        """
        if self.trajectory is not None:
            raise SettingError(
                "this needs samples on a Cartesian grid: use --data_consistency none and --views 1 with a trajectory"
            )
        return Cartesian(self.mask, self.maps)

    def restricted(self, mask: Tensor) -> Self:
        """Only the acquired samples under ``mask``, bool ``(batch, *samples)``."""
        kept = self.mask & mask
        # Not a product: that would leave the signs of the dropped samples in negative zeros.
        return replace(self, kspace=self.kspace.masked_fill(~kept.unsqueeze(-3), 0), mask=kept)

    def disturbed(self, noise: Tensor) -> Self:
        """The same with something added to the acquired samples, complex ``(batch, coils, *samples)``."""
        return replace(self, kspace=self.kspace + noise * self.mask.unsqueeze(-3))

    def data_consistent(self, image: Tensor) -> Tensor:
        """Put the acquired samples into images, complex (batch, height, width)."""
        return self.grid.data_consistent(image, self.kspace)

    def seen(self, view: View) -> Self:
        """The measurement of the same object, mirrored or conjugate."""
        maps = None if self.maps is None else view.image(unstacked(self.maps, self.mask.shape[-2])).flatten(-3, -2)
        return replace(self, kspace=view.kspace(self.kspace), mask=view.mask(self.mask), maps=maps)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return replace(self, **{name: value.to(device) for name, value in self._tensors().items()})

    @classmethod
    def stacked(cls, measurements: Sequence[Self]) -> Self:
        """Several measurements of one shape along a new batch axis.

        Where some do not know the level of their noise, none does: it can be found in the samples.

        Raises
        ------
        ValueError
            If some have maps or a trajectory, and others have none.
        """
        if any(one.noise is None for one in measurements):
            measurements = [replace(one, noise=None) for one in measurements]
        parts = [one._tensors() for one in measurements]
        if any(part.keys() != parts[0].keys() for part in parts):
            raise ValueError("either all or none of the scans of a batch must have coil sensitivity maps")
        return replace(measurements[0], **{name: torch.stack([part[name] for part in parts]) for name in parts[0]})

    def _tensors(self) -> dict[str, Tensor]:
        values = {"kspace": self.kspace, "mask": self.mask, "maps": self.maps, "trajectory": self.trajectory}
        values["noise"] = self.noise
        return {name: value for name, value in values.items() if value is not None}


def mean_over_views(
    reconstruct: Callable[[Measurement], Tensor], given: Measurement, views: Sequence[View] = VIEWS
) -> Tensor:
    """The mean image (batch, height, width) of what is reconstructed from views of samples on a grid.

    It is that of a reconstruction that commutes with the views; what is added in one view alone is averaged out (Lim et
    al., CVPR workshops 2017; Sechaud et al., ICLR 2026).
    """
    height = given.grid.mask.shape[-2]
    images = [view.image(unstacked(reconstruct(given.seen(view)), height)) for view in views]
    return torch.stack(images).mean(0).flatten(-3, -2)
