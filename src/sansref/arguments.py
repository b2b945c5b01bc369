"""Options of the command line: how they are parsed, and what is said where one is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sansref.errors import FileError, SettingError, did_you_mean
from sansref.training.config import checked, choices, holds_numbers, in_words

if TYPE_CHECKING:
    from argparse import Action
    from pathlib import Path

    from jsonargparse import ArgumentParser, Namespace


def new_parser(name: str, command: Callable[[list[str]], None]) -> ArgumentParser:
    """A parser of the command's options, described as the command is."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=name, description=command.__doc__, exit_on_error=False, allow_abbrev=False)


def parse(parser: ArgumentParser, arguments: list[str], elsewhere: Mapping[str, str] | None = None) -> Namespace:
    """Parse; dashes in names are underscores, ``128,128`` is two numbers, and presets are taken for their files.

    Parameters
    ----------
    parser
        Parser of the command.
    arguments
        What follows the command's name.
    elsewhere
        Options that other commands or methods have, and which; for the message.

    Raises
    ------
    SettingError
        One line for whatever is wrong with the options.
    FileError
        One line for whatever is wrong with a file of ``--config``.
    """
    from jsonargparse import ArgumentError

    words = _Words(parser, elsewhere or {})
    named = [re.sub(r"^--[\w.-]+", lambda found: "--" + found[0][2:].replace("-", "_"), word) for word in arguments]
    try:
        return parser.parse_args(words.readied(named))
    except (ArgumentError, UnicodeDecodeError) as error:
        raise SettingError(f"{words.in_one_line(str(error), named)} (see '{parser.prog} --help')") from None


class _Words:
    """The words of one command line, by what its parser knows."""

    def __init__(self, parser: ArgumentParser, elsewhere: Mapping[str, str]) -> None:
        self.elsewhere = elsewhere
        self.options: dict[str, Action] = {
            name.removeprefix("--"): action for action in parser._actions for name in action.option_strings
        }
        self.places = {action.dest: action for action in parser._actions}
        self.groups = {name.partition(".")[0] for name in self.options if "." in name}

    def readied(self, words: list[str]) -> list[str]:
        """The same words with pairs of numbers as lists, and with settings in the place of the files that hold them."""
        ready: list[str] = []
        option = ""
        for word in words:
            name, equals, value = word.partition("=")
            if name.startswith("--") and equals:
                ready.append(f"{name}={self._readied(name[2:], value)}")
            else:
                ready.append(self._readied(option, word) if option else word)
            option = word[2:] if word.startswith("--") and not equals else ""
        return ready

    def _readied(self, option: str, value: str) -> str:
        if option == "config" and option in self.options:
            return self._settings(value)
        numbers = re.sub(r"(?<=\d)\s*[x,]\s*(?=\d)", ",", value)
        return f"[{numbers}]" if self._takes_numbers(option) and re.fullmatch(r"\d+(,\d+)+", numbers) else value

    def _takes_numbers(self, option: str) -> bool:
        return option in self.options and holds_numbers(_hint(self.options[option]))

    def _settings(self, name: str) -> str:
        """What a configuration says, as JSON, checked so that a message can name the file."""
        from sansref.presets import preset_file
        from sansref.yaml_json import read_yaml

        path = preset_file(name)
        values = read_yaml(path)
        if values.get("kind") == "comparison" or "extends" in values:
            raise FileError(path, "is the plan of a comparison", f"Use 'sansref compare {name} --data DIR --out OUT'")
        try:
            return json.dumps(dict(self._checked(path, values)), default=str)
        except SettingError as error:
            raise SettingError(f"{path}: {error}") from None

    def _checked(self, path: Path, values: Mapping[Any, Any], group: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            name = f"{group}{key}"
            if name in self.groups:
                if not isinstance(value, Mapping):
                    raise SettingError(f"{name} must hold settings such as 'phases: 9', got {value!r}")
                yield name, dict(_nested(name, self._checked(path, value, f"{name}.")))
            elif name not in self.options or name in ("config", "help", "print_config"):
                raise SettingError(f"there is no setting {name!r}{self._instead(name, '')}")
            else:
                yield name, checked(name, value, _hint(self.options[name]))

    def _instead(self, name: str, dashes: str = "--") -> str:
        """What may have been meant by an unknown option."""
        if name in self.elsewhere:
            return f" here: it is an option of {self.elsewhere[name]}"
        return did_you_mean(name, [option for option in self.options if len(option) > 1], dashes=dashes)

    def in_one_line(self, message: str, words: list[str]) -> str:
        """What jsonargparse says over several lines with the names of its types, in words."""
        text = " ".join(message.split())
        if found := re.match(r"unrecognized arguments: (.*)", text):
            return self._unknown(found[1].split(" ")[0].partition("=")[0], words)
        if found := re.match(r"the following arguments are required: (.*)", text):
            names = (f"--{name}" if name in self.options else name.upper() for name in found[1].split(", "))
            return f"these are missing: {', '.join(names)}"
        if found := re.match(r"argument (\S+): expected .*argument", text):
            hint = _hint(self.options[found[1].split("/")[0].removeprefix("--")])
            return f"{found[1]} needs a value" + (f": {in_words(hint)}" if hint else "")
        if found := re.match(r'Parser key "([\w.]+)".*?(?:Got value|Given value): (.*)$', text):
            name, value = found[1], found[2]
            action = self.places[name]
            called = f"--{name}" if action.option_strings else name.upper()
            hint = _hint(action)
            return f"{called} takes {in_words(hint)}, not {value}{did_you_mean(value, choices(hint))}"
        if (found := re.match(r'Parser key "(\w+)"', text)) and found[1] in self.groups:
            inner = next(name for name in self.options if name.startswith(f"{found[1]}."))
            return f"--{found[1]} is a group of settings: give them one by one, such as --{inner}"
        return text

    def _unknown(self, word: str, words: list[str]) -> str:
        if word.startswith("-"):
            return f"there is no option {word}{self._instead(word.lstrip('-'))}"
        before = words[words.index(word) - 1] if word in words[1:] else ""
        flag = self.options.get(before.removeprefix("--")) if before.startswith("--") else None
        if flag is not None and flag.nargs == 0:
            return f"{before} takes no value, but {word!r} follows it"
        example = f", as in --data {word}" if "data" in self.options else ""
        return f"{word!r} is one word too many: options begin with their names{example}"


def _hint(action: Action) -> Any:
    return getattr(action, "_typehint", None) or action.type


def _nested(group: str, settings: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    return ((name.removeprefix(f"{group}."), value) for name, value in settings)
