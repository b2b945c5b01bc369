"""Settings from command lines and from YAML: jsonargparse checks them, and one line says what is wrong."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from sansref.errors import FileError, SettingError, did_you_mean
from sansref.presets import preset_file
from sansref.yaml_json import read_yaml

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

ALIASES = {
    **{"data": "data.folder", "undersampled": "data.folder", "full": "data.full"},
    **{"maps": "data.maps", "crop": "data.crop", "seed": "training.seed", "method": "method.name"},
}
"""Short names of settings whose last part several groups have; for the others it is enough by itself."""

COMMON = (
    *("data", "full", "out", "config", "mask", "acceleration", "slices", "matrix", "axes", "stages"),
    *("epochs", "batch_size", "learning_rate", "validation", "test", "seed", "accelerator", "devices", "dry_run"),
    *("minutes", "start", "format", "error_map", "bound"),
)
"""Short names of the options of a training that ``--help`` shows."""

HIDDEN = "==SUPPRESS=="
"""Help of an option that is not shown, as argparse has it."""

LARGEST = 2**53
"""Largest whole number that is taken; up to it all are exact as floating point numbers, too."""


def new_parser(name: str, about: str | None) -> ArgumentParser:
    """A parser of a command's options.

    Parameters
    ----------
    name
        The command, as it is typed.
    about
        What it does.
    """
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=name, description=about, exit_on_error=False, allow_abbrev=False, add_help=False)


def parse(
    parser: ArgumentParser,
    words: list[str],
    elsewhere: Mapping[str, str] | None = None,
    needed: Sequence[str] = (),
) -> Namespace:
    """Parse what follows a command's name.

    The last part of a name is enough where only one group of settings has it: ``--epochs`` is ``--training.epochs``.
    Dashes in names are underscores, ``128,128`` and ``128x128`` are two numbers, and ``--config`` takes a YAML file or
    the name of a preset. ``--help`` shows what most people need and ``--help all`` every option; both leave.

    Parameters
    ----------
    parser
        Parser of the command.
    words
        The words.
    elsewhere
        Options that other commands or methods have, and which; for the message.
    needed
        Whole names of options that a configuration may leave out, but not the command with it.

    Raises
    ------
    SettingError
        One line for whatever is wrong with the options.
    FileError
        One line for whatever is wrong with a file of ``--config``.
    """
    from jsonargparse import ArgumentError

    known = _Known(parser, elsewhere or {})
    for place, word in enumerate(words):
        if word in ("-h", "--help"):
            sys.stdout.write(known.help(everything=words[place + 1 : place + 2] == ["all"]))
            sys.exit()
    ready = list(known.readied(words))
    try:
        parsed = known.checked(parser.parse_args(ready), dashes="--")
        if missing := [name for name in needed if parsed.get(name) is None]:
            raise ArgumentError(None, f"the following arguments are required: {', '.join(missing)}")
        return parsed
    except (ArgumentError, UnicodeDecodeError) as error:
        said = known.in_one_line(str(error), "--", ready)
    except SettingError as error:
        if "config" in known.options and "--config" in ready and not str(error).startswith("--"):
            raise
        said = str(error)
    raise SettingError(f"{said} (see '{parser.prog} --help')")


def read(parser: ArgumentParser, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in groups, as YAML gives them, checked and completed with their defaults.

    Raises
    ------
    SettingError
        One line for whatever is wrong with them.
    """
    from jsonargparse import ArgumentError

    known = _Known(parser, {})
    try:
        return dict(known.checked(parser.parse_object(known.with_numbers(values))).as_dict())
    except ArgumentError as error:
        raise SettingError(known.in_one_line(str(error))) from None


