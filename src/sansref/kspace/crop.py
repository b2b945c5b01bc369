"""Cropping about the centre of the field of view, or of k-space."""

from __future__ import annotations

import torch
from torch import Tensor


def centre_crop(data: Tensor, size: tuple[int, int]) -> Tensor:
    """The central part of the last two axes.

    Index ``n // 2`` of the input, where DC and the image's centre lie, stays at ``n // 2`` of the
    output for even and odd sizes.

    Parameters
    ----------
    data
        (..., height, width).
    size
        Height and width of the part.

    Returns
    -------
    Tensor
        A view, (..., *size).

    Raises
    ------
    ValueError
        If a size is not positive or exceeds the input's.
    """
    plane = data.shape[-2:]
    for wanted, available in zip(size, plane, strict=True):
        if not 0 < wanted <= available:
            raise ValueError(f"size {tuple(size)} must be positive and fit into {tuple(plane)}")
    top, left = (available // 2 - wanted // 2 for wanted, available in zip(size, plane, strict=True))
    return data[..., top : top + size[0], left : left + size[1]]


def centre_pad(data: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero-pad the last two axes to at least ``size``, the old centre in the new centre.

    Parameters
    ----------
    data
        (..., height, width).
    size
        Height and width; an axis that is larger stays as it is.
    """
    pads: list[int] = []
    for wanted, old in zip(reversed(size), reversed(data.shape[-2:]), strict=True):
        new = max(wanted, old)
        before = new // 2 - old // 2
        pads += [before, new - old - before]
    return torch.nn.functional.pad(data, pads)
