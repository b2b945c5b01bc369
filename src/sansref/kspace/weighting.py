"""Weights that undo the sampling and partition densities in a self-supervised loss."""

from __future__ import annotations

import torch
from torch import Tensor


def k_weights(density: Tensor, selected: Tensor) -> Tensor:
    """Weights (1 - K)^(-1/2) of the residual on the disjoint target, after Millard & Chiew.

    With p the probability that a location is acquired and q that it is selected for the input if acquired,
    ``K = (1 - p) / (1 - p q)``, and ``1 - K = p (1 - q) / (1 - p q)`` is the probability that a location which
    is not in the input is in the disjoint target. Multiplying the residual (target minus output, in k-space) by
    this weight before a squared norm makes every location that the network does not see count alike in expectation.

    Parameters
    ----------
    density
        p, real (height, width), of the sampling law.
    selected
        q, of the same shape, of the partition.

    Returns
    -------
    Tensor
        Of the same shape and the dtype of ``density``, finite and at least 1. Locations that can never be in
        the disjoint target (p = 0 or q = 1) get 1.

    References
    ----------
    Millard and Chiew, IEEE Trans. Comput. Imaging 2023.
    """
    p, q = density.double(), selected.double()
    in_target = p * (1 - q)
    possible = in_target > 0
    weight = torch.sqrt((1 - p * q) / torch.where(possible, in_target, 1.0))
    return torch.where(possible, weight, 1.0).to(density.dtype)
