"""What one client may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass

from sansref.errors import SettingError

MEBIBYTE = 2**20
DAY = 86400
#: Headers of scanners have tens of kilobytes; some converters add the whole protocol.
TEXT_BYTES = 4 * MEBIBYTE
#: A physiological waveform is read past, this much of it.
WAVEFORM_BYTES = 64 * MEBIBYTE
#: Images whose lines are complete and that wait for the network, for each client.
WAITING_IMAGES = 2


@dataclass(frozen=True)
class Limits:
    """What one client may ask of the server.

    Attributes
    ----------
    clients
        Clients served at once; one more is told so and sent away.
    timeout
        Seconds without a message, or without taking an image, after which a client is sent away.
    max_matrix
        Largest declared matrix in any direction, readout oversampling included, and largest readout.
    max_coils
        Receive channels of a line.
    max_held
        Mebibytes of lines held for one client until their images are reconstructed.
    """

    clients: int = 4
    timeout: float = 120.0
    max_matrix: int = 2048
    max_coils: int = 128
    max_held: int = 2048

    def __post_init__(self) -> None:
        for name, most in (("clients", 1000), ("timeout", DAY), ("max_matrix", 65535), ("max_coils", 1024)):
            if not 0 < getattr(self, name) <= most:
                raise SettingError(f"{name} must be positive and at most {most}, got {getattr(self, name)}")
        if self.max_held < 1:
            raise SettingError(f"max_held must be positive, got {self.max_held}")
