"""The errors a user can meet.

Each is one line that names the input and the cure. The command line prints it and leaves with exit
code 2; anything that is not one of these is a bug and keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path


def printable(text: str) -> str:
    """One line that any terminal can show, from text that a damaged file may have filled with anything."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


class SansrefError(Exception):
    """Base of every error that a user, not a bug, can cause."""


class FileError(SansrefError):
    """A file cannot be used.

    Parameters
    ----------
    path
        The file at fault.
    problem
        What is wrong with it, as the end of a sentence ("is truncated").
    cure
        What the user can do about it, as a sentence without a final full stop.
    """

    def __init__(self, path: str | Path, problem: str, cure: str) -> None:
        super().__init__(f"{path}: {problem}. {cure}.")
        self.path = Path(path)
        self.problem = problem
        self.cure = cure

    def __reduce__(self) -> tuple[type[FileError], tuple[Path, str, str]]:
        """Three parts make it again in another process, not its one text."""
        return type(self), (self.path, self.problem, self.cure)


class SettingError(SansrefError):
    """A setting is impossible or contradicts another one."""


class SizeError(SettingError):
    """A setting that scans of another size would allow."""


class TrainingError(SansrefError):
    """Training cannot go on (NaN, no usable scan); the last good checkpoint is kept."""
