"""The command: from its words to its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import NamedTuple

import pytest

from sansref.serving import serve as serving

pytestmark = pytest.mark.slow

START = re.compile(r"listening on 127\.0\.0\.1 port (\d+); run .*, method idr on cpu; 4 clients at once")
SLOW = """
import sys
from sansref.serving.engine import Engine
reconstruct = Engine._reconstruct
def slowly(self, *given):
    print("at work", file=sys.stderr, flush=True)
    sys.stdin.readline()
    return reconstruct(self, *given)
Engine._reconstruct = slowly
from sansref.cli import main
main(sys.argv[1:])
"""


class At(NamedTuple):
    """A server somewhere else."""

    address: tuple[str, int]


@pytest.fixture
def process(trained, tmp_path):
    """The command in a process; each image waits until it is let go."""
    words = ["serve", str(trained.path), "--port", "0", "--accelerator", "cpu", "--log", str(tmp_path / "log.txt")]
    line = [sys.executable, "-c", SLOW, *words]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, **pipes, env={**os.environ, "OMP_NUM_THREADS": "1"}) as run:
        yield run
        run.kill()


def let_go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def wait_for(process, pattern):
    for line in process.stderr:
        if found := re.search(pattern, line):
            return found
    raise AssertionError("the server has ended")


def test_scans_go_through_until_sigterm_and_the_log_tells_of_them(process, measurement, connect, play, tmp_path):
    at = At(("127.0.0.1", int(wait_for(process, START)[1])))
    sent, client = measurement(), connect(at)
    let_go(process)
    images, texts = play(client, sent)
    assert (len(images), texts) == (1, [])
    client.leave()
    wait_for(process, " end;")
    sent, client = measurement(slices=2), connect(at)
    client.start(sent.header)
    # A line of the second slice first: all have come when the image is in work.
    client.send(sent.lines[-2], *(line for line in sent.lines if line.idx.slice == 0))
    wait_for(process, "at work")
    process.terminate()
    wait_for(process, "refused")
    let_go(process)
    # The image in work is finished, the second slice is not waited for.
    images, texts = client.answers()
    assert [image.slice for image in images] == [0]
    told = "the server is being stopped; lines that do not complete an image are dropped"
    assert texts == [f"sansref: {told}"]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(at.address, timeout=5)
    client.leave()
    assert process.wait(20) == 143
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert START.search(lines[0])
    one, two = (rf"client {number} \(127\.0\.0\.1:\d+\)" for number in (1, 2))
    expected = [
        rf"INFO {one}: asks for 'default.xml'; the run serves all",
        rf"INFO {one}: header; matrix 64 x 32 x 1",
        rf"INFO {one}: image of slice 0; 16 lines, \d+\.\d\d s",
        rf"INFO {one}: end; 16 lines, 1 images, \d+\.\d s",
        rf"INFO {two}: asks for 'default.xml'; the run serves all",
        rf"INFO {two}: header; matrix 64 x 32 x 1",
        r"INFO stopping; 1 clients have 30 s",
        rf"WARNING {two}: refused: {told}",
        rf"INFO {two}: image of slice 0; 16 lines, \d+\.\d\d s",
        rf"INFO {two}: end; 17 lines, 1 images, \d+\.\d s",
        r"INFO stopped",
    ]
    for line, event in zip(lines[1:], expected, strict=True):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} " + event, line), line


def test_an_image_that_takes_too_long_is_given_up(start, engine, measurement, connect, monkeypatch, caplog):
    begun, free = threading.Event(), threading.Event()
    monkeypatch.setattr(engine, "_reconstruct", lambda *_: begun.set() or free.wait(20))
    server, sent = start(), measurement()
    client = connect(server)
    client.start(sent.header)
    client.send(*sent.lines)
    assert begun.wait(10)
    assert not server.stop(0.1)
    with pytest.raises(EOFError):
        client.answers()
    assert "cut off, not done after 0.1 s" in caplog.text
    free.set()


def test_a_client_in_full_flow_is_told_that_the_server_stops(start, measurement, connect):
    server, sent = start(), measurement(flags=False)
    client, flowing = connect(server), threading.Event()
    client.start(sent.header)

    def flow():
        with suppress(OSError):  # that the server has closed
            for index in range(1, 10**6):
                for line in sent.lines:
                    line.idx.slice = index % 2**16
                    client.send(line)
                if index == 20:
                    flowing.set()

    sender = threading.Thread(target=flow)
    sender.start()
    assert flowing.wait(10)
    assert server.stop(10)
    told = "sansref: the server is being stopped; lines that do not complete an image are dropped"
    assert client.answers() == ([], [told])
    sender.join(10)


class Listening:
    """Stands for the server; signals come while it serves."""

    address = ("127.0.0.1", 1)
    clients = 0

    def __init__(self, *received, in_time=True):
        self._received, self._in_time = received, in_time

    def __call__(self, *_):
        return self

    def serve(self, stopping):
        for number in self._received:
            os.kill(os.getpid(), number)
        assert stopping.wait(5)

    def stop(self, _):
        return self._in_time


@pytest.fixture
def left(trained, monkeypatch):
    """The exit code of a server that is told these signals, and whether it left without looking back."""

    def run(listening):
        def leave(code):
            codes.append(code)
            raise SystemExit(code)

        codes = []
        monkeypatch.setattr("sansref.serving.server.Server", listening)
        monkeypatch.setattr(serving, "_leave", leave)
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            serving.serve(trained.path, serving.ServeOptions(accelerator="cpu"), serving.ServerLimits())
        assert signal.getsignal(signal.SIGTERM) is before
        return caught.value.code, bool(codes)

    return run


@pytest.mark.parametrize(
    ("received", "in_time", "expected"),
    [
        ([signal.SIGINT], True, (130, False)),
        ([signal.SIGTERM], True, (143, False)),
        ([signal.SIGTERM], False, (143, True)),
        ([signal.SIGINT, signal.SIGTERM], True, (130, True)),  # a second signal does not wait
    ],
)
def test_exit_codes_are_those_of_the_signals(left, received, in_time, expected):
    assert left(Listening(*received, in_time=in_time)) == expected


def test_beyond_this_machine_there_is_a_warning(left, capsys):
    listening = Listening(signal.SIGINT)
    listening.address = ("0.0.0.0", 9002)
    left(listening)
    assert "other machines can connect: the protocol has no authentication and no encryption" in capsys.readouterr().err


def test_the_log_says_that_a_mask_is_new_to_the_run(left, monkeypatch, capsys):
    monkeypatch.setattr("sansref.commands.output_files.law_of", lambda run: ("", "warning: never seen"))
    left(Listening(signal.SIGINT))
    assert " INFO never seen\n" in capsys.readouterr().err


# What cannot be


def test_a_port_that_is_taken_is_one_line(sansref, trained):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = sansref("serve", trained.path, "--port", port)
    assert (code, out) == (2, "")
    assert err == f"sansref: cannot listen on 127.0.0.1 port {port} (Address already in use)\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--port", "70000"], "port must lie in 0..65535, got 70000"),
        (["--grace", "-1"], "grace must lie in 0..86400, got -1"),
        (["--clients", "0"], "clients must be positive and at most 1000, got 0"),
        (["--timeout", "1e9"], "timeout must be positive and at most 86400, got 1000000000.0"),
        (["--max-held", "0"], "max_held must be positive, got 0"),
        (["--max-seconds", "0"], "max_seconds must be positive and at most 86400, got 0"),
        (["--max-acceleration", "0.5"], "max_acceleration must be at least 1, got 0.5"),
        (["--host", "nowhere.invalid"], "cannot listen on nowhere.invalid port 9002"),
        (["--host", "127..0.0.1"], "cannot listen on 127..0.0.1 port 9002"),
    ],
)
def test_impossible_settings_are_one_line(sansref, trained, words, problem):
    code, _, err = sansref("serve", trained.path, *words)
    assert code == 2
    assert err.startswith(f"sansref: {problem}")
    assert err.count("\n") == 1


def test_a_log_that_cannot_be_written_is_one_line(sansref, trained, tmp_path):
    code, _, err = sansref("serve", trained.path, "--log", tmp_path / "none" / "log.txt")
    assert code == 2
    assert err.endswith("log.txt: cannot be written (No such file or directory). Choose another --log.\n")


def test_a_folder_that_is_no_run_is_one_line(sansref, tmp_path):
    code, _, err = sansref("serve", tmp_path)
    assert code == 2
    assert "is not a run directory" in err


def test_a_missing_package_is_one_line(sansref, trained, monkeypatch):
    monkeypatch.setattr(serving, "find_spec", lambda _: None)
    code, _, err = sansref("serve", trained.path)
    assert (code, err) == (2, "sansref: serving needs the package ismrmrd: pip install ismrmrd\n")


def test_help_names_every_option(sansref):
    code, out, _ = sansref("serve", "--help")
    assert code == 0
    names = (
        "host",
        "port",
        "accelerator",
        "grace",
        "log",
        "clients",
        "timeout",
        "max_matrix",
        "max_coils",
        "max_held",
        "pixel",
    )
    assert all(f"--{name} " in out for name in names)
