"""Mirrored and conjugate views of a scan: as good a measurement of as good an anatomy, with the samples elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """A mirror image of a scan, its complex conjugate, or both; its own inverse.

    Mirroring an image about its centre mirrors its k-space about DC; conjugating it mirrors k-space about DC in both
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
    """Mirror the last two axes about their centre, which is at index n // 2; the ends wrap around."""
    axes = [axis for axis, wanted in ((-2, rows), (-1, columns)) if wanted]
    if not axes:
        return data
    return torch.roll(data.flip(axes), [1 - data.shape[axis] % 2 for axis in axes], axes)


VIEWS = tuple(View(*choice) for choice in product((False, True), repeat=3))
"""All of them, the scan as it is first."""
