"""Where the server listens, how it ends, and what one client may ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sansref.errors import SettingError

MEBIBYTE = 2**20
DAY = 86400
#: Headers of scanners have tens of kilobytes; some converters add the whole protocol.
TEXT_BYTES = 4 * MEBIBYTE
#: A physiological waveform is read past, this much of it.
WAVEFORM_BYTES = 64 * MEBIBYTE
#: Images whose lines are complete and that wait for the network, for each client.
WAITING_IMAGES = 2
#: Seconds in which a new client must have sent its header, if its timeout is not shorter.
GREETING = 20.0
#: Times the timeout, in which one image must become complete.
IMAGE_TIMEOUTS = 30
#: Images that take longer than so many seconds wait for each other, and quick ones do not wait for them.
QUICK = 10.0
#: Of one core of a server of 2020, as a first guess; each image that is done corrects it.
SECONDS_A_UNIT = 1e-6


def cost(pixels: int, coils: int, lines: int = 0) -> float:
    """What it takes to reconstruct an image of so many lines, in units that are equally long on one machine.

    Coil maps are found for each pixel from a matrix of coils by coils; everything else takes, for a network of usual
    size, about what 40 of its elements do (measured for 1 to 16 coils on one core, to a factor of two). Putting a line
    in its place takes about what 4 do.
    """
    return pixels * (40.0 + (coils**2 if coils > 1 else 0)) + 4.0 * lines


@dataclass(frozen=True)
class ServerLimits:
    """What one client may ask of the server.

    Attributes
    ----------
    clients
        Largest number of clients at once; any further one is told so and disconnected.
    timeout
        Seconds after which a client is disconnected: without progress (a line that is still missing, or an image in
        work), for one message, or without taking an image.
    max_matrix
        Largest matrix that a client may declare in any direction, readout oversampling included, and longest readout.
    max_coils
        Largest number of receive channels.
    max_held
        Largest amount of data, in MiB, that is held for one client until its images are reconstructed.
    max_acceleration
        Largest ratio of the points of the declared matrix to the samples that were really sent.
    max_seconds
        Longest time, in seconds, for the reconstruction of one image.
    """

    clients: int = 4
    timeout: float = 120.0
    max_matrix: int = 2048
    max_coils: int = 128
    max_held: int = 2048
    max_acceleration: float = 24.0
    max_seconds: float = 300.0

    def __post_init__(self) -> None:
        most_of = {"clients": 1000, "timeout": DAY, "max_matrix": 65535, "max_coils": 1024, "max_seconds": DAY}
        for name, most in most_of.items():
            if not 0 < getattr(self, name) <= most:
                raise SettingError(f"{name} must be positive and at most {most}, got {getattr(self, name)}")
        if self.max_held < 1:
            raise SettingError(f"max_held must be positive, got {self.max_held}")
        if not self.max_acceleration >= 1:
            raise SettingError(f"max_acceleration must be at least 1, got {self.max_acceleration}")


@dataclass(frozen=True)
class ServeOptions:
    """Where the server listens, and how it ends.

    Attributes
    ----------
    host
        Address to listen on. The protocol has no passwords: use another address than 127.0.0.1 (this machine) only
        within a closed network.
    port
        TCP port; 0 takes a free one.
    accelerator
        Device for the network; auto uses a GPU if there is one.
    grace
        Seconds to finish the images in work after Ctrl-C or SIGTERM.
    pixel
        Type of the pixels that are sent: float32, magnitudes in the units of the lines; or int16, as many consoles
        want, with the factor back to these units in the attribute RescaleSlope.
    log
        Also append the log to this file.
    error_map
        Send maps of where each image may be wrong after it, each in a series of its own; takes 20 reconstructions.
    bound
        Fraction of the pixels whose error should lie below the bound of error_map.
    """

    host: str = "127.0.0.1"
    port: int = 9002
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    grace: float = 30.0
    pixel: Literal["float32", "int16"] = "float32"
    log: Path | None = None
    error_map: bool = False
    bound: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingError(f"port must lie in 0..65535, got {self.port}")
        if not 0 <= self.grace <= DAY:
            raise SettingError(f"grace must lie in 0..{DAY}, got {self.grace:g}")
