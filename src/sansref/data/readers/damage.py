"""Damaged files: what they make a library raise becomes one line, and what hangs or crashes is a child process.

libhdf5 can do both: a wrong size in its heap of texts makes it loop for ever, a damaged type can make it write where it
must not; scipy's reader of MATLAB files crashes over wrong sizes. No check beforehand can prevent all that, so these
work in a child of this process, and a child that dies, or computes longer than any file needs, is one more error of the
file.

The child is a fork, made for each call and gone with it. A worker that is started once would load PyTorch first, for as
long as reading a few files takes; a fork is there in milliseconds with all that is loaded, and it leaves nothing:
no handles, no state of a library that one damaged file could carry over to the next. It computes with one thread and
without CUDA, as PyTorch's data loaders do after a fork. ``benchmarks/isolated_reading.py`` measures what it costs.

This is so on Linux. Windows has no fork, and macOS none that its own libraries survive: there files are read in this
process, which a damaged one may hang or end.
"""

from __future__ import annotations

import faulthandler
import gc
import io
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from sansref.data.readers.reader import FileInfo, ImageSlice, Reader, SliceChoice
from sansref.errors import FileError, SansrefError, printable
from sansref.machine import available_memory, data_size, out_of_memory
from sansref.scan import Scan

if sys.platform == "linux":
    import resource

#: Deflate, the densest compression in use here, cannot shrink data more than this (RFC 1951: 258 bytes in 2 bits).
MOST_COMPRESSION = 1032
MEMORY_CURE = "Close other programs, or use a machine with more memory"


def check_file(path: Path) -> None:
    """Raise ``FileError`` unless ``path`` is a regular, readable file with something in it."""
    if path.is_symlink() and not path.exists():
        raise FileError(path, "is a link to a file that does not exist", "Fetch the linked file or remove the link")
    if not path.exists():
        raise FileError(path, "does not exist", "Check the spelling of the path")
    if path.is_dir():
        raise FileError(path, "is a folder, not a file", "Give one of the files in it")
    if not path.is_file():
        raise FileError(path, "is not a regular file", "Give a file on disk")
    if path.stat().st_size == 0:
        raise FileError(path, "is empty (0 bytes)", "Copy or download it again")
    if not os.access(path, os.R_OK):
        raise FileError(path, "may not be read", "Ask for permission to read it")


def head_of(path: Path, size: int) -> bytes:
    """The first bytes of a file, at most so many."""
    with path.open("rb") as file:
        return file.read(size)


@contextmanager
def blamed_on(path: Path, what: str, cure: str | None = None) -> Iterator[None]:
    """Let the fault of another file, which ``path`` has something to do with, be one of ``path``."""
    try:
        yield
    except FileError as error:
        if error.path == path:
            raise
        raise FileError(path, f"{what}, which {error.problem}", cure or error.cure) from error


@contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Wrap calls of a format library, and nothing else, so that every failure becomes a ``FileError``.

    The libraries answer damaged bytes with errors of many types (OSError, RuntimeError, KeyError, EOFError, zlib.error,
    ...) and with warnings, none of which tells a user what to do. ``name`` is that of the format.
    """
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise memory_error(path) from error
        detail = printable(str(error)) or type(error).__name__
        problem = f"cannot be read as {name}; it is truncated or damaged ({detail})"
        raise FileError(path, problem, "Copy or download it again") from error


@contextmanager
def minding_memory(path: Path) -> Iterator[None]:
    """Let memory that runs out while a file is read be one line that names it; other errors stay what they are."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FileError) or not out_of_memory(error):
            raise
        raise memory_error(path) from error


def memory_error(path: Path) -> FileError:
    """The line about a file for which memory does not suffice."""
    return FileError(path, "needs more memory to be read than is free", MEMORY_CURE)


def check_plausible_size(path: Path, declared_bytes: int, size: int | None = None) -> None:
    """Refuse a header that declares more data than the file can hold even when compressed.

    A damaged size would otherwise ask for more memory than any machine has. ``size`` is that of all files that the data
    are kept in, None for the one file.
    """
    size = path.stat().st_size if size is None else size
    if declared_bytes > MOST_COMPRESSION * size:
        problem = f"declares {declared_bytes} bytes of data, more than its {size} bytes can hold"
        raise FileError(path, problem, "Copy or download it again")


