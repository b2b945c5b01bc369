"""MRI reconstruction sans reference: learn from undersampled k-space alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sansref.api import load as load

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is asked for, so that the command line starts at once."""
    if name == "load":
        from sansref.api import load

        return load
    raise AttributeError(f"module 'sansref' has no attribute {name!r}")
