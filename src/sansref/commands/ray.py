"""A connection to a Ray cluster."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import Any

from sansref.errors import SettingError


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster while the block runs; a connection that there was before is used, and left open.

    Parameters
    ----------
    address
        HOST:PORT, auto for the cluster of this machine, or local to start one here.

    Raises
    ------
    SettingError
        If Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError:
        raise SettingError("Ray is not installed: pip install 'ray[data]'") from None
    if ray.is_initialized():
        yield ray
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        _connect(ray, os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # Ray's own handler ends in a crash
        yield ray
    except SystemExit:
        sys.exit(128 + signal.SIGTERM)  # Ray does not hand on the code
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def unseen(folders: Iterable[Path | None]) -> str | None:
    """What this node has to say of the first folder that it does not see; None where it sees all that there are."""
    missing = (folder for folder in folders if folder is not None and not folder.exists())
    return next((f"{socket.gethostname()} does not see {one}: all nodes of a cluster must" for one in missing), None)


def _connect(ray: Any, address: str) -> None:
    cure = "give HOST:PORT as 'ray start' shows it, auto, or local"
    found = re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address)
    if not found and address not in ("auto", "local"):
        raise SettingError(f"{address!r} is no address of a Ray cluster: {cure}")
    # Only a few words are exchanged: the scans lie in the folder.
    new = {"include_dashboard": False, "object_store_memory": 100 * 2**20} if address == "local" else {}
    try:
        if found:  # Ray itself would knock for minutes
            socket.create_connection((found[1], int(found[2])), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level=CRITICAL, **new)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise SettingError(f"no Ray cluster at {address!r} ({' '.join(str(error).split())}): {cure}") from None
