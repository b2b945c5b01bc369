"""Compressed sensing with wavelets: few coefficients explain the image, after Lustig et al. (MRM 58:1182, 2007)."""

from __future__ import annotations

from math import sqrt
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from sansref.errors import SettingError
from sansref.kspace.coils import unstacked
from sansref.kspace.measurement import Measurement

WAVELET = "db4"
"""Daubechies' wavelet with 4 vanishing moments (8 taps), the usual one for MR images."""

LEVELS = 4
"""Of the transform, fewer where the filter would be longer than the approximation: that of 256 x 256 is 16 x 16."""


class OrthogonalWavelet:
    r"""The periodic Daubechies transform W of complex images, W^H W = W W^H = 1, and its soft threshold.

    Only sides that halve evenly have such a transform. Other images are extended to :attr:`plane`; see
    :func:`l1_wavelet` for what the extension means there.

    Parameters
    ----------
    shape
        Height and width of the images.

    Attributes
    ----------
    plane
        Height and width that it acts on: those of the images, rounded up to a multiple of 2^levels.

    Raises
    ------
    SettingError
        Without PyWavelets.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._pywt: Any = pywavelets()
        longest = self._pywt.dwt_max_level(min(shape), self._pywt.Wavelet(WAVELET).dec_len)
        self._levels = max(1, min(LEVELS, longest))
        step = 2**self._levels
        self.plane = (-(-shape[0] // step) * step, -(-shape[1] // step) * step)

    def coefficients(self, image: Tensor) -> list[Any]:
        """W x of images (..., height, width) on the plane, in PyWavelets' order.

        First the approximation, then the horizontal, vertical and diagonal details of each level, the coarsest first.
        """
        approximation, details = image.numpy(force=True), []
        for _ in range(self._levels):
            # Not wavedec2, which warns of images shorter than two filters.
            approximation, bands = self._pywt.dwt2(approximation, WAVELET, "periodization")
            details.append(bands)
        return [approximation, *reversed(details)]

    def image(self, coefficients: list[Any]) -> Tensor:
        """W^H c, the inverse."""
        return torch.from_numpy(self._pywt.waverec2(coefficients, WAVELET, mode="periodization"))

    def shrink(self, image: Tensor, threshold: Tensor) -> Tensor:
        """The proximal map of threshold |W' x|_1, where W' is W without its approximation.

        The approximation is a small copy of the image: it is not sparse, and a threshold would only darken it.

        Parameters
        ----------
        image
            Complex (..., height, width) on the plane.
        threshold
            At least 0, real (..., 1, 1).
        """
        approximation, *details = self.coefficients(image)
        limit = threshold.numpy(force=True)
        shrunk = [tuple(_soft(band, limit) for band in level) for level in details]
        return self.image([approximation, *shrunk]).to(image.device)


def _soft(values: Any, threshold: Any) -> Any:
    """Complex soft threshold: magnitudes fall by ``threshold``, phases stay."""
    magnitude = np.abs(values)
    return values * (np.maximum(magnitude - threshold, 0) / np.maximum(magnitude, np.finfo(magnitude.dtype).tiny))


def l1_wavelet(
    given: Measurement, regularisation: float, iterations: int = 100, generator: Generator | None = None
) -> Tensor:
    r"""Minimise 1/2 |E x - y|^2 + lambda |W' x|_1 by FISTA (Beck and Teboulle, SIAM J. Imaging Sci. 2:183, 2009).

    With a ``generator`` the image is shifted at random, and back, around every threshold (cycle spinning, as in
    Coifman and Donoho, 1995): on average a transform that no longer depends on where the image lies, without the blocks
    that a fixed one leaves. Where the transform needs a larger plane than the scan's, the pixels beyond the field of
    view are further unknowns, which no sample depends on.

    Parameters
    ----------
    given
        With a batch axis; k-space of several coils needs maps.
    regularisation
        lambda as a fraction of each slice's max |E^H y|, which makes it independent of the scanner's units.
    iterations
        Of FISTA.
    generator
        Draws the shifts, the same for all slices of a batch; None leaves the image where it is, which makes this the
        minimiser of a fixed, convex function.

    Returns
    -------
    Tensor
        Complex (batch, height, width).

    Raises
    ------
    SettingError
        Without PyWavelets.
    ValueError
        For several coils without maps.
    """
    encoding = given.grid
    zero_filled = encoding.adjoint(given.kspace)
    height, width = given.mask.shape[-2:]
    wavelet = OrthogonalWavelet((height, width))
    rows, columns = wavelet.plane
    step = 1 / encoding.largest_gain
    threshold = (step * regularisation * zero_filled.abs().amax((-2, -1), keepdim=True)).unsqueeze(-3)

    # Images of two sets of maps lie below one another, and have no common edge.
    image = torch.nn.functional.pad(unstacked(step * zero_filled, height), (0, columns - width, 0, rows - height))
    ahead, momentum = image, 1.0
    for _ in range(iterations):
        shift = (0, 0) if generator is None else _random_shift(wavelet.plane, generator)
        inside = ahead[..., :height, :width].flatten(-3, -2)
        descended = ahead.clone()
        descended[..., :height, :width] -= unstacked(step * (encoding.normal(inside) - zero_filled), height)
        previous, image = image, wavelet.shrink(descended.roll(shift, (-2, -1)), threshold)
        image = image.roll((-shift[0], -shift[1]), (-2, -1))
        before, momentum = momentum, (1 + sqrt(1 + 4 * momentum**2)) / 2
        ahead = image + (before - 1) / momentum * (image - previous)
    return image[..., :height, :width].flatten(-3, -2)


def pywavelets() -> ModuleType:
    """The package PyWavelets.

    Raises
    ------
    SettingError
        If it is not installed.
    """
    try:
        import pywt  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise SettingError("l1_wavelet needs PyWavelets: pip install PyWavelets") from error
    return pywt


def _random_shift(plane: tuple[int, int], generator: Generator) -> tuple[int, int]:
    down, right = (int(torch.randint(side, (), generator=generator)) for side in plane)
    return down, right
