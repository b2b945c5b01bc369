"""A real head slice that needs no download: the MR image that matplotlib ships."""

from __future__ import annotations

import gzip

import numpy as np
import torch
from torch import Tensor

from sansref.errors import SansrefError

SIDE = 256


def example_image() -> Tensor:
    """A sagittal head slice, magnitude.

    Returns
    -------
    Tensor
        float32 (256, 256) in [0, 1], superior up.

    Raises
    ------
    SansrefError
        If the installed matplotlib comes without its sample data.
    """
    from matplotlib import cbook

    try:
        with gzip.open(cbook.get_sample_data("s1045.ima.gz", asfileobj=False)) as file:
            pixels = np.frombuffer(file.read(), dtype="<u2")
    except FileNotFoundError as error:
        raise SansrefError(
            "This matplotlib was installed without its sample image (sample_data/s1045.ima.gz); "
            "reinstall it with: pip install --force-reinstall matplotlib"
        ) from error
    image = torch.from_numpy(pixels.astype(np.float32)).reshape(SIDE, SIDE)
    return image / image.max()
