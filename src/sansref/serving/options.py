"""Where the server listens, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sansref.errors import SettingError
from sansref.serving.limits import DAY


@dataclass(frozen=True)
class ServeOptions:
    """Where the server listens, and how it ends.

    Attributes
    ----------
    host
        Address to listen on. The protocol knows no passwords: beyond this machine (127.0.0.1), only within a
        closed network.
    port
        TCP port; 0 takes a free one.
    accelerator
        Where networks work; auto takes a GPU if there is one.
    grace
        Seconds that images in work may take after Ctrl-C or SIGTERM.
    pixel
        What images are sent as: float32, magnitudes in the units of the lines; or int16, as many consoles want, with
        the factor back to these units in the attribute RescaleSlope.
    log
        File to which the log is added, besides the error stream.
    """

    host: str = "127.0.0.1"
    port: int = 9002
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    grace: float = 30.0
    pixel: Literal["float32", "int16"] = "float32"
    log: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingError(f"port must lie in 0..65535, got {self.port}")
        if not 0 <= self.grace <= DAY:
            raise SettingError(f"grace must lie in 0..{DAY}, got {self.grace:g}")
