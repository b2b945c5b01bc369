"""Clients that die, stall, or send what nobody should: they are told why, and harm no other."""

from __future__ import annotations

import socket
import struct
import threading
import time

import ismrmrd
import numpy as np
import pytest
import torch

from sansref.serving import messages


def until(condition, seconds=10.0):
    """Wait for something that happens in another thread."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.01)


def header_of(line, **changes):
    """A line's header with other values, as bytes."""
    head = line.getHead()
    for name, value in changes.items():
        setattr(head, name, value)
    return struct.pack("<H", 1008) + bytes(head)


@pytest.fixture
def told(connect):
    """What a client is told that sends these bytes and then waits."""

    def ask(data, server=None):
        client = connect(server)
        client.write(data)
        images, texts = client.answers()
        assert images == []
        (text,) = texts
        assert text.startswith("sansref: ")
        assert "\n" not in text
        return text.removeprefix("sansref: ")

    return ask


def text_message(number, text):
    data = text.encode()
    return struct.pack("<HI", number, len(data)) + data


@pytest.fixture
def header(measurement):
    return text_message(3, measurement().header)


# What is refused


def test_rubbish_is_answered_by_one_line(told):
    assert told(b"GET / HTTP/1.1\r\n\r\n") == "message id 17735 is not understood; an MRD client is expected here"


def test_a_text_too_long_is_refused_before_it_comes(told):
    assert told(struct.pack("<HI", 3, 2**32 - 1)).startswith("a HEADER message of 4294967295 bytes is too long")


def test_a_text_that_is_none_is_refused(told):
    assert told(struct.pack("<HI", 2, 4) + b"\xff" * 4).startswith("a CONFIG_TEXT message is not UTF-8 text")


def test_images_are_not_taken(told):
    assert told(struct.pack("<H", 1022)) == "images are not taken here; send raw acquisitions"


def test_a_waveform_too_long_is_refused_before_it_comes(told):
    head = ismrmrd.WaveformHeader()
    head.channels = head.number_of_samples = 65535
    assert told(struct.pack("<H", 1026) + bytes(head)).startswith("a waveform of 17179344900 bytes is too long")


def test_a_header_must_be_one(told):
    assert "has an ISMRMRD header that is not XML" in told(text_message(3, "Dummy XML header"))


def test_a_header_must_come_before_lines(told, measurement):
    line = measurement().lines[0]
    assert told(header_of(line) + line.data.tobytes()).startswith("a line came before the header (message 3)")


def test_there_is_one_header(told, header):
    assert told(header + header).startswith("a second header came")


def test_the_declared_matrix_is_limited(told, start, header):
    text = told(header, start(max_matrix=48))
    assert text == "the declared matrix 64 x 32 x 1 is larger than 48 (--max_matrix)"


@pytest.mark.parametrize(
    "changes",
    [{"number_of_samples": 65535}, {"number_of_samples": 0}, {"active_channels": 65535}, {"active_channels": 0}],
)
def test_a_line_too_large_is_refused_before_it_comes(told, header, measurement, changes):
    text = told(header + header_of(measurement().lines[0], **changes))
    assert "coils is refused; 1 to 2048 samples (--max_matrix) and 1 to 128 coils (--max_coils) are taken" in text


def test_a_trajectory_of_many_dimensions_is_refused_before_it_comes(told, header, measurement):
    text = told(header + header_of(measurement().lines[0], trajectory_dimensions=9))
    assert text == "a trajectory of 9 dimensions is refused"


def test_a_line_that_does_not_fit_its_header_is_refused(told, header, measurement):
    sent = measurement()
    line = sent.lines[-1]
    line.idx.kspace_encode_step_1 = 500
    assert "outside its encoded grid" in told(header + struct.pack("<H", 1008) + line.to_bytes() + b"\4\0")


def test_an_image_larger_than_may_be_held_is_refused(told, start, measurement):
    large = measurement(size=256, coils=2)
    data = text_message(3, large.header) + struct.pack("<H", 1008) + large.lines[0].to_bytes()
    assert told(data, start(max_held=1)) == "an image takes 2 MiB (--max_held 1)"


def test_lines_held_are_limited(told, start, measurement):
    # Each counts with its overhead: without it, lines of one sample would fill the memory.
    sent, stream = measurement(flags=False), b""
    for index in range(600):
        line = sent.lines[0]
        line.idx.slice = index
        stream += struct.pack("<H", 1008) + line.to_bytes()
    data = text_message(3, sent.header) + stream
    assert told(data, start(max_held=1)) == "incomplete images hold 1 MiB (--max_held 1)"


def test_a_slice_that_cannot_be_reconstructed_does_not_stop_the_others(measurement, connect, play):
    sent = measurement(slices=3)
    for line in sent.lines:
        if line.idx.slice == 1:
            line.data[:] = np.nan
    images, texts = play(connect(), sent)
    assert [image.slice for image in images] == [0, 2]
    (text,) = texts
    assert text.startswith("sansref: slice 1 cannot be reconstructed: ")
    assert "NaN" in text


def test_an_image_of_nan_is_not_sent(measurement, connect, play, monkeypatch):
    monkeypatch.setattr("sansref.serving.engine.reconstruct_scan", lambda *_: torch.full((32, 32), torch.nan))
    images, (text,) = play(connect(), measurement())
    assert images == []
    assert "slice 0 cannot be reconstructed" in text
    assert "was reconstructed to NaN or infinite values" in text


# Who harms no other


