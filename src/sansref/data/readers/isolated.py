"""Readers at work in a process of their own, for a library that a damaged file can hang or crash.

libhdf5 does both: a wrong size in its heap of texts makes it loop for ever, a damaged type can make it write where it
must not; scipy's reader of MATLAB files crashes over wrong sizes. No check beforehand can prevent all that, so these
work in a child of this process, and a child that dies, or computes longer than any file needs, is one more error of the
file.

The child is a fork, made for each call and gone with it. A worker that is started once would load PyTorch first, for as
long as reading a few files takes; a fork is there in milliseconds with all that is loaded, and it leaves nothing:
no handles, no state of a library that one damaged file could carry over to the next. It computes with one thread and
without CUDA, as PyTorch's data loaders do after a fork. ``benchmarks/isolated_reading.py`` measures what it costs.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, TypeVar

from sansref.data.readers.child import ENDING, work
from sansref.data.readers.guard import MEMORY_CURE, minding_memory
from sansref.data.readers.record import FileInfo, ImageSlice, Reader
from sansref.errors import FileError
from sansref.memory import available_memory
from sansref.scan import Scan

CURE = "Copy or download it again, or leave it out"

_FORKING = threading.RLock()
"""Held while a child is made: another one made meanwhile would hold its pipe open, and hide its death."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use; far more than a healthy file needs.

    Attributes
    ----------
    computing
        Seconds of processor time for one slice or one description: slow disks and busy machines do not count.
    rate
        Bytes of the file that add another second, since a 3-D scan is transformed before its first slice.
    waiting
        Seconds for the same on the clock, as a multiple of those.
    memory
        Bytes beyond those that this process has, and four times the size of the file; never more than are free.
    """

    computing: float = 60.0
    rate: float = 1e7
    waiting: float = 10.0
    memory: int = 8 << 30

    def of(self, path: Path) -> Limits:
        """The limits for one file."""
        size = path.stat().st_size if path.exists() else 0
        computing = self.computing + size / self.rate
        memory, free = self.memory + 4 * size, available_memory()
        return Limits(computing, self.rate, self.waiting * computing, memory if free is None else min(memory, free))


LIMITS = Limits()
"""The usual ones."""


@dataclass(frozen=True, slots=True)
class IsolatedReader:
    """A reader whose every call is made in a child process.

    Attributes
    ----------
    reader
        The reader that is called there.
    limits
        What a child may use, None for the usual.
    """

    reader: Reader
    limits: Limits | None = None

    @property
    def format(self) -> str:
        """Name of the format, for people."""
        return self.reader.format

    def recognises(self, path: Path) -> bool:
        """Ask the reader; raises ``FileError`` where the file hangs or crashes it."""
        return in_child(path, lambda: self.reader.recognises(path), self.limits)

    def describe(self, path: Path) -> FileInfo:
        """Read the headers only."""
        return in_child(path, lambda: self.reader.describe(path), self.limits)

    def read(self, path: Path, slices: Sequence[int] | None = None) -> Iterator[Scan | ImageSlice]:
        """Yield the chosen slices; the child reads the next one meanwhile, and ends with the iterator."""
        return items_in_child(path, lambda: self.reader.read(path, slices), self.limits)


def isolated(reader: Reader) -> Reader:
    """Let a reader work in child processes, with the usual limits."""
    return IsolatedReader(reader)


def in_child(path: Path, call: Callable[[], Result], limits: Limits | None = None) -> Result:
    """Make one call in a child process.

    Parameters
    ----------
    path
        The file that is read, for errors.
    call
        What it returns must be made of plain data, dataclasses and tensors.
    limits
        What the child may use, None for the usual.

    Raises
    ------
    FileError
        If the child hangs, dies or needs more memory than it may use; other errors are those of the call.
    """
    return next(items_in_child(path, lambda: [call()], limits))


def items_in_child(path: Path, items: Callable[[], Iterable[Result]], limits: Limits | None = None) -> Iterator[Result]:
    """Make items in a child process, as :func:`in_child` makes one; it makes the next one meanwhile."""
    limits = (limits or LIMITS).of(path)
    receiver, child = _started(items, limits)
    try:
        while message := _received(receiver, limits.waiting):
            done, content = pickle.loads(message)  # of a process of this program, by this program
            if done:
                return
            if isinstance(content, BaseException):
                with minding_memory(path):
                    raise content
            yield content
    finally:
        receiver.close()
        os.kill(child, signal.SIGKILL)  # it is still to be waited for, so the number is its own
        _, status = os.waitpid(child, 0)
    raise _death(path, status, limits, silent=message is not None)


def _started(items: Callable[[], Iterable[Any]], limits: Limits) -> tuple[Connection, int]:
    """Make a child that sends items; gives the end of the pipe where they come out, and the child's number."""
    with _FORKING:
        receiver, sender = Pipe(duplex=False)
        # Ctrl-C goes to both, and must not make the child do what its parent does on the way out.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            with warnings.catch_warnings():
                # Newer Pythons warn of a fork beside other threads: the child takes no lock that those could hold.
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                receiver.close()  # else the child would not notice that its parent is gone
                work(sender, items, limits.computing, limits.memory)
        finally:
            sender.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return receiver, child


def _received(receiver: Connection, seconds: float) -> bytes | None:
    """The next message, None where the child died; nothing where it stays silent."""
    try:
        return receiver.recv_bytes() if receiver.poll(seconds) else b""
    except (EOFError, ConnectionError):
        return None


def _death(path: Path, status: int, limits: Limits, *, silent: bool) -> FileError:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number == signal.SIGPROF:
        what = f"keeps the library that reads it busy for more than {limits.computing:.1f} s; the file is damaged"
    elif silent:
        what = f"gives no answer within {limits.waiting:.1f} s; it is damaged, or its disk slow"
    elif number == signal.SIGKILL:  # nobody else does that
        return FileError(path, "filled the memory while it was read, so that the system ended its reader", MEMORY_CURE)
    elif number == signal.SIGABRT:  # so end programs in C++ to which memory is refused
        what = "makes the library that reads it give up (SIGABRT); it is damaged, or needs more memory than is free"
    else:
        name = signal.Signals(number).name if number else f"exit {os.waitstatus_to_exitcode(status)}"
        what = f"makes the library that reads it crash ({name}); the file is damaged"
    return FileError(path, what, CURE)
