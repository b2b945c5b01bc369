"""HDF5 files that others have made: what they may open, and how far they are walked.

A file may name other files by external links, as the sources of virtual datasets, or as external storage, and the
library opens whatever is named: another person's scan, or a pipe that never answers. Here only regular files in the
same folder are opened, as the parts are of a dataset that a site has split. Rules of the search for them:
https://support.hdfgroup.org/documentation/hdf5/latest/ (H5Lcreate_external, H5Pset_virtual, H5Pset_external).
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sansref.errors import FileError, printable

SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Groups and arrays of a file, and files that it names; far more than scans have.
MOST_OBJECTS = 20_000
DEEPEST = 64
#: What MATLAB's cells refer to, often millions of objects, stands in groups of such names and is never read.
HIDDEN = "#"


def is_hdf5(path: Path) -> bool:
    """Whether a file has HDF5's signature, at its beginning or after a block of another program; without libhdf5."""
    with path.open("rb") as file:
        for place in (0, *(512 << step for step in range(8))):
            file.seek(place)
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return True
    return False


def open_hdf5(path: Path) -> Any:
    """Open a file for reading with h5py, after a look at what it would open itself.

    Raises ``FileError`` if it names another file than a regular one in its folder, or one that does not exist; if it
    holds more objects, or nests them deeper, than scans do; and whatever h5py makes of damaged bytes.
    """
    import h5py

    file = h5py.File(path)
    try:
        for _ in objects_of(path, file):
            pass
    except BaseException:
        file.close()
        raise
    return file


def objects_of(path: Path, file: Any) -> Iterator[tuple[str, Any]]:
    """Names and objects (groups and datasets) of an open file, each once, the root first under the name ``""``.

    Raises ``FileError`` as for :func:`open_hdf5`.
    """
    yield from _Walk(path).file(path, file)


def is_one_text(stored: Any) -> bool:
    """Whether a dataset or attribute is a single string.

    To be asked before its content is read: HDF5 crashes when a damaged type makes it something else.
    """
    import h5py

    return h5py.check_string_dtype(stored.dtype) is not None and math.prod(stored.shape) == 1


def text_of(value: Any) -> str:
    """A string that h5py has read, whatever its bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def bytes_behind(dataset: Any) -> int:
    """Bytes of all files that a dataset of a checked file is kept in."""
    own = Path(dataset.file.filename)
    names = {source.file_name for source in dataset.virtual_sources()} if dataset.is_virtual else set()
    names |= {name for name, _, _ in dataset.external or ()}
    files = {own} | {own.parent / name for name in names if name != "."}
    return sum(file.stat().st_size for file in files if file.is_file())


@dataclass
class _Walk:
    """Walks through a file and those that it names, each object once; ``path`` is blamed."""

    path: Path
    files: set[str] = field(default_factory=set)
    seen: set[tuple[int, Any]] = field(default_factory=set)

    def file(self, path: Path, file: Any) -> Iterator[tuple[str, Any]]:
        self.files.add(str(path.absolute()))
        self.seen.add(_identity(file["/"]))
        yield "", file["/"]
        yield from self._members(path, file["/"], "", 0)

    def _members(self, path: Path, group: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
        import h5py

        if depth > DEEPEST:
            raise FileError(self.path, f"nests groups more than {DEEPEST} deep", "Export the array that is meant")
        for member in group:
            if not depth and member.startswith(HIDDEN):
                continue
            name, home = f"{prefix}{member}", path
            link = group.get(member, getlink=True)
            if isinstance(link, h5py.SoftLink):
                self._check_open(name, link.path)
                continue
            if isinstance(link, h5py.ExternalLink):
                self._check_open(name, link.path)
                home = self._beside(path, name, link.filename)
                self._check_file(home)
            item = group[member]
            if (identity := _identity(item)) in self.seen:
                continue
            self.seen.add(identity)
            if len(self.seen) > MOST_OBJECTS:
                problem = f"holds more than {MOST_OBJECTS} groups and arrays"
                raise FileError(self.path, problem, "Export the array that is meant")
            if isinstance(item, h5py.Dataset):
                self._check_storage(home, name, item)
            yield name, item
            if isinstance(item, h5py.Group):
                yield from self._members(home, item, f"{name}/", depth + 1)

    def _check_open(self, name: str, target: str) -> None:
        """Refuse a way into hidden groups: these are not walked through, and may lead anywhere."""
        if any(group.startswith(HIDDEN) for group in target.split("/")):
            problem = f"points with '{printable(name)[:80]}' to what MATLAB keeps for itself"
            raise FileError(self.path, problem, "Export the array that is meant")

    def _check_storage(self, path: Path, name: str, dataset: Any) -> None:
        if dataset.is_virtual:
            for source in dataset.virtual_sources():
                self._check_source(path, name, dataset, source)
        for stored, offset, size in dataset.external or ():
            # Unlike for links, the library looks for it in the working directory.
            file = self._beside(path, name, str(Path(stored).absolute()))
            if offset + min(size, dataset.nbytes) > file.stat().st_size:
                problem = f"keeps '{printable(name)[:80]}' in {printable(stored)}, which is too short"
                raise FileError(self.path, problem, "Copy it again")

    def _check_source(self, path: Path, name: str, dataset: Any, source: Any) -> None:
        import h5py

        self._check_open(name, source.dset_name)
        # The library fills up with zeros what it does not find.
        if source.file_name == ".":
            there = source.dset_name in dataset.file
        else:
            self._check_file(beside := self._beside(path, name, source.file_name))
            with h5py.File(beside) as file:
                there = source.dset_name in file
        if not there:
            problem = (
                f"puts '{printable(name)[:80]}' together from '{printable(source.dset_name)}', which does not exist"
            )
            raise FileError(self.path, problem, "Copy all of its parts")

    def _check_file(self, path: Path) -> None:
        import h5py

        if str(path.absolute()) not in self.files:
            with h5py.File(path) as file:
                for _ in self.file(path, file):
                    pass

    def _beside(self, path: Path, name: str, target: str) -> Path:
        """The file that is named, which must be a regular one in the folder of ``path``, by no detour."""
        base, folder = target.rsplit("/", 1)[-1], path.absolute().parent
        plain = (base, f"./{base}", str(folder / base), str(folder.resolve() / base))
        found = folder / base
        # A name with % stands for many files.
        if base and "%" not in base and target in plain and _is_regular(found):
            return found
        problem = (
            f"keeps '{printable(name)[:80]}' in {printable(target)[:200]}, which is not a regular file in its folder"
        )
        raise FileError(self.path, problem, "Put all of its files into one folder, or copy what is meant into one file")


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def _identity(item: Any) -> tuple[int, Any]:
    import h5py

    info = h5py.h5o.get_info(item.id)
    return info.fileno, info.addr
