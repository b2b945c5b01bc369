"""Write docs/commands.md: every command and every option, as the code has them.

python tools/commands_page.py
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple

from sansref.cli import COMMANDS, METHOD_LINES
from sansref.methods.registry import METHODS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
HEAD = """# Commands and options

This page is made from the code by `python tools/commands_page.py`. `sansref COMMAND --help all` prints the same.

The last part of an option's name is enough if it is unique: `--epochs` means `--training.epochs`. Dashes and
underscores are the same. `--config` reads the settings of `train` from a YAML file ([settings](configuration.md)).
"""


class Help(NamedTuple):
    """What a command says of itself."""

    usage: str
    about: str
    options: dict[str, str]


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


def page() -> str:
    """The text of the page."""
    training = {method: help_of("train", method) for method in METHOD_LINES}
    first = next(iter(training.values()))
    shared = common(training.values())
    parts = [HEAD]
    for command in COMMANDS:
        if command != "train":
            parts.append(section(command, help_of(command), shared))
            continue
        told = first._replace(usage="sansref train METHOD --data DIR --out RUN [options]")
        parts.append(section("train", told._replace(options=shared), {}))
        for kind in dict.fromkeys(METHODS[method].network_type for method in training):
            family = {method: one for method, one in training.items() if METHODS[method].network_type is kind}
            alike = common(family.values())
            names = ", ".join(f"`{method}`" for method in family)
            title = f"### Options that {' and '.join(names.rsplit(', ', 1))} share"
            parts.append(f"{title}\n\n{table({n: t for n, t in alike.items() if n not in shared})}")
            for method, one in family.items():
                own = {name: text for name, text in one.options.items() if alike.get(name) != text}
                line = METHOD_LINES[method]
                parts.append(f"### sansref train {method}\n\n{line[:1].upper()}{line[1:]}.\n\n{table(own)}")
    return "\n".join(parts)


def common(helps: Iterable[Help]) -> dict[str, str]:
    """The options that have the same meaning and the same default in all."""
    first, *others = (one.options for one in helps)
    return {name: text for name, text in first.items() if all(one.get(name) == text for one in others)}


def help_of(*words: str) -> Help:
    """Ask a command for its whole help."""
    command, *rest = words
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        COMMANDS[command]([*rest, "--help", "all"])
    usage, about, *blocks = printed.getvalue().split("\n\n")
    options: dict[str, str] = {}
    for line in "\n".join(blocks).splitlines():
        if found := re.match(r"  (\S+)(?:  +(.*))?$", line):
            name = found[1]
            options[name] = found[2] or ""
        elif line.startswith("    "):
            options[name] = f"{options[name]} {line.strip()}".strip()
    return Help(usage.removeprefix("usage: "), " ".join(about.split()), options)


def section(command: str, told: Help, shared: dict[str, str]) -> str:
    """One command; of one that trains, the options that are not those of train."""
    trains = any(name.startswith("--training.") for name in told.options)
    own = {name: text for name, text in told.options.items() if not trains or shared.get(name) != text}
    text = f"## sansref {command}\n\n{told.about}\n\n```sh\n{told.usage}\n```\n\n{table(own)}"
    if trains and shared:
        missing = ", ".join(f"`{name}`" for name in shared if name not in told.options)
        text += "\nThe [options that all methods of train share](#sansref-train) apply here too"
        text += f", except {missing}.\n" if missing else ".\n"
    return text


def table(options: dict[str, str]) -> str:
    """Options, what they mean, and what they take."""
    rows = ["| option | meaning | takes |", "|---|---|---|"]
    for name, about in options.items():
        meaning, _, takes = about.removesuffix(")").rpartition(". (") if about.endswith(")") else (about, "", "")
        rows.append(f"| `{name}` | {_cell(meaning)} | {_cell(takes)} |")
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.removesuffix(".").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    main()
