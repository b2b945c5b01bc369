"""The peers, and their networks in the sizes of ours.

``make peers`` puts them into .cache/peers without what they depend on. torchvision and pandas are replaced by
empty modules: the peers import them on their way in, but nothing that is measured here calls them.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from torch import Tensor, nn

FOLDER = Path(__file__).parent.parent / ".cache" / "peers"
_EMPTY = (
    "pandas",
    "torchvision",
    "torchvision.datasets",
    "torchvision.datasets.folder",
    "torchvision.datasets.utils",
    "torchvision.models",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.utils",
)


def load(name: str) -> Any:
    """Import a peer's module, or stop with one line that says how to get it."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    try:
        # Looks for torchvision when it is imported, and would find the empty one.
        importlib.import_module("torchmetrics.functional.image")
        for empty in _EMPTY:
            _put_empty(empty)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        sys.exit(f"{name} cannot be imported ({error}): run 'make peers' first")


def _put_empty(name: str) -> None:
    if name in sys.modules:
        return
    module = MagicMock(name=name)
    module.__spec__, module.__path__ = ModuleSpec(name, None), []
    sys.modules[name] = module


def unfolded_pgd(phases: int, channels: int) -> nn.Module:
    """deepinv's unfolded proximal gradient descent, one prior an iteration.

    DnCNN of depth 6 has the convolutions of a phase of ISTA-Net+: one from 2 channels, four between, one to 2.
    """
    deepinv, optim = load("deepinv"), load("deepinv.optim")
    size = {"in_channels": 2, "out_channels": 2, "depth": 6, "nf": channels, "pretrained": None}
    model: nn.Module = optim.PGD(
        data_fidelity=optim.L2(),
        prior=[optim.PnP(deepinv.models.DnCNN(**size)) for _ in range(phases)],
        stepsize=[1.0] * phases,
        max_iter=phases,
        unfold=True,
        trainable_params=["stepsize"],
    )
    return model


def physics(mask: Tensor, maps: Tensor | None = None) -> Any:
    """deepinv's operator for a mask (height, width), and for maps (coils, height, width)."""
    kinds = load("deepinv").physics
    plane = tuple(mask.shape)
    both = mask.float().expand(1, 2, *plane)
    if maps is None:
        return kinds.MRI(mask=both, img_size=plane)
    return kinds.MultiCoilMRI(mask=both, coil_maps=maps[None], img_size=plane)


def unet(channels: int = 32, pools: int = 4) -> nn.Module:
    """fastMRI's U-Net for real and imaginary part."""
    network: nn.Module = load("fastmri.models.unet").Unet(2, 2, channels, pools)
    return network