CURE = "Copy or download it again, or leave it out"

_FORKING = threading.RLock()
"""Held while a child is made: another one made meanwhile would hold its pipe open, and hide its death."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ChildLimits:
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

    def of(self, path: Path) -> ChildLimits:
        """The limits for one file."""
        size = path.stat().st_size if path.exists() else 0
        computing = self.computing + size / self.rate
        memory = self.memory + 4 * size
        if (free := available_memory()) is not None:
            memory = min(memory, free)
        return ChildLimits(computing, self.rate, self.waiting * computing, memory)


LIMITS = ChildLimits()
"""The usual ones."""


@dataclass(frozen=True, slots=True)
class IsolatedReader:
    """A reader whose every call is made in a child process, with the usual limits or others."""

    reader: Reader
    limits: ChildLimits | None = None

    def describe(self, path: Path) -> FileInfo:
        """Read the headers only."""
        return in_child(path, lambda: self.reader.describe(path), self.limits)

    def read(self, path: Path, slices: SliceChoice = None) -> Iterator[Scan | ImageSlice]:
        """Yield the chosen slices; the child reads the next one meanwhile, and ends with the iterator."""
        return items_in_child(path, lambda: self.reader.read(path, slices), self.limits)


def in_child(path: Path, call: Callable[[], Result], limits: ChildLimits | None = None) -> Result:
    """Make one call in a child process; what it returns must be made of plain data, dataclasses and tensors.

    Raises ``FileError``, naming ``path``, if the child hangs, dies or needs more memory than it may use; other errors
    are those of the call.
    """
    return next(items_in_child(path, lambda: [call()], limits))


def items_in_child(
    path: Path, items: Callable[[], Iterable[Result]], limits: ChildLimits | None = None
) -> Iterator[Result]:
    """Make items in a child process, as :func:`in_child` makes one; it makes the next one meanwhile."""
    if sys.platform != "linux":
        with minding_memory(path):
            yield from items()
        return
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


def _started(items: Callable[[], Iterable[Any]], limits: ChildLimits) -> tuple[Connection, int]:
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


def _death(path: Path, status: int, limits: ChildLimits, *, silent: bool) -> FileError:
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


ENDING = (signal.SIGINT, signal.SIGTERM)
"""Signals that are blocked when a child begins, until it has its own answers to them."""


def work(sender: Connection, items: Callable[[], Iterable[Any]], seconds: float, memory: int) -> NoReturn:
    """Send pickled pairs, whether all is done and an item or an error; never return to what the parent was doing.

    The process ends by SIGPROF where an item needs more seconds of processor time; it may use so many bytes of memory
    beyond those that it has.
    """
    try:
        try:
            _settle(memory)
            for item in _timed(items, seconds):
                sender.send_bytes(_pickled((False, item)))
            sender.send_bytes(_pickled((True, None)))
        except BrokenPipeError:
            pass  # nobody wants more
        except BaseException as error:
            _, most = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))  # where memory ran out, that is to be told
            sender.send_bytes(_pickled((False, _portable(error))))
    finally:
        os._exit(0)


def _settle(memory: int) -> None:
    """Leave the parent's habits, and take up the limits."""
    gc.freeze()  # nothing of the parent's is finalised here
    torch.set_num_threads(1)  # the threads of the parent's pool are not there after a fork
    faulthandler.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process when it ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_DATA, (data_size() + memory, most))


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
    told = "".join(traceback.format_exception(error))
    error.add_note(told)
    try:
        pickle.loads(_pickled(error))
    except Exception:  # of the many ways in which errors cannot be sent
        return RuntimeError(told)
    return error


class _Pickler(pickle.Pickler):
    """Sends tensors as arrays: PyTorch's own way is meant for files, or keeps shared memory alive."""

    def reducer_override(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            return torch.from_numpy, (item.numpy(),)
        return NotImplemented


def _pickled(item: Any) -> memoryview:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(item)
    return buffer.getbuffer()
