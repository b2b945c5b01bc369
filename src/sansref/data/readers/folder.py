"""The scan files of a folder, and what is wrong with those that cannot be used."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from sansref.data.readers.dicom import first_files
from sansref.data.readers.formats import FORMATS, open_scan_file
from sansref.data.readers.reader import BY_PATIENT, BY_STUDY, FileInfo, ImageSlice, ReaderOptions
from sansref.data.readers.subjects import ends_with_contrast, names_labels, with_subjects
from sansref.errors import FileError

TABLES_AND_TEXT = frozenset(
    (".json", ".tsv", ".csv", ".txt", ".log", ".md", ".rst", ".html", ".htm", ".pdf", ".yaml", ".yml", ".xml", ".cff")
)
PICTURES_AND_CODE = frozenset((".png", ".jpg", ".jpeg", ".gif", ".svg", ".py", ".m", ".sh", ".ipynb"))
OFFICE = frozenset((".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".odt", ".ods", ".odp", ".rtf"))
#: What comes with the scans on a hospital's disc: a viewer, what starts it, and what Windows leaves in folders.
PROGRAMS = frozenset((".inf", ".ini", ".exe", ".dll", ".ocx", ".jar", ".chm", ".msi", ".bat", ".cmd", ".lnk", ".url"))
OF_PROGRAMS = frozenset((".db", ".bmp", ".ico", ".js", ".css", ".config", ".manifest", ".properties"))
#: Files that lie beside scans and hold none.
BESIDE = TABLES_AND_TEXT | PICTURES_AND_CODE | OFFICE | PROGRAMS | OF_PROGRAMS | {".bval", ".bvec", ".lock"}
BESIDE_NAMES = frozenset(("README", "LICENSE", "LICENCE", "CHANGES", "CITATION", "MD5SUMS", "SHA256SUMS"))

MOST_LEVELS = 24
"""Of whole numbers in a label map's slices; an image of 8 bits has ten times as many."""


def find_files(folder: Path) -> list[Path]:
    """List, sorted, the files at any depth of a folder that may hold scans.

    Hidden files and folders, and files that usually lie beside scans (``README``, ``.json``, ``.lock``, pictures, a
    disc's viewer, empty marks such as ``LOCKFILE``, ...), are passed over. Links are followed, each folder once. A
    DICOM series is listed by its first file, BART's pair by its ``.cfl``. Raises ``FileError`` if the folder does not
    exist, is a file, may not be listed or holds no such file.
    """
    if not folder.exists():
        raise FileError(folder, "does not exist", "Check the spelling of the path")
    if not folder.is_dir():
        raise FileError(folder, "is a file, not a folder", "Give the folder that holds it")
    files: list[Path] = []
    visited = {folder.resolve()}

    def refuse(error: OSError) -> None:
        problem = f"may not be listed ({error.strerror})"
        raise FileError(error.filename or folder, problem, "Ask for permission to read it") from error

    for where, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        # Folders before links to them, whatever their order on the disk: a path may tell the person.
        folders.sort(key=lambda name: (Path(where, name).is_symlink(), name))
        folders[:] = [name for name in folders if not name.startswith(".") and _is_new(Path(where, name), visited)]
        beside = {name for name in names if _lies_beside(name, names) or _is_mark(Path(where, name))}
        files += [Path(where, name) for name in names if name not in beside]
    files = first_files(sorted(files))
    if not files:
        raise FileError(folder, "holds no scan file", f"Give a folder of {FORMATS}")
    return files


def one_scan(path: Path) -> Path:
    """The scan that a path names: the file itself, or the only scan of a folder, such as a DICOM series.

    Raises ``FileError`` if a folder holds none, or several.
    """
    if not path.is_dir():
        return path
    found = find_files(path)
    first, *others = [file for file in found if not names_labels(file, path)] or found
    if others:
        raise FileError(path, f"holds {1 + len(others)} scans, not one", f"Give one of them, such as {first}")
    return first


@dataclass(frozen=True)
class ScanFiles:
    """The scan files of a folder, or one file: descriptions of what can be used, sorted by path, each with its subject.

    ``bad`` tells what is wrong with the others; ``labels`` are label maps and masks, which are left out.
    """

    files: list[FileInfo]
    bad: list[FileError] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)

    @property
    def left_out(self) -> str | None:
        """One line on label maps and masks, None without any."""
        if not self.labels:
            return None
        names = ", ".join(path.name for path in self.labels[:3]) + (", ..." if len(self.labels) > 3 else "")
        return f"{len(self.labels)} label map(s) or mask(s), not images to learn from: {names}"


