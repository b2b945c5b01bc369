"""What a child process does that works for a reader: it takes up its limits, and sends what it reads to its parent."""

from __future__ import annotations

import faulthandler
import gc
import io
import os
import pickle
import resource
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import torch
from torch import Tensor

from sansref.errors import SansrefError
from sansref.memory import data_size

ENDING = (signal.SIGINT, signal.SIGTERM)
"""Signals that are blocked when a child begins, until it has its own answers to them."""


def work(sender: Connection, items: Callable[[], Iterable[Any]], seconds: float, memory: int) -> NoReturn:
    """Send one item after the other; whatever happens, never return to what the parent was doing.

    Parameters
    ----------
    sender
        Takes pickled pairs: whether all is done, and an item or an error.
    items
        Made here.
    seconds
        Of processor time for each item; the process ends by SIGPROF where it needs more.
    memory
        Bytes beyond those that this process has.
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
