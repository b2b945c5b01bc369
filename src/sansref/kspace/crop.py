"""Cropping about the centre of the field of view, or of k-space."""

from __future__ import annotations

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