def test_a_client_that_dies_in_the_middle_of_a_line_leaves_nothing_behind(measurement, start, connect, play):
    server, sent = start(clients=2), measurement(slices=2)
    dying, living = connect(server), connect(server)
    living.start(sent.header)
    living.send(*sent.lines[:20])
    dying.start(sent.header)
    dying.write(header_of(sent.lines[0]) + b"\0" * 100)
    until(lambda: server.clients == 2)
    dying.leave()
    until(lambda: server.clients == 1)
    living.send(*sent.lines[20:])
    living.end()
    images, texts = living.answers()
    assert (len(images), texts) == (2, [])
    living.leave()
    until(lambda: server.clients == 0)


def test_a_client_that_goes_without_close_is_forgotten(measurement, start, connect, caplog):
    server, sent = start(), measurement()
    client = connect(server)
    client.start(sent.header)
    client.send(*sent.lines[:5])
    client.leave()
    until(lambda: "gone" in caplog.text and server.clients == 0)


def test_a_client_that_stalls_is_sent_away(told, start, header):
    server = start(timeout=1.5)
    assert told(b"", server) == "nothing came for 1.5 s"
    assert told(header + b"\xf0", server) == "nothing came for 1.5 s"
    until(lambda: server.clients == 0)


def test_a_message_must_not_trickle_in(start, connect):
    client = connect(start(timeout=0.5))
    client.write(struct.pack("<H", 1))
    begin = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() < begin + 40:
            client.write(b"x")
            time.sleep(0.05)
    assert time.monotonic() < begin + 30  # all 1024 bytes would take 51 s


def test_a_client_that_takes_no_images_is_cut_off(measurement, start, connect, play, caplog):
    server, sent = start(timeout=4.0, clients=2), measurement(size=256)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(server.address)
    slow.settimeout(30)
    with slow, pytest.raises(ConnectionError):
        slow.sendall(text_message(3, sent.header))
        for index in range(200):
            for line in sent.lines:
                line.idx.slice = index
                slow.sendall(struct.pack("<H", 1008) + line.to_bytes())
    assert "gone (did not take what was sent within 4 s)" in caplog.text
    assert len(play(connect(server), measurement())[0]) == 1
    until(lambda: server.clients <= 1)


def test_a_client_too_many_is_told_so(measurement, start, connect, play):
    server = start(clients=1)
    first = connect(server)
    until(lambda: server.clients == 1)
    second = connect(server)
    assert second.answers() == ([], ["sansref: refused, 1 clients are served already; try again later"])
    images, _ = play(first, measurement())
    assert len(images) == 1
    first.leave()
    until(lambda: server.clients == 0)
    assert len(play(connect(server), measurement())[0]) == 1


def test_a_bug_ends_one_session_and_is_logged(measurement, start, connect, play, engine, monkeypatch, caplog):
    server = start()
    with monkeypatch.context() as broken:
        broken.setattr(engine, "_reconstruct", lambda *_: 1 / 0)
        images, texts = play(connect(server), measurement())
    assert (images, texts) == ([], ["sansref: internal error, described in the server's log"])
    assert "ZeroDivisionError" in caplog.text
    assert len(play(connect(server), measurement())[0]) == 1


def test_the_log_does_not_grow_with_what_a_client_asks_for(connect, caplog):
    caplog.set_level("INFO")
    client = connect()
    for _ in range(50):
        client.serializer.serialize(ismrmrd.ConfigFile("default.xml"))
    client.end()
    assert client.answers() == ([], [])
    until(lambda: "end; 0 lines" in caplog.text)
    assert caplog.text.count("asks for 'default.xml'") == 1


@pytest.mark.parametrize("clients", [0, 1])
def test_a_client_for_whom_no_thread_is_left_is_cut_off_and_the_next_is_served(
    measurement, start, connect, play, monkeypatch, caplog, clients
):
    def no_thread(thread):
        raise RuntimeError("can't start new thread")

    caplog.set_level("INFO")
    server = start(clients=1)
    first = [connect(server) for _ in range(clients)]
    for client in first:
        client.serializer.serialize(ismrmrd.ConfigFile("default.xml"))
        until(lambda: "asks for" in caplog.text)  # it has all its threads
    with monkeypatch.context() as busy:
        busy.setattr("sansref.serving.server.threading.Thread.start", no_thread)
        for _ in range(20):  # more than can be refused at once
            assert connect(server).socket.recv(1) == b""
        assert server.clients == clients
    assert "cannot take a client: can't start new thread" in caplog.text
    for client in first:
        assert connect(server).answers()[1] == ["sansref: refused, 1 clients are served already; try again later"]
        client.leave()
    until(lambda: server.clients == 0)
    assert len(play(connect(server), measurement())[0]) == 1


def test_a_client_whose_images_no_thread_is_left_to_send_is_told(
    measurement, start, connect, play, monkeypatch, caplog
):
    begin = threading.Thread.start

    def no_second_thread(thread):
        if thread.name.endswith(" out"):
            raise RuntimeError("can't start new thread")
        begin(thread)

    server = start(clients=1)
    with monkeypatch.context() as busy:
        busy.setattr("sansref.serving.session.threading.Thread.start", no_second_thread)
        texts = ["sansref: the server has no thread left for this client; try again later"]
        assert connect(server).answers() == ([], texts)
    assert "cannot be served: can't start new thread" in caplog.text
    until(lambda: server.clients == 0)
    assert len(play(connect(server), measurement())[0]) == 1


def test_clients_beyond_those_that_can_be_told_are_cut_off(start, connect, monkeypatch):
    monkeypatch.setattr(messages, "PARTING", 1.0)
    server = start(clients=1)
    connect(server)
    until(lambda: server.clients == 1)
    waiting = [connect(server) for _ in range(40)]
    until(lambda: all(client.socket.recv(1, socket.MSG_PEEK) in (b"", b"\5") for client in waiting))
    assert any(client.socket.recv(1, socket.MSG_PEEK) == b"" for client in waiting)
