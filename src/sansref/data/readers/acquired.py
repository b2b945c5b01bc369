"""Which samples of k-space were acquired, found from the data where a format has no mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: Lone zeros in at most this part of the grid are values that rounding made zero, not a pattern of sampling.
MOST_LONE_ZEROS = 0.01


def acquired_samples(kspace: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Find the acquired samples: a measured one is never exactly zero in all coils.

    Values below the rounding error of the largest one count as zeros, because zero-padded k-space that went through a
    Fourier transform along another axis comes back with such values. Lone zeros, in whole numbers of a receiver for
    example, are measured: they leave no row or column empty and are fewer than any undersampling leaves out.

    Parameters
    ----------
    kspace
        Complex (coils, height, width), finite.

    Returns
    -------
    ndarray
        bool (height, width), True where acquired; all False where everything is zero.
    """
    size = np.abs(kspace).max(axis=0)
    found: npt.NDArray[np.bool_] = size > np.finfo(kspace.dtype).eps * size.max()
    rows, columns = found.any(axis=1), found.any(axis=0)
    inside = np.ix_(rows, columns)
    if found.any() and np.mean(~found[inside]) <= MOST_LONE_ZEROS:
        found[inside] = True
    return found
