"""Files that appear whole or not at all, under names and with texts that all programs take, and our own folders."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

from sansref.errors import FileError, SettingError, printable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PART = ".part-"
"""How the names of files begin that are still being written."""

LEFTOVER = re.compile(rf"{re.escape(PART)}[0-9a-f]{{32}}-.+", re.DOTALL)
"""Names that writers give to what is not finished, and nobody else."""

MARK = ".sansref"
"""Name of the file that says that a folder is this program's own, whose files it may replace and remove."""


def claim(folder: Path, kind: str) -> None:
    """Make a folder this program's own by a mark that says what it is for, or see to it that it is.

    Raises ``SettingError`` if something else lies there, which must be neither replaced nor removed, and ``FileError``
    if the folder cannot be written.
    """
    earlier = claimed(folder)
    if earlier == kind:
        return
    named = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    if earlier:
        raise SettingError(f"{folder} holds the {earlier} of another command, not {named}: choose another --out")
    taken = folder.exists() or folder.is_symlink()
    if folder.is_dir():
        taken = any(not LEFTOVER.fullmatch(entry.name) for entry in folder.iterdir())
    if taken:
        raise SettingError(f"{folder} is not empty, and sansref did not make it as {named}: choose another --out")
    text = f"sansref {kind}\n\nsansref made this folder, and may replace and remove its files in it.\n"
    write_text(folder / MARK, text)


def claimed(folder: Path) -> str:
    """What a folder was made for; empty if it is not this program's own."""
    mark = folder / MARK
    try:
        text = mark.read_bytes()[:80] if mark.is_file() else b""
    except OSError:
        return ""
    words = text.decode("ascii", "replace").partition("\n")[0].split()
    return words[1] if len(words) == 2 and words[0] == "sansref" else ""


def remove_made(folder: Path, made: str) -> None:
    """Remove a folder, in one of this program's own, if nothing is in it that this program has not made.

    ``made`` is a regular expression of the files that are written there, by their path from the folder on. Raises
    ``SettingError`` if it holds something else; then nothing is removed.
    """
    if not (folder.exists() or folder.is_symlink()):
        return
    for path in (folder, *folder.rglob("*")):
        inside = path.relative_to(folder)
        ours = path.is_dir() or re.fullmatch(made, inside.as_posix()) or any(map(LEFTOVER.fullmatch, inside.parts))
        if path.is_symlink() or not ours:
            raise SettingError(f"{path} was not written by sansref: move it, or choose another --out")
    waste = _beside(folder)  # all at once: what a kill interrupts is a leftover, and not half of a folder
    with writing(folder):
        folder.replace(waste)
        shutil.rmtree(waste)


LONGEST_NAME = 255
"""Bytes of a file's name on the usual file systems; characters beyond ASCII take several."""

_KEPT_OF_PART = 200
# What spreadsheets take for the beginning of a formula, also in their full-width forms, and the mark that stops them.
_FORMULA = re.compile(r"\s*[=+@\N{MINUS SIGN}\uff1d\uff0b\uff0d\uff20'-]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan")


def keep_outside(out: Path, folder: Path | None, name: str = "") -> None:
    """See to it that nothing is written into a folder of scans, nor where they are among the files written.

    Links are followed, also those in the folder, which the user has named by ``name``, such as ``--data``. Raises
    ``SettingError`` if one is the other, or lies inside it.
    """
    if folder is None:
        return
    written, named = Path(os.path.realpath(out)), f"{name} {folder}".lstrip()
    waiting, seen = [folder], set[Path]()  # where the folder really lies, and whatever links in it lead to
    while waiting:
        scans = Path(os.path.realpath(waiting.pop()))
        if scans in seen:
            continue
        seen.add(scans)
        if written.is_relative_to(scans):
            raise SettingError(f"--out {out} lies inside {named}, where its files would pass for scans: move it out")
        if scans.is_relative_to(written):
            raise SettingError(f"--out {out} holds {named}, and scans must be safe from what is written there: move it")
        for path, folders, files in os.walk(scans):
            waiting += [entry for entry in (Path(path, name) for name in (*folders, *files)) if entry.is_symlink()]


def locked(path: Path, patience: float = 5) -> TextIO:
    """A file that keeps other processes off something as long as it is open; it lies beside it, as ``NAME.lock``.

    The lock dies with its process, however that dies, and is seen by other machines that share the file system. Its
    file stays: a process may be waiting for it. Raises ``FileError`` if another process does not let go in ``patience``
    seconds, or there can be no such file.
    """
    real = Path(os.path.realpath(path))  # one lock for all names of a folder
    lock = real.parent / f"{real.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        file = os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")
        if not _got(file, patience):
            with file:
                file.seek(0)
                cure = "Wait until it has ended or stop it, then give the same command again"
                raise FileError(path, f"is in use by {file.read() or 'another process'}", cure)
        if (text := file.read(200)) and not re.fullmatch(r"process \d+ on .*", text):
            with file:
                raise FileError(lock, "was not made by sansref", "Move it, or choose another folder")
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    except OSError as error:
        cure = "Choose a folder that you may write to, on a file system that can lock files"
        raise FileError(lock, f"cannot be locked ({error.strerror})", cure) from None
    return file


def _got(file: TextIO, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        with suppress(BlockingIOError, PermissionError):
            _lock(file.fileno())
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)


def _lock(descriptor: int) -> None:
    if sys.platform != "win32":
        # Unlike flock's, this lock is not inherited by processes that load data, which may live a little longer.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            # Nobody can read what is locked there: a byte far behind the text, which says who is at work.
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, position, os.SEEK_SET)


