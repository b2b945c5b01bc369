"""Whatever comes in, the server answers or closes, lives on, and asks for little memory."""

from __future__ import annotations

import resource
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sansref.serving.messages import ClientError, GoneError, Message, Stream
from sansref.serving.options import ServerLimits

pytestmark = pytest.mark.slow

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(FEW, max_examples=400)
IDS = [1, 2, 3, 4, 5, 6, 1008, 1022, 1026, 1030]


def lines_of(measurement):
    """A valid stream, as one piece for each message."""
    parts = [struct.pack("<H", 1) + b"default".ljust(1024, b"\0")]
    text = measurement.header.encode() + b"\0"
    parts.append(struct.pack("<HI", 3, len(text)) + text)
    parts += [struct.pack("<H", 1008) + line.to_bytes() for line in measurement.lines]
    return [*parts, struct.pack("<H", 4)]


def exchange(address, data):
    """Send bytes and no more, and read whatever comes until the server closes."""
    got = b""
    with socket.create_connection(address, timeout=20) as client:
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while part := client.recv(65536):
                got += part
        except ConnectionError:
            pass  # closed on it: also an answer
    return got


@pytest.fixture
def valid(measurement):
    return lines_of(measurement(size=16, center=8, coils=2, noise=True))


def taken():
    """Threads and file descriptors of this process."""
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def alive(start, connect, measurement, play, caplog):
    """A server that must be as good as new in the end, and must not have grown."""
    server = start(timeout=5.0, clients=8)

    def serves():
        client = connect(server)
        images, _ = play(client, measurement())
        client.leave()
        return len(images) == 1

    assert serves()
    memory, before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, taken()
    yield server
    assert serves()
    deadline = time.monotonic() + 10
    while server.clients and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.clients == 0
    assert all(now <= then + 2 for now, then in zip(taken(), before, strict=True)), "threads or sockets are left"
    assert "internal error" not in caplog.text
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 300 * 1024, f"the process has grown by {grown // 1024} MiB"


@MANY
@given(data=st.one_of(st.binary(max_size=2000), st.tuples(st.sampled_from(IDS), st.binary(max_size=2000))))
def test_random_bytes_are_messages_or_errors(data):
    if isinstance(data, tuple):
        data = struct.pack("<H", data[0]) + data[1]
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as there:
        here = listener.accept()[0]
        there.sendall(data)
        there.shutdown(socket.SHUT_WR)
        stream = Stream(here, ServerLimits(timeout=5.0))
        with here, suppress(ClientError, GoneError):
            while (message := stream.receive()) is not None:
                assert isinstance(message, Message)


@FEW
@given(data=st.binary(min_size=1, max_size=300), number=st.sampled_from(IDS))
def test_random_messages_harm_nobody(alive, data, number):
    exchange(alive.address, struct.pack("<H", number) + data)


@FEW
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255), cut=st.floats(0.5, 1.5))
def test_a_damaged_stream_harms_nobody(alive, valid, place, value, cut):
    stream = bytearray(b"".join(valid))
    stream[int(place * len(stream))] ^= value
    exchange(alive.address, bytes(stream[: int(cut * len(stream))]))


@FEW
@given(line=st.integers(2, 5), place=st.integers(0, 341), value=st.integers(1, 255))
def test_a_damaged_line_header_harms_nobody(alive, valid, line, place, value):
    part = bytearray(valid[line])
    part[place] ^= value
    exchange(alive.address, b"".join([*valid[:line], bytes(part), *valid[line + 1 :]]))


@FEW
@given(place=st.floats(0, 1, exclude_max=True), digit=st.sampled_from("0123456789<>&x"))
def test_a_damaged_header_harms_nobody(alive, valid, place, digit):
    text = bytearray(valid[1])
    text[6 + int(place * (len(text) - 7))] = ord(digit)
    exchange(alive.address, b"".join([valid[0], bytes(text), *valid[2:]]))


@FEW
@given(order=st.permutations(range(10)), doubled=st.integers(0, 9))
def test_lines_in_any_order_harm_nobody(alive, valid, order, doubled):
    lines = valid[2:-1]
    chosen = [lines[index % len(lines)] for index in [*order, doubled]]
    exchange(alive.address, b"".join([*valid[:2], *chosen, valid[-1]]))
