"""The messages of the MRD streaming protocol on a socket.

Source: the chapters "Session Protocol" and "Message Types" of the documentation of ISMRMRD (MRD) 1.14. A message is
a little-endian uint16 that says what follows. The layouts of what follows are those of the package ismrmrd; only
sizes are looked at first, so that a client cannot ask for more memory than it may.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

from ismrmrd import Acquisition, AcquisitionHeader, Image, WaveformHeader

from sansref.errors import SansrefError, printable
from sansref.serving.options import GREETING, TEXT_BYTES, WAVEFORM_BYTES, ServerLimits

CONFIG_FILE_BYTES = 1024
AT_ONCE = 65536
#: Seconds between two looks at whether to go on waiting.
LOOK = 0.2
#: Seconds for which a client is still listened to after the last word.
PARTING = 2.0


class MessageId(IntEnum):
    """The messages that are understood."""

    CONFIG_FILE = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    ACQUISITION = 1008
    IMAGE = 1022
    WAVEFORM = 1026


class ClientError(SansrefError):
    """What a client has done wrong, as one line that it is told: it advises only what the client can do.

    The server's option that set the limit is for the log, whose reader can change it.
    """

    def __init__(self, told: str, option: str = "") -> None:
        super().__init__(told)
        self.option = option


class GoneError(Exception):
    """The client is no longer there."""


class _HaltedError(Exception):
    """Nothing more is to be received."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its content is None where it has none, or where it is read past."""

    id: MessageId
    content: str | Acquisition | None = None


