"""The scan files of a folder, and what is wrong with those that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

from sansref.data.readers.dicom_series import first_files
from sansref.data.readers.formats import FORMATS, open_scan_file
from sansref.data.readers.record import FileInfo, ReaderOptions
from sansref.errors import FileError

TABLES_AND_TEXT = frozenset(
    (".json", ".tsv", ".csv", ".txt", ".log", ".md", ".rst", ".html", ".htm", ".pdf", ".yaml", ".yml", ".xml", ".cff")
)
PICTURES_AND_CODE = frozenset((".png", ".jpg", ".jpeg", ".gif", ".svg", ".py", ".m", ".sh", ".ipynb"))
#: Files that lie beside scans and hold none.
BESIDE = TABLES_AND_TEXT | PICTURES_AND_CODE | {".bval", ".bvec"}
BESIDE_NAMES = frozenset(("README", "LICENSE", "LICENCE", "CHANGES", "CITATION", "MD5SUMS", "SHA256SUMS"))


def find_files(folder: Path) -> list[Path]:
    """List, sorted, the files at any depth of a folder that may hold scans.

    Hidden files and folders, and files that usually lie beside scans (``README``, ``.json``, ``.tsv``, images, ...),
    are passed over. Links are followed, each folder once. A DICOM series is listed by its first file, BART's
    pair by its ``.cfl``.

    Raises
    ------
    FileError
        If the folder does not exist, is a file, may not be listed or holds no such file.
    """
    if not folder.exists():
        raise FileError(folder, "does not exist", "Check the spelling of the path")
    if not folder.is_dir():
        raise FileError(folder, "is a file, not a folder", "Give the folder that holds it")
    found: list[Path] = []
    visited = {folder.resolve()}

    def refuse(error: OSError) -> None:
        problem = f"may not be listed ({error.strerror})"
        raise FileError(error.filename or folder, problem, "Ask for the right to read it") from error

    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and _is_new(Path(place, name), visited)]
        found += [Path(place, name) for name in files if not _lies_beside(name, files)]
    found = first_files(sorted(found))
    if not found:
        raise FileError(folder, "holds no scan file", f"Give a folder of {FORMATS}")
    return found


def scan_folder(
    folder: Path, options: ReaderOptions | None = None, *, skip_bad: bool = False
) -> tuple[list[FileInfo], list[FileError]]:
    """Describe every scan file of a folder.

    Parameters
    ----------
    folder
        Searched at any depth.
    options
        How files are read.
    skip_bad
        Collect what is wrong with files that cannot be used, rather than raise the first.

    Returns
    -------
    tuple
        Descriptions of the usable files, sorted by path, and the errors of the others.

    Raises
    ------
    FileError
        If a file cannot be used and ``skip_bad`` is False, or if none can.
    """
    infos: list[FileInfo] = []
    problems: list[FileError] = []
    for path in find_files(folder):
        try:
            infos.append(open_scan_file(path, options).describe(path))
        except FileError as error:
            if not skip_bad:
                raise
            problems.append(error)
    if not infos:
        first = problems[0]
        problem = f"holds {len(problems)} files, none of them usable; the first, {first.path}, {first.problem}"
        raise FileError(folder, problem, first.cure)
    return infos, problems


def _is_new(folder: Path, visited: set[Path]) -> bool:
    """Whether a folder has not been walked yet; links may form a circle."""
    target = folder.resolve()
    if target in visited:
        return False
    visited.add(target)
    return True


def _lies_beside(name: str, files: list[str]) -> bool:
    path = Path(name)
    header_of_bart = path.suffix == ".hdr" and f"{path.stem}.cfl" in files
    return name.startswith(".") or path.suffix.lower() in BESIDE or path.stem.upper() in BESIDE_NAMES or header_of_bart
