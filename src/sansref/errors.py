"""The errors a user can meet, and how words for users are set.

Each is one line that names the input and the cure. The command line prints it and leaves with exit
code 2; anything that is not one of these is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Self


def printable(text: str) -> str:
    """One line that any terminal can show, from text that a damaged file may have filled with anything."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def told(row: tuple[str, str]) -> str:
    """A name and its value as one line."""
    return f"{row[0]:<16}{printable(row[1])}"


def did_you_mean(word: str, names: Iterable[str], cure: str = "", dashes: str = "") -> str:
    """The end of a message about an unknown word: what it may have been meant for, and the cure.

    Parameters
    ----------
    word
        As the user wrote it.
    names
        What is known. A name is near if it ends in the word after a dot, is spelled or begins much like it, or has
        its letters as initials (``lr``).
    cure
        What the user can do in any case, as a sentence that begins small and has no full stop.
    dashes
        What is written in front of names.
    """

    def plain(name: str) -> str:
        return name.lower().replace("-", "_")

    known, asked = {plain(name): name for name in names}, plain(word)
    near = [name for name in known if name == asked or name.endswith(f".{asked}")]
    if len(asked) > 1:
        near = near or [name for name in known if name.startswith(asked)][:3]
    near = near or get_close_matches(asked, known, n=1)
    if len(asked) > 1:
        near = near or [
            name for name in known if "_" in name and "".join(part[:1] for part in name.split("_")) == asked
        ]
        begins = {name[: len(asked)]: name for name in known}
        near = near or [begins[one] for one in get_close_matches(asked, begins, n=1, cutoff=0.75)]
    if near:
        meant = " or ".join(f"{dashes}{known[name]}" for name in near)
        return f": did you mean {meant}?" + (f" {cure[0].upper()}{cure[1:]}" if cure else "")
    return f": {cure}" if cure else ""


class SansrefError(Exception):
    """Base of every error that a user, not a bug, can cause.

    Attributes
    ----------
    skipped
        What is wrong with the files that had been left out before.
    """

    skipped: Sequence[FileError] = ()

    def after(self, skipped: Sequence[FileError]) -> Self:
        """The same error, once these files had been left out; the command line lists them first."""
        self.skipped = skipped
        return self


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

    Attributes
    ----------
    one_of_many
        Whether it stops the work on other files as well, which could go on without it.
    """

    one_of_many = False

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


def options_named(names: Iterable[str]) -> str:
    """Options as they are given on the command line, one after the other."""
    return ", ".join(f"--{name}" for name in names)


UNTRAINED = {
    "l1_wavelet": "'sansref evaluate RUN --data DIR --classical l1_wavelet' and comparisons",
    "total_variation": "'sansref evaluate RUN --data DIR --classical total_variation' and comparisons",
    **dict.fromkeys(("non_local_means", "zero_filled", "zero_filled_best_scale"), "comparisons"),
}
"""Methods that learn nothing, and what has them."""


def no_method(name: str, methods: Iterable[str]) -> SettingError:
    """The error for a method that is none of those that learn."""
    if name in UNTRAINED:
        return SettingError(f"the method {name!r} learns nothing, and is not trained: it stands in {UNTRAINED[name]}")
    cure = f"use one of {', '.join(methods)}, or module:Class for one of your own"
    return SettingError(f"there is no method {name!r}{did_you_mean(name, methods, cure)}")
