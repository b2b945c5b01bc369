"""The page of all commands and options is what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

from sansref.cli import COMMANDS, METHOD_LINES

ROOT = Path(__file__).parents[2]
page = SimpleNamespace(**run_path(str(ROOT / "tools" / "commands_page.py"), run_name="page"))


def test_the_page_is_what_the_code_says() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert text == page.page(), "run: python tools/commands_page.py"
    assert re.findall(r"^## sansref (\w+)$", text, re.M) == list(COMMANDS)
    assert re.findall(r"^### sansref train (\w+)$", text, re.M) == list(METHOD_LINES)


def test_every_option_is_explained() -> None:
    helps = [page.help_of(command) for command in COMMANDS if command != "train"]
    helps += [page.help_of("train", method) for method in METHOD_LINES]
    for told in helps:
        for option, about in told.options.items():
            assert re.match(r'[\w"].{8,}', about), f"{told.usage}: {option}"
            assert not re.search(r"\b(None|True|False)\b", about.removeprefix("True")), f"{told.usage}: {option}"
