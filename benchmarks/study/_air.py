"""The noise of an image, seen where there is only air."""

from __future__ import annotations

import torch
from torch import Tensor

_ENDS = (slice(0, 10), slice(-10, None))


def air_power(image: Tensor) -> float:
    """Mean squared magnitude of an image (height, width) in its four corners of 10 x 10."""
    corners = torch.cat([image[rows, columns].flatten() for rows in _ENDS for columns in _ENDS])
    return float(corners.abs().square().mean())
