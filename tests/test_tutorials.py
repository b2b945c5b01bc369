"""Tutorials do what they say: their blocks run in order, in an empty folder, and print what stands below them."""

from __future__ import annotations

import time
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
tutorials = SimpleNamespace(**run_path(str(ROOT / "tools" / "tutorials.py"), run_name="tutorials"))


@pytest.mark.slow
@pytest.mark.parametrize("page", tutorials.pages(), ids=lambda page: page.stem)
def test_a_tutorial_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    assert tutorials.run(page.read_text(encoding="utf-8"), tmp_path / "work", tmp_path / "bin", quick=True) >= 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```sh\nfalse\n```\n", "false"),
        ("```python\nprint('2 slices')\n```\n```text\n3 files\n```\n", "not printed: .*3 files"),
    ],
)
def test_a_page_that_does_not_keep_its_word_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(tutorials.TutorialError, match=message):
        tutorials.run(text, tmp_path, tmp_path / "bin")


def test_what_a_page_leaves_running_ends_with_it(tmp_path: Path) -> None:
    text = "```sh\n(sleep 1; touch late) > /dev/null 2>&1 &\n```\n```python\nprint('4 coils')\n```\n"
    assert tutorials.run(f"{text}```text\n8 coils\n```\n", tmp_path, tmp_path / "bin") == 2
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()
