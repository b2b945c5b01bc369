"""Seeded random streams."""

from __future__ import annotations

import hashlib

import torch


def seeded(*keys: int | str) -> torch.Generator:
    """Return a generator that depends on the keys alone.

    Streams named by what they are for, such as ``seeded(seed, "partition", epoch, item)``, stay the same
    whatever else draws random numbers, in whatever order or process: a resumed run repeats them exactly.
    """
    digest = hashlib.sha256(repr(keys).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