def scan_files(
    data: Path, options: ReaderOptions | None = None, *, skip_bad: bool = False, home: Path | None = None
) -> ScanFiles:
    """Describe one file, or every scan file at any depth of a folder but label maps and masks, and say whose they are.

    With ``skip_bad``, what is wrong with files that cannot be used is collected. Where ``data`` lies inside ``home``,
    all files of that folder together tell whose those of ``data`` are. Raises ``FileError`` if a file cannot be used
    and ``skip_bad`` is False, or if none can; if the only file is a label map by its name; or where no rule says for
    sure whose the files are.
    """
    options = options or ReaderOptions()
    if home is not None and home.is_dir() and data.exists() and home.resolve() in data.resolve().parents:
        # Files of ``data``, named as those of the whole folder are.
        inside = scan_files(data, replace(options, subject_from="file"), skip_bad=skip_bad)
        whole = {info.path.resolve(): info for info in scan_files(home, options, skip_bad=True).files}
        pairs = [(info, whole.get(info.path.resolve(), info)) for info in inside.files]
        files = [
            replace(info, subject=as_there.subject, recognised_by=as_there.recognised_by) for info, as_there in pairs
        ]
        return replace(inside, files=files)
    if not data.is_dir() and data.exists():
        info = open_scan_file(data, options).describe(data)
        if names_labels(data) and info.kind == "magnitude":
            raise FileError(data, "is a label map or a mask, judging by its name", "Give the image that it belongs to")
        return ScanFiles(with_subjects([info], data.parent, options.subject_from))
    infos: list[FileInfo] = []
    problems: list[FileError] = []
    labels: list[Path] = []
    paths = find_files(data)
    for path in paths:
        try:
            info = open_scan_file(path, options).describe(path)
        except FileError as error:
            if names_labels(path, data):
                labels.append(path)
                continue
            if not skip_bad:
                error.one_of_many = len(paths) > 1
                raise
            problems.append(error)
        else:
            labels.append(path) if is_label_map(info, options, data) else infos.append(info)
    if not infos and not problems:
        raise FileError(data, f"holds only label maps and masks ({labels[0].name}, ...)", "Give images or k-space")
    if not infos:
        first = problems[0]
        problem = f"holds {len(problems)} files, none of them usable; the first, {first.path}, {first.problem}"
        raise FileError(data, problem, first.cure).after(problems)
    return ScanFiles(with_subjects(infos, data, options.subject_from), problems, labels)


def scan_folder(
    folder: Path, options: ReaderOptions | None = None, *, skip_bad: bool = False
) -> tuple[list[FileInfo], list[FileError]]:
    """Describe every scan file of a folder: the first two parts of what :func:`scan_files` gives.

    Raises ``FileError`` as there, or if it is a file.
    """
    find_files(folder)
    found = scan_files(folder, options, skip_bad=skip_bad)
    return found.files, found.bad


def is_label_map(info: FileInfo, options: ReaderOptions | None = None, root: Path | None = None) -> bool:
    """Whether a file of magnitudes is a label map or a mask, by its name, or by whole numbers of few levels.

    ``root`` is the folder below which names of folders count too.
    """
    if info.kind != "magnitude":
        return False
    if names_labels(info.path, root):
        return True
    # DICOM says what it is, and is long to read; so does a name that ends with a contrast.
    if info.recognised_by in (BY_PATIENT, BY_STUDY) or ends_with_contrast(info.path):
        return False
    places = sorted({info.slices // 4, info.slices // 2, 3 * info.slices // 4})
    levels = Tensor()
    try:
        for item in open_scan_file(info.path, options).read(info.path, places):
            assert isinstance(item, ImageSlice)
            levels = torch.unique(torch.cat([levels, item.image.flatten()]))
            if len(levels) > MOST_LEVELS or not torch.equal(levels, levels.round()):
                return False
    except FileError:  # told where it is read to be used
        return False
    return len(levels) > 1


def _is_new(folder: Path, visited: set[Path]) -> bool:
    """Whether a folder has not been walked yet; links may form a circle."""
    before = len(visited)
    visited.add(folder.resolve())
    return len(visited) > before


def _lies_beside(name: str, files: list[str]) -> bool:
    path = Path(name)
    header_of_bart = path.suffix == ".hdr" and f"{path.stem}.cfl" in files
    return name[0] == "." or path.suffix.lower() in BESIDE or path.stem.upper() in BESIDE_NAMES or header_of_bart


def _is_mark(path: Path) -> bool:
    """Whether a file says something by its mere being there; one with a number may be a scan that was lost."""
    name = path.name
    return "." not in name and not any(map(str.isdigit, name)) and path.is_file() and path.stat().st_size == 0
