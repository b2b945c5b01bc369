"""Clients that die, stall, or send what nobody should: they are told why, and harm no other."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress

import ismrmrd
import numpy as np
import pytest
import torch

from sansref.errors import FileError, SettingError
from sansref.serving import messages
from sansref.serving.serve import LOGGER, logging_to

pytestmark = pytest.mark.slow


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
    assert told(b"GET / HTTP/1.1\r\n\r\n") == "message id 17735 is unknown; this server expects an MRD client"


def test_a_text_too_long_is_refused_before_it_comes(told):
    assert told(struct.pack("<HI", 3, 2**32 - 1)).startswith("a HEADER message of 4294967295 bytes is too long")


def test_a_text_that_is_none_is_refused(told):
    assert told(struct.pack("<HI", 2, 4) + b"\xff" * 4).startswith("a CONFIG_TEXT message is not UTF-8 text")


def test_images_are_not_taken(told):
    assert told(struct.pack("<H", 1022)) == "images are not accepted; send raw acquisitions"


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
    assert "declared matrix 64 x 32 x 1 is larger than 48" in text


@pytest.mark.parametrize(
    "changes",
    [{"number_of_samples": 65535}, {"number_of_samples": 0}, {"active_channels": 65535}, {"active_channels": 0}],
)
def test_a_line_too_large_is_refused_before_it_comes(told, header, measurement, changes):
    text = told(header + header_of(measurement().lines[0], **changes))
    assert "coils is refused; 1 to 2048 samples and 1 to 128 coils are taken" in text


def test_a_trajectory_of_many_dimensions_is_refused_before_it_comes(told, header, measurement):
    text = told(header + header_of(measurement().lines[0], trajectory_dimensions=9))
    assert text == "a trajectory of 9 dimensions is refused"


def test_a_line_that_does_not_fit_its_header_is_refused(told, header, measurement):
    sent = measurement()
    sent.lines[-1].idx.kspace_encode_step_1 = 500
    stream = b"".join(struct.pack("<H", 1008) + line.to_bytes() for line in sent.lines)
    assert "outside its encoded grid" in told(header + stream + b"\4\0")


def test_an_image_larger_than_may_be_held_is_refused(told, start, measurement):
    large = measurement(size=256, coils=2)
    data = text_message(3, large.header) + struct.pack("<H", 1008) + large.lines[0].to_bytes()
    assert told(data, start(max_held=1)) == "an image takes 2 MiB, and 1 are taken here"


def test_lines_held_are_limited(told, start, measurement):
    # Each counts with its overhead: without it, lines of one sample would fill the memory.
    sent, stream = measurement(flags=False), b""
    for index in range(600):
        line = sent.lines[0]
        line.idx.slice = index
        stream += struct.pack("<H", 1008) + line.to_bytes()
    data = text_message(3, sent.header) + stream
    assert told(data, start(max_held=1)).startswith("incomplete images hold 1 MiB, and 1 are taken here; mark the last")


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
    monkeypatch.setattr("sansref.commands.reconstruct.magnitude", lambda *_: torch.full((32, 32), torch.nan))
    images, (text,) = play(connect(), measurement())
    assert images == []
    assert "slice 0 cannot be reconstructed" in text
    assert "is reconstructed to NaN or infinite values" in text


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
    assert told(b"", server) == "no header came for 1.5 s"
    assert told(header + b"\xf0", server) == "no line that was still missing came for 1.5 s"
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


# What a client may cost


def expensive(measurement, every=1, center=24, size=1024, coils=8):
    """A measurement that declares a matrix far larger than what it sends of it."""
    sent = measurement(size=32, coils=coils, center=8)
    sent.header = sent.header.replace("<x>64</x><y>32</y>", f"<x>{2 * size}</x><y>{size}</y>")
    sent.header = sent.header.replace("<x>32</x><y>32</y>", f"<x>{size}</x><y>{size}</y>")
    sent.header = sent.header.replace("<center>16</center>", f"<center>{size // 2}</center>")
    sent.header = sent.header.replace("<maximum>31</maximum>", f"<maximum>{size - 1}</maximum>")
    generator = np.random.default_rng(0)
    middle = range(size // 2 - center // 2, size // 2 + center // 2)
    sent.lines = []
    for step in sorted({*range(0, size, every), *middle} if every > 1 else middle):
        data = generator.normal(size=(coils, 2 * size, 2)).astype(np.float32).view(np.complex64)[..., 0]
        sent.lines.append(sent._line(data, step, 0))
    sent.lines[-1].set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
    return sent


@pytest.fixture
def endless(engine, monkeypatch):
    """A computation in small steps that never ends, for clients that declare 16 coils; tells how many are at work."""
    at_work, real = [], engine._reconstruct

    def compute(source, header, work, number):
        if work.line.active_channels != 16:
            return real(source, header, work, number)
        at_work.append(source)
        try:
            while True:
                np.ones(1000).sum()
        finally:
            at_work.remove(source)

    monkeypatch.setattr(engine, "_reconstruct", compute)
    return at_work


def test_few_lines_of_a_huge_matrix_are_refused_before_work_begins(measurement, connect, play, engine, monkeypatch):
    monkeypatch.setattr(engine, "_reconstruct", lambda *_: pytest.fail("work has begun"))
    images, (text,) = play(connect(), expensive(measurement))
    assert images == []
    assert "one sample was sent for 42.7 points of the declared matrix; at most 24 are accepted" in text
    assert "--" not in text


def test_lines_sent_again_and_again_are_no_samples(measurement, connect, play, engine, monkeypatch):
    monkeypatch.setattr(engine, "_reconstruct", lambda *_: pytest.fail("work has begun"))
    sent = expensive(measurement, size=256, coils=1, center=8)
    sent.lines = [sent.lines[0]] * 300 + sent.lines
    _, (text,) = play(connect(), sent)
    assert "one sample was sent for 32 points" in text


def test_an_image_that_would_take_too_long_is_refused_before_work_begins(
    measurement, connect, play, engine, monkeypatch
):
    monkeypatch.setattr(engine, "_reconstruct", lambda *_: pytest.fail("work has begun"))
    monkeypatch.setattr(engine._turns, "_most_seconds", 1.0)
    _, (text,) = play(connect(), expensive(measurement, every=8, size=512, coils=8))
    assert "it would take about" in text
    assert "1 s is the most for one image" in text


def test_an_image_has_a_time_limit_and_its_computation_ends(measurement, connect, play, engine, monkeypatch, endless):
    monkeypatch.setattr(engine._turns, "_most_seconds", 1.5)
    begin = time.monotonic()
    images, (text,) = play(connect(), measurement(coils=16, slices=1))
    assert time.monotonic() - begin < 15
    assert images == []
    assert "it was not done after 1.5 s" in text
    assert endless == []


def test_coil_maps_of_a_huge_matrix_are_broken_off(measurement, connect, play, engine, monkeypatch):
    monkeypatch.setattr(engine._turns, "_most_seconds", 3.0)
    monkeypatch.setattr("sansref.serving.engine.SURELY", 1e9)
    sent = expensive(measurement, every=8, size=512, coils=32)
    begin = time.monotonic()
    images, (text,) = play(connect(), sent)
    assert images == []
    assert "it was not done after 3 s" in text
    assert time.monotonic() - begin < 30
    assert not any(thread.name == "reconstruct" for thread in threading.enumerate())


@pytest.mark.parametrize("ends", [False, True])
def test_work_of_a_client_that_has_gone_is_dropped(measurement, start, connect, play, endless, ends):
    server, sent = start(), measurement(coils=16, slices=3)
    client = connect(server)
    client.start(sent.header)
    client.send(*sent.lines)
    if ends:
        client.end()
    until(lambda: endless)
    client.leave()
    until(lambda: server.clients == 0 and endless == [])
    assert len(play(connect(server), measurement())[0]) == 1


def test_a_client_that_has_closed_its_side_alone_still_gets_its_images(
    measurement, start, connect, engine, monkeypatch
):
    real = engine._reconstruct
    monkeypatch.setattr(engine, "_reconstruct", lambda *given: time.sleep(1) or real(*given))
    sent, client = measurement(), connect()
    client.start(sent.header)
    client.send(*sent.lines)
    client.end()
    client.socket.shutdown(socket.SHUT_WR)
    images, texts = client.answers()
    assert len(images) == 1
    assert texts in ([], ["sansref: images are still in work"])


def test_quick_clients_do_not_wait_for_an_expensive_one(
    measurement, start, connect, play, engine, monkeypatch, endless
):
    monkeypatch.setattr("sansref.serving.engine.QUICK", engine._turns._rate * (64 * 32 * (40 + 15**2)))
    server, costly = start(), measurement(coils=16, slices=4)
    expensive_client = connect(server)
    expensive_client.start(costly.header)
    expensive_client.send(*costly.lines)
    until(lambda: endless)
    got = {}

    def work(seed):
        begin = time.monotonic()
        images, _ = play(connect(server), measurement(slices=3, seed=seed))
        got[seed] = (len(images), time.monotonic() - begin)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert endless
    assert all(count == 3 and seconds < 30 for count, seconds in got.values()), got
    expensive_client.leave()


# Who keeps a place


@pytest.mark.parametrize("kind", ["text", "config", "waveform", "dummy", "repeated"])
def test_messages_without_progress_do_not_keep_a_place(measurement, start, connect, play, kind):
    server, sent = start(clients=4, timeout=1.5), measurement()
    aside = sent._line(sent.lines[0].data, 0, 0)
    aside.set_flag(ismrmrd.ACQ_IS_DUMMYSCAN_DATA)
    message = {
        "text": text_message(5, "still here"),
        "config": text_message(2, "<config/>"),
        "waveform": struct.pack("<H", 1026) + bytes(ismrmrd.WaveformHeader()),
        "dummy": struct.pack("<H", 1008) + aside.to_bytes(),
        "repeated": struct.pack("<H", 1008) + sent.lines[0].to_bytes(),
    }[kind]
    holding = [connect(server) for _ in range(4)]
    for client in holding:
        client.start(sent.header)
    until(lambda: server.clients == 4)
    deadline = time.monotonic() + 15
    while server.clients == 4:
        assert time.monotonic() < deadline, "all places are kept"
        for client in holding:
            with suppress(OSError):
                client.write(message)
        time.sleep(0.3)
    until(lambda: server.clients == 0)
    assert len(play(connect(server), measurement())[0]) == 1


def test_a_header_must_come_soon(start, connect, monkeypatch):
    monkeypatch.setattr(messages, "GREETING", 0.5)
    server = start(timeout=60.0)
    holding = [connect(server) for _ in range(4)]
    for client in holding:
        assert client.answers() == ([], ["sansref: no header came for 0.5 s"])


def test_lines_that_trickle_in_do_not_keep_a_place_for_ever(measurement, start, connect, monkeypatch):
    monkeypatch.setattr("sansref.serving.session.IMAGE_TIMEOUTS", 1)
    sent = measurement(size=128, flags=False, every=1)
    client = connect(start(timeout=1.0))
    client.start(sent.header)
    with suppress(OSError):
        for line in sent.lines:
            client.send(line)
            time.sleep(0.05)
    assert client.answers() == ([], ["sansref: no image became complete within 1 s"])


def test_a_slow_client_keeps_its_place_while_lines_come(measurement, start, connect):
    sent, client = measurement(slices=2), connect(start(timeout=1.0))
    client.start(sent.header)
    for line in sent.lines:
        client.send(line)
        time.sleep(0.1)
    client.end()
    assert len(client.answers()[0]) == 2


def test_a_client_that_waits_for_its_image_keeps_its_place(measurement, start, connect, engine, monkeypatch):
    real = engine._reconstruct
    monkeypatch.setattr(engine, "_reconstruct", lambda *given: time.sleep(2) or real(*given))
    sent, client = measurement(), connect(start(timeout=1.0))
    client.start(sent.header)
    client.send(*sent.lines)
    assert isinstance(client.answer(), ismrmrd.Image)
    client.end()
    assert client.answers() == ([], [])


@pytest.mark.parametrize("rest", [b"", b"\5\0", b"GET /", struct.pack("<H", 4)])
def test_a_thousand_connections_leave_a_short_log(start, rest, tmp_path):
    path = tmp_path / "log.txt"
    with logging_to(path):
        server = start(clients=4)
        for _ in range(1000):
            with socket.create_connection(server.address) as client:
                client.sendall(rest)
        until(lambda: server.clients == 0, 30)
    lines = path.read_text().splitlines()
    assert len(lines) < 250
    assert len(path.read_bytes()) < 40_000


def test_lines_left_out_of_the_log_are_counted(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("sansref.serving.serve.time.monotonic", lambda: clock[0])
    path = tmp_path / "log.txt"
    with logging_to(path):
        for number in range(100):
            LOGGER.info("%s: comes", number)
            LOGGER.warning("%s: another kind", number) if number == 99 else None
        clock[0] = 100.0
        LOGGER.info("%s: comes", 100)
    lines = [line.split(" ", 3)[3] for line in path.read_text().splitlines()]
    assert lines == [
        *(f"{number}: comes" for number in range(60)),
        "99: another kind",
        "100: comes (40 lines like this were left out)",
    ]


# What a client is told


@pytest.mark.parametrize(
    "error",
    [
        FileError("client 1 (127.0.0.1:5)", "has a center that is too small", "Lower --calibration, or leave it out"),
        SettingError("writing MRD needs the package ismrmrd: pip install ismrmrd"),
    ],
)
def test_a_client_is_advised_nothing_that_only_the_operator_can_do(
    measurement, connect, play, engine, monkeypatch, caplog, error
):
    def fail(*_):
        raise error

    monkeypatch.setattr(engine, "_reconstruct", fail)
    _, (text,) = play(connect(), measurement())
    assert text.startswith("sansref: slice 0 cannot be reconstructed: ")
    assert not any(word in text for word in ("--", "pip", "leave it out", "client 1"))
    assert str(error) in caplog.text
