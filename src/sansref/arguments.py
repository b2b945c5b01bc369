"""Options of the command line: how they are parsed, and what is said where one is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from sansref.errors import SettingError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def new_parser(name: str, command: Callable[[list[str]], None]) -> ArgumentParser:
    """A parser of the command's options, described as the command is."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=name, description=command.__doc__, exit_on_error=False, allow_abbrev=False)


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parse, taking dashes in option names for underscores.

    Raises
    ------
    SettingError
        One line for whatever is wrong with the options.
    """
    from jsonargparse import ArgumentError

    named = [re.sub(r"^--[\w.-]+", lambda found: "--" + found[0][2:].replace("-", "_"), word) for word in arguments]
    try:
        return parser.parse_args(named)
    except (ArgumentError, UnicodeDecodeError) as error:
        raise SettingError(f"{_in_one_line(str(error))} (see '{parser.prog} --help')") from None


def _in_one_line(message: str) -> str:
    """What jsonargparse says over several lines, without its type names."""
    text = re.sub(r"<class '(\w+)'>", r"\1", " ".join(message.split()))
    text = re.sub(r"Does not .*?Subtypes: \[(.*), NoneType\] .*Given value: ", r"takes \1 or null, not ", text)
    text = text.replace("Expected a ", "takes ").replace("typing.Literal", "one of ").replace(". Got value: ", ", not ")
    return re.sub(r'^Parser key "([\w.]+)"[^:]*: ', r"--\1 ", text)


def with_presets(arguments: list[str]) -> list[str]:
    """Replace ``--config NAME`` of a packaged preset by its file.

    Raises
    ------
    SettingError
        If there is neither a file nor a preset of that name.
    """
    from sansref.presets import preset_file

    resolved: list[str] = []
    for position, word in enumerate(arguments):
        after_config = position > 0 and arguments[position - 1] == "--config"
        if after_config:
            word = str(preset_file(word))
        elif word.startswith("--config="):
            word = f"--config={preset_file(word.removeprefix('--config='))}"
        resolved.append(word)
    return resolved
