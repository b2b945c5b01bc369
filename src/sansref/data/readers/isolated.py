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

import faulthandler
import gc
import io
import os
import pickle
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from sansref.data.readers.record import FileInfo, ImageSlice, Reader
from sansref.errors import FileError, SansrefError
from sansref.scan import Scan

CURE = "Copy or download it again, or leave it out"

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
        Bytes beyond those that this process has, and four times the size of the file.
    """

    computing: float = 60.0
    rate: float = 1e7
    waiting: float = 10.0
    memory: int = 8 << 30

    def of(self, path: Path) -> Limits:
        """The limits for one file."""
        size = path.stat().st_size if path.exists() else 0
        computing = self.computing + size / self.rate
        return Limits(computing, self.rate, self.waiting * computing, self.memory + 4 * size)


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
        return _from_child(path, lambda: self.reader.read(path, slices), self.limits)


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
        If the child hangs or dies; other errors are those of the call.
    """
    return next(_from_child(path, lambda: [call()], limits))


def _from_child(path: Path, items: Callable[[], Iterable[Result]], limits: Limits | None) -> Iterator[Result]:
    limits = (limits or LIMITS).of(path)
    receiver, sender = Pipe(duplex=False)
    with warnings.catch_warnings():
        # Newer Pythons warn of a fork beside other threads: the child takes no lock that those could hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        receiver.close()  # else the child would not notice that its parent is gone
        _work(sender, items, limits)
    sender.close()
    try:
        while (message := _received(receiver, limits.waiting)) is not None:
            done, content = pickle.loads(message)  # of a process of this program, by this program
            if done:
                return
            if isinstance(content, BaseException):
                raise content
            yield content
    finally:
        receiver.close()
        os.kill(child, signal.SIGKILL)  # it is still to be waited for, so the number is its own
        _, status = os.waitpid(child, 0)
    raise _death(path, status, limits)


def _received(receiver: Connection, seconds: float) -> bytes | None:
    """The next message, None where the child died or stays silent."""
    try:
        return receiver.recv_bytes() if receiver.poll(seconds) else None
    except (EOFError, ConnectionError):
        return None


def _death(path: Path, status: int, limits: Limits) -> FileError:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number == signal.SIGPROF:
        what = f"keeps the library that reads it busy for more than {limits.computing:.1f} s; the file is damaged"
    elif number == signal.SIGKILL:
        what = f"gives no answer within {limits.waiting:.1f} s, or fills the memory; it is damaged, or its disk slow"
    else:
        name = signal.Signals(number).name if number else f"exit {os.waitstatus_to_exitcode(status)}"
        what = f"makes the library that reads it crash ({name}); the file is damaged"
    return FileError(path, what, CURE)


def _work(sender: Connection, items: Callable[[], Iterable[Any]], limits: Limits) -> NoReturn:
    """In the child: send one item after the other; whatever happens, never return to what the parent was doing."""
    try:
        try:
            _settle(limits)
            for item in _timed(items, limits.computing):
                sender.send_bytes(_pickled((False, item)))
            sender.send_bytes(_pickled((True, None)))
        except BrokenPipeError:
            pass  # nobody wants more
        except BaseException as error:
            sender.send_bytes(_pickled((False, _portable(error))))
    finally:
        os._exit(0)


def _settle(limits: Limits) -> None:
    """Leave the parent's habits, and take up the limits."""
    gc.freeze()  # nothing of the parent's is finalised here
    torch.set_num_threads(1)  # the threads of the parent's pool are not there after a fork
    faulthandler.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process when it ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_DATA, (_data_size() + limits.memory, most))


def _data_size() -> int:
    """Bytes of this process that count against the limit of data."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0


def _timed(items: Callable[[], Iterable[Any]], seconds: float) -> Iterator[Any]:
    """Items, for each of which the process is ended when it computes too long: by a signal, as C cannot be asked."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    for item in items():
        signal.setitimer(signal.ITIMER_PROF, 0)
        yield item
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _portable(error: BaseException) -> BaseException:
    """An error that the parent can raise, with the traceback of the child where it is a bug's."""
    if isinstance(error, SansrefError):
        return error
    if not isinstance(error, Exception):
        return RuntimeError(f"reading ended with {error!r}")
    error.add_note("".join(traceback.format_exception(error)))
    return error


class _Pickler(pickle.Pickler):
    """Sends tensors as arrays: PyTorch's own way is meant for files, or keeps shared memory alive."""

    def reducer_override(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            return torch.from_numpy, (item.numpy(),)
        if isinstance(item, FileError):
            return FileError, (item.path, item.problem, item.cure)
        return NotImplemented


def _pickled(item: Any) -> memoryview:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(item)
    return buffer.getbuffer()
