"""What images say of how they came about, and what the ones of a source are told apart by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sansref import __version__
from sansref.data.readers.dicom import series_of
from sansref.data.readers.dicom_headers import is_dicom
from sansref.data.readers.reader import FileInfo
from sansref.errors import FileError
from sansref.scan import ScanMeta

RESEARCH = "RESEARCH USE ONLY"
WARNING = f"{RESEARCH}: not for diagnostic use"
OF_SOURCE = "Units of the source file"
RELATIVE = "Relative grey values: each image has a scale of its own"
DEVIATIONS = "Standard deviations"
#: Files of which one is a header without data: the same header may stand beside other data.
PAIRS = {".hdr": ".cfl", ".cfl": ".hdr"}
PIECES, PIECE = 32, 256 << 10
"""How many pieces of a large file are looked at, from its head to its tail, and how many bytes each has."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """A trained method.

    Attributes
    ----------
    method
        As it is named on the command line.
    weights
        SHA-256 of the trained weights, hexadecimal.
    settings
        SHA-256 of the run's configuration.
    sampling
        How scans that come fully sampled are undersampled before they are reconstructed.
    unseen
        Whether the method is known to have learned from no scan that was undersampled so.
    noise
        What became of the noise of acquired samples, as a sentence; empty where the method has no say in it.
    shows
        What images show that do not show the object, such as "error bound", and empty for those that do.
    meaning
        A sentence that explains such images.
    units
        What their values are: ``OF_SOURCE``, or ``RELATIVE`` and ``DEVIATIONS`` where they are none of the source's.
    """

    method: str
    weights: str
    settings: str
    sampling: str
    unseen: bool = False
    noise: str = ""
    shows: str = ""
    meaning: str = ""
    units: str = OF_SOURCE

    @property
    def name(self) -> str:
        """Of the series, short enough to stand behind another name."""
        return " ".join(filter(None, ("sansref", self.method, self.shows, RESEARCH)))

    @property
    def brief(self) -> str:
        """What images are, in few words that begin with the weightiest."""
        units = self.units if self.units == RELATIVE else ""
        said = (f"{RESEARCH}, sansref", self.meaning, units, self.noise, f"Method {self.method}")
        return ". ".join(part.removesuffix(".") for part in said if part)

    def sentences(self, info: FileInfo, meta: ScanMeta) -> list[str]:
        """How the images of a file came about, of which ``meta`` is that of any scan."""
        said = [f"Reconstructed by sansref {__version__}, method {self.method}, weights {self.weights[:16]}."]
        if meta.synthetic:
            said.append("The k-space was synthetic: computed from magnitude images, not measured.")
        if meta.emulated:
            said.append(f"It was undersampled by software: {self.sampling}.")
            said += ["The method has never seen such a mask."] if self.unseen else []
        elif info.acquired_fraction is not None and info.acquired_fraction < 1:
            said.append(f"It was acquired undersampled, {1 / info.acquired_fraction:.3g}x.")
        said += [f"{self.units}."] if self.units == RELATIVE else []
        return [*([self.meaning] if self.shows else []), *said, *filter(None, [self.noise]), f"{WARNING}."]


def files_behind(path: Path) -> tuple[Path, ...]:
    """The files that a scan is read from, of which ``path`` is one: a DICOM series, a pair, or it alone.

    Raises ``FileError`` if it is DICOM that cannot be read.
    """
    if is_dicom(path):
        return series_of(path).files
    other = path.with_suffix(PAIRS.get(path.suffix, path.suffix))
    return (path, other) if other != path and other.is_file() else (path,)


def file_digest(path: Path) -> str:
    """SHA-256 of the content of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 of the contents of files, whatever their names, hexadecimal."""
    return hashlib.sha256("".join(sorted(map(file_digest, paths))).encode()).hexdigest()


def contents(path: Path) -> str:
    """The :func:`fingerprint` of a file; of a folder, that of all of its files and their places in it."""
    if not path.is_dir():
        return fingerprint(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    told = "".join(f"{file.relative_to(path).as_posix()} {fingerprint(file)}\n" for file in files)
    return hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()[:32]


def fingerprint(path: Path) -> str:
    """What a scan is known again by: its content, whatever its name and place, hexadecimal.

    Size and bytes of all files that it is read from; of a file above 8 MiB, 32 pieces from its head to its tail. A file
    that has not changed since is not read again by this process. Raises ``FileError`` if a file cannot be read.
    """
    try:
        found = []
        for file in files_behind(path):
            state = file.stat()
            # The time of the last change of any kind cannot be set, as that of the content can.
            found.append(_content(file.resolve(), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", "Check the path and its permissions") from None
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()[:32]


@lru_cache(maxsize=1 << 17)
def _content(path: Path, size: int, *state: int) -> str:
    """Of one file; ``state`` changes whenever the file does."""
    found = hashlib.sha256(f"{size}:".encode())
    whole = size <= PIECES * PIECE
    with path.open("rb") as file:
        for number in range(1 if whole else PIECES):
            file.seek(0 if whole else number * (size - PIECE) // (PIECES - 1))
            found.update(file.read(size if whole else PIECE))
    return found.hexdigest()
