"""What is wrong with a command line, as far as it can be told before PyTorch, which takes seconds, is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise, takewhile
from pathlib import Path

from sansref.errors import FileError, SettingError, did_you_mean
from sansref.presets import preset_file

#: Options that name something to be read.
PLACES = ("data", "undersampled", "full")
#: Methods that learn from one folder alone.
OF_UNDERSAMPLED = ("idr", "ssdu", "supervised")


def check_early(command: str, words: Sequence[str], methods: Iterable[str]) -> None:
    """Refuse a path that does not exist, and a preset or method that is not known.

    What passes may still be wrong: the parser of the command looks at everything.

    Parameters
    ----------
    command
        Its name.
    words
        What follows it on the command line.
    methods
        Names of the methods of this package.

    Raises
    ------
    FileError
        If something that is to be read does not exist, or is no run.
    SettingError
        If there is no such preset or method.
    """
    first = list(takewhile(lambda word: not word.startswith("-"), words))  # words behind an option may be its values
    if command == "train" and not first:
        return
    own = command == "train" and ":" in first[0]
    if command == "train" and not own and first[0] not in methods:
        cure = f"use one of {', '.join(methods)}, or module:Class for one of your own"
        raise SettingError(f"there is no method {first[0]!r}{did_you_mean(first[0], methods, cure)}")
    if command == "compare" and first:
        preset_file(first[0])
    given = {name: value for name, value in pairwise(words) if not value.startswith("-")}
    given |= {name: value for name, equals, value in (word.partition("=") for word in words) if equals}
    if "--config" in given:
        preset_file(given["--config"])
    options = {name.removeprefix("--") for name in given if name.startswith("--")}
    if command == "evaluate" and not ("data" in options and options <= {*PLACES, "out"}):
        return  # the value of another option may be wrong as well, and comes first
    if command == "train" and first[0] in OF_UNDERSAMPLED:
        options -= {"undersampled", "full"}  # are none of theirs, which comes first
    for name in options & {*PLACES}:
        if (value := given[f"--{name}"]) != "null":
            check_place(Path(value))
    if command == "evaluate" and first:
        check_run(Path(first[0]), [Path(given["--data"])])


def check_run(run: Path, others: Iterable[Path] = ()) -> None:
    """Refuse a run that is none; not where another path is one, for the two may have changed places.

    Raises
    ------
    FileError
        If it is none.
    """
    if not any((path / "config.yaml").exists() for path in (run, *others)):
        cure = "Give a directory that 'sansref train' has written"
        raise FileError(run, "is not a run directory (no config.yaml)", cure)


def check_place(place: Path) -> None:
    """Refuse what does not exist.

    Raises
    ------
    FileError
        If there is neither a file nor a folder nor a link.
    """
    if not place.exists() and not place.is_symlink():
        raise FileError(place, "does not exist", "Check the spelling of the path")
