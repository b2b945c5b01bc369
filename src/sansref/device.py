"""Where networks work outside training."""

from __future__ import annotations

import torch


def device_of(accelerator: str) -> torch.device:
    """The GPU of this process if there is one, unless the accelerator is ``cpu``."""
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
