"""MRI reconstruction sans reference: learn from undersampled k-space alone.

A file of any format that is read is a list of slices; an image volume has images, raw data have scans:

>>> import numpy, sansref
>>> numpy.save("volume.npy", numpy.random.default_rng(0).random((3, 32, 32)))
>>> file = sansref.open_file("volume.npy")
>>> len(file), file[0].image.shape
(3, torch.Size([32, 32]))

:func:`sansref.train` learns from a folder of them, :func:`sansref.load` gives what was learned before, and its
``reconstruct`` the images of a file. Everything that can go wrong through no fault of the program is a
:class:`sansref.SansrefError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sansref.api import load, train, zero_shot
    from sansref.data import open_file
    from sansref.errors import SansrefError
    from sansref.kspace import Measurement
    from sansref.scan import Scan

__all__ = ["Measurement", "SansrefError", "Scan", "__version__", "load", "open_file", "train", "zero_shot"]
__version__ = "0.1.0"

_HOMES = {
    "load": "sansref.api",
    "train": "sansref.api",
    "zero_shot": "sansref.api",
    "open_file": "sansref.data",
    "SansrefError": "sansref.errors",
    "Measurement": "sansref.kspace",
    "Scan": "sansref.scan",
}


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is asked for, so that the command line starts at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sansref' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, before they are imported too."""
    return sorted({*globals(), *__all__})
