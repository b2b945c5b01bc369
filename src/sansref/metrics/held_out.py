"""The reference-free score: the error on acquired samples held out from the network's input."""

from __future__ import annotations

from torch import Tensor

from sansref.kspace.cartesian import Cartesian


def held_out_error(
    image: Tensor, measured: Tensor, held_out: Tensor, maps: Tensor | None = None, density: Tensor | None = None
) -> Tensor:
    r"""Normalised squared error of an image on samples that its reconstruction did not see.

    .. math:: \sum_{k \in V} w_k |(F S x)_k - y_k|^2 \Big/ \sum_{k \in V} w_k |y_k|^2, \qquad w_k = 1 / p_k

    With ``density`` p each held-out sample stands for the 1/p locations of its kind (Horvitz and Thompson's
    estimator), so that up to the noise the score estimates the NMSE of the whole image outside the center,
    however unevenly the scanner sampled.

    Parameters
    ----------
    image
        Reconstruction from the samples outside ``held_out``, complex (batch, height, width).
    measured
        Acquired k-space, complex (batch, coils, height, width).
    held_out
        bool (batch, height, width), a subset of the acquired samples.
    maps
        Coil sensitivity maps, complex (batch, coils, height, width), or None.
    density
        The probability with which each location is acquired, float (height, width) or
        (batch, height, width); None weights all held-out samples alike.

    Returns
    -------
    Tensor
        One value per slice, float (batch,); 0 is perfect, an empty image scores 1.
    """
    weight = held_out.to(image.real.dtype)
    if density is not None:
        weight = weight / density.clamp(min=1e-3)
    weight = weight.unsqueeze(-3)
    predicted = Cartesian(held_out, maps).transform(image)
    error = (weight * (predicted - measured).abs().square()).sum((-3, -2, -1))
    return error / (weight * measured.abs().square()).sum((-3, -2, -1))