@contextmanager
def room_on_disk(size: int, folder: Path | None = None) -> Iterator[IO[bytes]]:
    """A temporary file of so many bytes, to be mapped into memory; it has no name, and goes with its last user.

    It lies in ``folder``, or where temporary files do. Without room reserved for it, writing to a mapped file on a full
    disk kills the process. Only Linux can reserve it; elsewhere the file just gets its size. Raises ``OSError`` if the
    system refuses.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        yield file


@contextmanager
def atomic_path(path: str | Path, parents: bool = True) -> Iterator[Path]:
    """A temporary name to write to, which becomes ``path`` when the block ends well.

    The folder is created if need be, unless ``parents`` is False. A block that fails leaves neither a temporary file
    nor a change to ``path``. Raises ``FileError`` if the system refuses to write (no permission, no space).
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        with writing(path):
            if parents:
                path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes ``folder`` when the block ends well, and is removed when it fails.

    Raises ``FileError`` if the system refuses to write, or ``folder`` holds something already.
    """
    temporary = _beside(folder)
    try:
        with writing(folder):
            temporary.mkdir(parents=True)
            yield temporary
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    # The name is kept at the end: libraries read the format from its suffix.
    end = os.fsencode(path.name)[-_KEPT_OF_PART:].decode(errors="ignore")
    return path.with_name(f"{PART}{uuid.uuid4().hex}-{end}")


def fitting(name: str, room: int = LONGEST_NAME) -> str:
    """The name, or where it takes more than ``room`` bytes, its beginning with a digest of it all."""
    encoded = os.fsencode(name)
    if len(encoded) <= room:
        return name
    return f"{encoded[: room - 13].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:12]}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses in the block becomes a ``FileError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        cure = "Choose a folder with free space that you may write to"
        if error.errno == errno.ENAMETOOLONG:
            cure = "Choose shorter names of folders and files"
        cause = error.__cause__ or error.__context__  # libraries wrap it in texts of many lines
        reason = error.strerror or getattr(cause, "strerror", None) or printable(str(error))
        raise FileError(path, f"cannot be written ({reason})", cure) from error


def write_text(path: Path, text: str, parents: bool = True) -> None:
    """Write a text file; readers see the old text or the new one, never half of it."""
    # Names of files may hold bytes that are no text; JSON reads them back in this form.
    write_bytes(path, text.encode(errors="backslashreplace"), parents)


def write_bytes(path: Path, content: bytes, parents: bool = True) -> None:
    """Write a file as :func:`atomic_path` does; readers see the old content or the new one, never half of it."""
    with atomic_path(path, parents) as temporary:
        temporary.write_bytes(content)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    r"""A table as CSV that a spreadsheet takes for nothing but numbers and texts.

    Parameters
    ----------
    rows
        Cells. Numbers, and texts that are numbers, stay as they are. In other texts control characters, and
        backslashes, become escapes such as ``\n``; before those that would begin a formula stands an apostrophe.
    """
    return "".join(",".join(map(_csv_cell, row)) + "\n" for row in rows)


def _csv_cell(value: object) -> str:
    text = str(value)
    if isinstance(value, str) and not _NUMBER.fullmatch(text):
        shown = (one if one.isprintable() and one != "\\" else one.encode("unicode_escape").decode() for one in text)
        text = "".join(shown)
        text = "'" * bool(_FORMULA.match(text)) + text
    # A semicolon separates cells where a comma is the decimal point.
    return '"{}"'.format(text.replace('"', '""')) if re.search('[",;|]', text) else text


def csv_name(cell: str) -> str:
    """The text from which :func:`csv_text` made a cell."""
    text = cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape")


def remove_leftovers(folder: Path, deep: bool = True) -> None:
    """Delete what writers that were killed left in a folder of this program's own; ``deep``: at any depth of it.

    Folders in it that have a mark for themselves are left alone: somebody may be at work there.
    """
    for where, folders, files in os.walk(folder):
        for leftover in (Path(where, name) for name in (*folders, *files) if LEFTOVER.fullmatch(name)):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            elif not leftover.is_symlink():
                leftover.unlink(missing_ok=True)
        if not deep:
            return
        folders[:] = [name for name in folders if not (LEFTOVER.fullmatch(name) or Path(where, name, MARK).exists())]


class Unrefused:
    """A file for libraries that crash where the system refuses to write, as HDF5 does while it closes.

    They are told that all is written; :func:`unrefused` then raises what was refused first. The file given is open for
    reading and writing, without a buffer.
    """

    def __init__(self, file: Any) -> None:
        self.refusal: BaseException | None = None
        self.seek, self.tell, self.readinto, self.flush = file.seek, file.tell, file.readinto, file.flush
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Read bytes."""
        return bytes(self._file.read(size))

    def write(self, content: Any) -> int:
        """Write all of a buffer, unless something has been refused."""
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left and self.refusal is None:
                left = left[self._file.write(left) :]
        except BaseException as error:  # an interrupt must not reach the library either
            self.refusal = error
        return size

    def truncate(self, size: int) -> int:
        """Change the size."""
        try:
            self._file.truncate(size)
        except BaseException as error:
            self.refusal = self.refusal or error
        return size

    def check(self) -> None:
        """Raise what has been refused."""
        if self.refusal is not None:
            raise self.refusal


@contextmanager
def unrefused(path: Path) -> Iterator[Unrefused]:
    """A new file that never refuses; what the system has refused is raised when the block ends, however it ends."""
    with path.open("w+b", buffering=0) as file:
        target = Unrefused(file)
        try:
            yield target
        finally:
            target.check()
