"""Listening for clients, and giving each a session."""

from __future__ import annotations

import itertools
import logging
import socket
import threading
import time
from contextlib import ExitStack

from sansref.errors import SettingError
from sansref.serving.engine import Engine
from sansref.serving.images import Pixel
from sansref.serving.messages import LOOK, Stream
from sansref.serving.options import ServerLimits
from sansref.serving.session import Session

LOGGER = logging.getLogger(__package__)

#: Clients that are being told that there is no room; more are cut off without a word.
REFUSALS = 16


class Server:
    """Gives each client a session of its own; one network serves all. Port 0 takes a free one.

    Raises ``SettingError`` if nobody can listen there.
    """

    def __init__(self, engine: Engine, limits: ServerLimits, host: str, port: int, pixel: Pixel = "float32") -> None:
        self._engine, self._limits, self._pixel = engine, limits, pixel
        self._lock = threading.Lock()
        self._sessions: dict[Session, threading.Thread] = {}
        self._refusing = threading.Semaphore(REFUSALS)
        self._numbers = itertools.count(1)
        self._listener = _listener(host, port)
        self._listener.settimeout(LOOK)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that the server listens on."""
        host, port, *_ = self._listener.getsockname()
        return host, port

    @property
    def clients(self) -> int:
        """Clients that are served."""
        with self._lock:
            return len(self._sessions)

    def serve(self, stopping: threading.Event) -> None:
        """Take clients until ``stopping`` is set; :meth:`stop` must follow."""
        while not stopping.is_set():
            try:
                connection, (host, port, *_) = self._listener.accept()
                with ExitStack() as failed:
                    failed.callback(connection.close)
                    self._welcome(connection, f"client {next(self._numbers)} ({host}:{port})")
                    failed.pop_all()
            except TimeoutError:
                continue
            except (OSError, RuntimeError) as error:  # no file descriptor or thread is left, or the client has gone
                LOGGER.warning("cannot take a client: %s", error)
                stopping.wait(LOOK)

    def stop(self, grace: float) -> bool:
        """Take no more clients and lines, finish the images whose lines are there; False if that was not in time.

        Clients that are left after ``grace`` seconds are cut off.
        """
        self._listener.close()
        with self._lock:
            left = dict(self._sessions)
        for session in left:
            session.stop()
        deadline = time.monotonic() + grace
        for thread in left.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        late = [session for session, thread in left.items() if thread.is_alive()]
        for session in late:
            LOGGER.warning("%s: cut off, not done after %g s", session.name, grace)
            session.abort()
        return not late

    def _welcome(self, connection: socket.socket, name: str) -> None:
        stream = Stream(connection, self._limits)
        session = Session(name, stream, self._engine, self._pixel)
        thread = threading.Thread(target=self._host, args=(session,), name=name, daemon=True)
        with self._lock:
            full = len(self._sessions) >= self._limits.clients
            if not full:
                self._sessions[session] = thread
        if full:
            return self._refuse(stream, name)
        try:
            return thread.start()
        except RuntimeError:
            self._forget(session)
            raise

    def _host(self, session: Session) -> None:
        try:
            session.run()
        finally:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        with self._lock:
            del self._sessions[session]

    def _refuse(self, stream: Stream, name: str) -> None:
        LOGGER.warning("%s: refused, %d clients are served already (--clients)", name, self._limits.clients)
        if not self._refusing.acquire(blocking=False):
            stream.close()
            return

        def tell() -> None:
            try:
                stream.part(f"refused, {self._limits.clients} clients are served already; try again later")
            finally:
                self._refusing.release()

        try:
            threading.Thread(target=tell, name=f"{name} refused", daemon=True).start()
        except RuntimeError:
            self._refusing.release()
            raise


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # a name that is none is no text
        problem = getattr(error, "strerror", None) or error
        raise SettingError(f"cannot listen on {host} port {port} ({problem})") from None
    return listener
