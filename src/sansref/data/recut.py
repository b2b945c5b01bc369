"""Where a slice lies once it has been cut about its centre, or is shown in fewer pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sansref.data.placement import in_plane_axes
from sansref.scan import ScanMeta


def recut(
    meta: ScanMeta, size: Sequence[int], crop: tuple[int, int] | None, matrix: tuple[int, int] | None
) -> ScanMeta:
    """The pixel spacing and the place in the patient of a slice whose field of view or resolution has changed.

    Parameters
    ----------
    meta
        Of the slice as it was read.
    size
        Its height and width.
    crop
        Height and width that it was cut, or zero-padded, to; index ``n // 2`` stays at ``n // 2``. None for all.
    matrix
        Height and width of the same field of view in other pixels; None for the same.
    """
    field = tuple(crop or size)
    shown = tuple(matrix or field)
    steps = tuple(before / after for before, after in zip(field, shown, strict=True))
    spacing = None if meta.spacing is None else (meta.spacing[0] * steps[0], meta.spacing[1] * steps[1])
    if meta.geometry is None:
        return replace(meta, spacing=spacing)
    affine = np.array(meta.geometry.affine)
    # A geometry is that of the part which is exported.
    placed = meta.crop or size
    for axis, before, after, step in zip(in_plane_axes(meta.geometry), placed, shown, steps, strict=True):
        affine[:3, 3] += affine[:3, axis] * (before // 2 - step * (after // 2))
        affine[:3, axis] *= step
    rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
    return replace(meta, spacing=spacing, geometry=replace(meta.geometry, affine=rows))