def grouped(parser: ArgumentParser, named: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their full or short names, put into their groups; a group may stand by its name, too."""
    known = _Known(parser, {})
    found: dict[str, Any] = {}
    for name, value in named.items():
        inside = name in known.groups and isinstance(value, Mapping)
        *groups, last = (name if inside else known.full_name(name)).split(".")
        one: dict[str, Any] = {last: value}
        for group in reversed(groups):
            one = {group: one}
        found = merged(found, one)
    return found


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings on top of others: groups are merged at every depth; anything else replaces what stood there.

    A method that is a bare name is a group too, where options are laid on top of it.
    """
    found = dict(base)
    for name, value in own.items():
        below = base.get(name)
        if name == "method" and isinstance(below, str):
            below = named_method(below)
        found[name] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return found


def named_method(method: object) -> dict[str, Any]:
    """Settings of a method, also where its name stands alone."""
    return dict(method) if isinstance(method, Mapping) else {"name": method}


def by_name(values: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """Settings in groups by their whole names, such as data.simulation.snr."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= by_name(value, f"{group}{name}.") if isinstance(value, Mapping) else {f"{group}{name}": value}
    return found


class _Known:
    """What a parser knows of its options."""

    def __init__(self, parser: ArgumentParser, elsewhere: Mapping[str, str]) -> None:
        self.parser, self.elsewhere = parser, elsewhere
        self.actions = {action.dest: action for action in parser._actions}
        self.options = {
            name.removeprefix("--"): action
            for action in parser._actions
            for name in action.option_strings
            if not name.startswith("--print_")
        }
        self.groups = {name[: dot.start()] for name in self.options for dot in re.finditer(r"\.", name)}
        ends: dict[str, list[str]] = {}
        for name in self.options:
            ends.setdefault(name.rpartition(".")[2], []).append(name)
        self.short = {end: names[0] for end, names in ends.items() if len(names) == 1}
        self.short |= {name: full for name, full in ALIASES.items() if full in self.options}

    def full_name(self, name: str) -> str:
        """Of an option, by its full or its short name; as it is where there is none."""
        name = name.replace("-", "_")
        return name if name in self.options else self.short.get(name, name)

    def readied(self, words: list[str]) -> Iterator[str]:
        """The same words with full names, pairs of numbers as lists, and settings in the place of their files."""
        option = ""
        for word in words:
            name, equals, value = word.partition("=")
            if re.match(r"--[A-Za-z]", name):
                option = self.full_name(name[2:])
                yield f"--{option}={self._readied(option, value)}" if equals else f"--{option}"
            else:
                yield self._readied(option, word)
                continue
            if equals:
                option = ""

    def _readied(self, option: str, value: str) -> str:
        if option == "config" and option in self.options:
            return self._from_file(value)
        numbers = _numbers(self.options.get(option), value)
        return json.dumps(numbers) if isinstance(numbers, list) else value

    def with_numbers(self, values: Mapping[str, Any], group: str = "") -> dict[str, Any]:
        """The same settings, with pairs of numbers that stand as text (``128x128``) as lists."""
        return {
            str(name): self.with_numbers(value, f"{group}{name}.")
            if isinstance(value, Mapping)
            else _numbers(self.options.get(f"{group}{name}"), value)
            for name, value in values.items()
        }

    def _from_file(self, name: str) -> str:
        """What a configuration says, as JSON, checked so that a message can name the file."""
        path = preset_file(name)
        values = read_yaml(path)
        if values.get("kind") == "comparison" or "extends" in values:
            raise FileError(path, "is the plan of a comparison", f"Use 'sansref compare {name} --data DIR --out OUT'")
        if "config" in values:
            raise SettingError(f"{path}: there is no setting 'config'")
        if "method" in values:
            values["method"] = named_method(values["method"])
        try:
            read(self.parser, values)
        except SettingError as error:
            meant = self.actions["method.name"].default if "method.name" in self.actions else None
            given = values.get("method", {}).get("name")
            other = f" (its method is {given!r}, not {meant!r})" if given not in (None, meant) else ""
            raise SettingError(f"{path}: {error}{other}") from None
        return json.dumps(self.with_numbers(values), default=str)

    def checked(self, parsed: Namespace, dashes: str = "") -> Namespace:
        """Look for what jsonargparse lets pass: a group that is none, null where it is no choice, endless numbers."""
        for group in sorted(self.groups):
            if not hasattr(value := parsed.get(group), "as_dict"):
                inner = next(name for name in self.options if name.startswith(f"{group}."))
                raise SettingError(f"{group} holds settings such as {inner}, not {value!r}")
        for name, action in self.actions.items():
            value = parsed.get(name)
            hint = _hint(action)
            if value is None and action.default not in (None, HIDDEN) and NoneType not in get_args(hint):
                raise SettingError(f"{dashes}{name} takes {in_words(hint)}, not null")
            numbers = value if isinstance(value, tuple | list) else (value,)
            if any(isinstance(number, int) and abs(number) > LARGEST for number in numbers):
                raise SettingError(f"{dashes}{name} takes whole numbers up to {LARGEST}, but {value!r} is larger")
        return parsed

    def in_one_line(self, message: str, dashes: str = "", words: Collection[str] = ()) -> str:
        """What jsonargparse says over several lines with the names of its types, in words."""
        text = " ".join(message.split())
        if found := re.match(r"(?:Group '([\w.]+)' does not accept option|Option) '([\w.]+)'", text):
            return self._unknown_setting(f"{found[1]}.{found[2]}" if found[1] else found[2])
        if found := re.match(r"unrecognized arguments: (.*)", text):
            # Words may hold spaces, which are also what stands between them here.
            fitting = (word for word in words if f"{found[1]} ".startswith(f"{word} "))
            word = max(fitting, key=len, default=found[1].split(" ")[0])
            return self._unknown_word(word.partition("=")[0] if word.startswith("-") else word, list(words))
        if found := re.match(r"(?:the following arguments are required|.*required but not included.*?): (.*)", text):
            missing = re.findall(r"[\w.]+", found[1])
            return f"these are required: {', '.join(map(self._called, missing) if dashes else missing)}"
        if found := re.match(r"argument (\S+): expected .*argument", text):
            hint = _hint(self.options[found[1].split("/")[0].removeprefix("--")])
            return f"{found[1]} needs a value" + (f": {in_words(hint)}" if hint else "")
        if (found := re.match(r'Parser key "([\w.]+)".*?(?:Got value|Given value): (.*)$', text)) and (
            action := self.actions.get(found[1])
        ):
            value, hint = "null" if found[2] == "None" else found[2], _hint(action)
            called = self._called(found[1]) if dashes else found[1]
            return f"{called} takes {in_words(hint)}, not {value}{did_you_mean(value, choices(hint))}"
        return text

    def _called(self, name: str) -> str:
        """An option as people give it."""
        shorts = [short for short, full in (*ALIASES.items(), *self.short.items()) if full == name]
        return f"--{shorts[0] if shorts else name}" if name in self.options else name.upper()

    def _unknown_setting(self, name: str) -> str:
        group, _, last = name.rpartition(".")
        beside = [option for option in self.options if option.startswith(f"{group}.")] if group else []
        nearest = get_close_matches(name, beside, n=1, cutoff=0.8)
        nearest += [self.short[end] for end in get_close_matches(last, self.short, n=1, cutoff=0.7)]
        return f"there is no setting {name!r}" + (f": did you mean {nearest[0]}?" if nearest else "")

    def _unknown_word(self, word: str, words: list[str]) -> str:
        if word.startswith("-"):
            name = word.lstrip("-")
            if name in self.elsewhere:
                return f"there is no option {word} here: it is an option of {self.elsewhere[name]}"
            short = [option for option in self.short if len(option) > 1]
            nearest = did_you_mean(name, short, dashes="--") or did_you_mean(name, self.options, dashes="--")
            return f"there is no option {word}{nearest}"
        at = max((place for place, one in enumerate(words) if one == word), default=0)
        earlier, before = ["", "", *words][at : at + 2]
        flag = self.options.get(before.removeprefix("--")) if before.startswith("--") else None
        if flag is not None and flag.nargs == 0:
            return f"{before} takes no value, but {word!r} follows it"
        called = self._called((before if "=" in before else earlier).removeprefix("--").partition("=")[0])
        if called in ("--data", "--full"):
            return f"{word!r} is not expected here: {called} takes one folder or file"
        example = f", as in --data {word}" if "data.folder" in self.options else ""
        return f"{word!r} is not expected here: every value follows the name of its option{example}"

    def help(self, everything: bool) -> str:
        """The command, its options and their defaults; of a training without ``everything``, the common ones."""
        training = "training.epochs" in self.options
        shown = {self.full_name(name): name for name in reversed(COMMON)} if training and not everything else {}
        lines: dict[str, str] = {}
        for name, action in self.options.items():
            if action.help != HIDDEN and (not shown or name in shown):
                lines[f"--{shown.get(name, name)}"] = _about(action)
        before = [action for action in self.parser._actions if not action.option_strings]
        lines = {action.dest.upper(): _about(action) for action in before} | lines
        words = " ".join(action.dest.upper() + (" ..." if action.nargs == "+" else "") for action in before)
        width = min(max(map(len, lines)) + 2, 28)
        text = f"usage: {self.parser.prog} {words}{' ' if words else ''}[options]\n"
        text += f"\n{textwrap.fill(self.parser.description or '', 100)}\n\n"
        for name, about in lines.items():
            margin = " " * (width + 2)
            block = textwrap.fill(about, 100, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False)
            head = f"  {name}"
            text += f"{head}\n{block}\n" if len(head) > width else f"{head:<{width + 2}}{block.lstrip()}\n"
        if shown:
            text += "\nThe last part of a name is enough if it is unique: --epochs means --training.epochs.\n"
            text += f"'{self.parser.prog} --help all' lists every option.\n"
        return text


def _about(action: Any) -> str:
    """What an option is, what it takes, and its default."""
    about = re.sub(r":\w+:`~?(?:[\w.]*\.)?([\w.]+)`|``([^`]*)``", lambda found: found[1] or found[2], action.help or "")
    about = about.rstrip(".")
    for value in (None, True, False):
        about = re.sub(rf"\b{value}\b", _written(value), about)
    first = about.split(" ")[0]
    if first[-1:] not in (",", ":") and first not in choices(_hint(action)):  # the name of a value stays as it is
        about = f"{about[:1].upper()}{about[1:]}"
    if action.nargs == 0 or action.required or not action.option_strings:
        return f"{about}."
    given = action.default if isinstance(action.default, tuple | list) else [action.default]
    default = ",".join(map(_written, given))
    if action.default is None and NoneType not in get_args(_hint(action)):
        return f"{about}. ({in_words(_hint(action))})"
    return f"{about}. ({in_words(_hint(action))}; default {default})"


def _written(value: object) -> str:
    """A value as it is written in YAML."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _hint(action: Any) -> Any:
    return getattr(action, "_typehint", None) or action.type


def _numbers(action: Any, value: Any) -> Any:
    """The numbers of ``128,128`` or ``128x128`` as a list, for an option that takes several."""
    numbers = re.fullmatch(r"\s*\d+(\s*[x,]\s*\d+)+\s*", value) if isinstance(value, str) else None
    if numbers is None or action is None or not holds_numbers(_hint(action)):
        return value
    return [int(number) for number in re.findall(r"\d+", value)]


def holds_numbers(hint: Any) -> bool:
    """Whether values are tuples of whole numbers, or may be."""
    if get_origin(hint) is tuple:
        return int in get_args(hint)
    return any(holds_numbers(one) for one in get_args(hint))


def choices(hint: Any) -> list[str]:
    """The values of a ``Literal``, also of one among several types, as they are written."""
    if get_origin(hint) is Literal:
        return list(map(_written, get_args(hint)))
    return [value for one in get_args(hint) for value in choices(one)]


def in_words(hint: Any) -> str:
    """What values of a type are, in words."""
    if hint is None:
        return "text"
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(_written, inner))
    if origin in (Union, UnionType):
        return " or ".join(map(in_words, inner))
    if origin is tuple:
        if set(inner) == {int}:
            return f"{len(inner)} whole numbers such as {','.join(['128'] * len(inner))}"
        return "a list" if Ellipsis in inner else f"a list of {len(inner)}"
    names: dict[Any, str] = {
        NoneType: "null",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
    }
    names |= {Path: "a path"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