class Stream:
    """One client's socket, by whole messages, closed by the stream; one thread may receive while another one sends."""

    def __init__(self, connection: socket.socket, limits: ServerLimits) -> None:
        self.limits = limits
        self._socket = connection
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)
        self._hung_up = select.poll()
        self._hung_up.register(connection, select.POLLRDHUP)
        self._probed = False
        self._halted = threading.Event()
        self._sending = threading.Lock()
        self._deadline: float | None = None  # of the message that has begun
        self._greeting = min(limits.timeout, GREETING)
        self._patience, self._awaited = time.monotonic() + self._greeting, f"no header came for {self._greeting:g} s"
        connection.settimeout(limits.timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The system finds out within a minute whether a machine that says nothing any more is still there.
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def progressed(self) -> None:
        """Start the clock anew, because something came, or was done, that brings the measurement to its end.

        Messages alone do not: with them a client could keep its place for ever.
        """
        self._patience = time.monotonic() + self.limits.timeout
        self._awaited = f"no line that was still missing came for {self.limits.timeout:g} s"

    def has_gone(self) -> bool:
        """Whether the client is no longer there, as far as the system knows, whatever of it is still to be read.

        One that has closed its side may still want images, or have closed both: it is sent a text, at which the system
        of one that has gone says so.
        """
        events = sum(event for _, event in self._hung_up.poll(0))
        if events & ~select.POLLRDHUP:
            return True
        if events and not self._probed:
            self._probed = True
            with suppress(GoneError):
                self.send_text("images are still in work")
        return False

    def receive(self) -> Message | None:
        """Wait for the next message; None where the client has closed its side, or after :meth:`halt`.

        Raises ``ClientError`` for a message that is not understood, is too large, or does not come in time, and
        ``GoneError`` if the client goes in the middle of a message.
        """
        self._deadline = None
        try:
            first = self._some(2)
            return self._message(first if len(first) != 1 else first + self._exactly(1)) if first else None
        except _HaltedError:
            return None

    def _message(self, number: bytes) -> Message:
        value: int = struct.unpack("<H", number)[0]
        try:
            kind = MessageId(value)
        except ValueError:
            raise ClientError(f"message id {value} is unknown; this server expects an MRD client") from None
        # A message that has begun has a time of its own.
        self._deadline = time.monotonic() + self.limits.timeout
        match kind:
            case MessageId.CONFIG_FILE:
                return Message(kind, _text(self._exactly(CONFIG_FILE_BYTES), kind))
            case MessageId.CONFIG_TEXT | MessageId.HEADER | MessageId.TEXT:
                return Message(kind, _text(self._exactly(self._length(kind)), kind))
            case MessageId.ACQUISITION:
                return Message(kind, self._acquisition())
            case MessageId.WAVEFORM:
                self._skip_waveform()
            case MessageId.IMAGE:
                raise ClientError("images are not accepted; send raw acquisitions")
        return Message(kind)

    def send_image(self, image: Image) -> None:
        """Send one image; raises ``GoneError`` if the client does not take it."""
        pieces: list[bytes] = []
        image.serialize_into(lambda piece: pieces.append(bytes(piece)))
        self._send(MessageId.IMAGE, pieces)

    def send_text(self, text: str) -> None:
        """Send one line of text; raises ``GoneError`` if the client does not take it."""
        encoded = f"sansref: {printable(text)}\0".encode()
        self._send(MessageId.TEXT, [struct.pack("<I", len(encoded)), encoded])

    def halt(self) -> None:
        """Receive nothing more: a :meth:`receive` that waits in another thread returns.

        (To shut the socket for reading would do it too; but what then still comes would be answered by a reset, at
        which the client loses what it has been sent and not yet read.)
        """
        self._halted.set()

    def abort(self) -> None:
        """Break off at once, whatever waits in other threads."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def part(self, reason: str | None = None) -> None:
        """Say why, if something was wrong, say that nothing more will come, and close the socket.

        What the client still sends is read and dropped for a while: the system would answer it with a reset, at which
        the client would lose what it has been sent and not yet read.
        """
        with self._socket, suppress(GoneError, OSError):
            if reason is not None:
                self.send_text(reason)
            self._send(MessageId.CLOSE, [])
            self._socket.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + PARTING
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(AT_ONCE):
                    break

    def close(self) -> None:
        """Close the socket without a word."""
        self._socket.close()

    def _length(self, kind: MessageId) -> int:
        length: int = struct.unpack("<I", self._exactly(4))[0]
        if length > TEXT_BYTES:
            raise ClientError(f"a {kind.name} message of {length} bytes is too long (limit {TEXT_BYTES})")
        return length

    def _acquisition(self) -> Acquisition:
        head = self._exactly(ctypes.sizeof(AcquisitionHeader))
        declared = AcquisitionHeader.from_buffer_copy(head)
        samples, coils = declared.number_of_samples, declared.active_channels
        if not (0 < samples <= self.limits.max_matrix and 0 < coils <= self.limits.max_coils):
            taken = f"1 to {self.limits.max_matrix} samples and 1 to {self.limits.max_coils} coils are taken here"
            told = f"a line of {samples} samples and {coils} coils is refused; {taken}"
            raise ClientError(told, "max_matrix, max_coils")
        if declared.trajectory_dimensions > 3:
            raise ClientError(f"a trajectory of {declared.trajectory_dimensions} dimensions is refused")
        pieces = iter([head])
        return Acquisition.deserialize_from(lambda count: next(pieces, None) or self._exactly(count))

    def _skip_waveform(self) -> None:
        declared = WaveformHeader.from_buffer_copy(self._exactly(ctypes.sizeof(WaveformHeader)))
        left = declared.channels * declared.number_of_samples * ctypes.sizeof(ctypes.c_uint32)
        if left > WAVEFORM_BYTES:
            raise ClientError(f"a waveform of {left} bytes is too long (limit {WAVEFORM_BYTES})")
        while left:
            left -= len(self._exactly(min(left, AT_ONCE)))

    def _exactly(self, count: int) -> bytes:
        data = bytearray(count)
        view, filled = memoryview(data), 0
        while filled < count:
            piece = self._some(count - filled)
            if not piece:
                raise GoneError("in the middle of a message")
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        return bytes(data)

    def _some(self, most: int) -> bytes:
        """Wait for bytes, at most so many; none come where the client has closed its side."""
        ready = False
        while not ready:
            left = (self._deadline or self._patience) - time.monotonic()
            if self._halted.is_set():
                raise _HaltedError
            if left <= 0:
                late = f"a message was not complete after {self.limits.timeout:g} s"
                raise ClientError(late if self._deadline else self._awaited, "timeout")
            ready = bool(self._readable.poll(1000 * min(left, LOOK)))
        try:
            return self._socket.recv(min(most, AT_ONCE))
        except OSError as error:
            raise GoneError(error.strerror or str(error)) from None

    def _send(self, kind: MessageId, pieces: Iterable[bytes]) -> None:
        try:
            with self._sending:
                self._socket.sendall(b"".join([struct.pack("<H", kind), *pieces]))
        except TimeoutError:
            raise GoneError(f"did not take what was sent within {self.limits.timeout:g} s") from None
        except OSError as error:
            raise GoneError(error.strerror or str(error)) from None


def _text(raw: bytes, kind: MessageId) -> str:
    """Decode a text up to its final NUL, which some clients leave out."""
    try:
        return raw.split(b"\0", 1)[0].decode("utf-8")
    except UnicodeDecodeError:
        raise ClientError(f"a {kind.name} message is not UTF-8 text ({printable(repr(raw[:20]))})") from None
