"""Tutorials do what they say: their blocks run in order, in an empty folder, and print what stands below them."""

from __future__ import annotations

import time
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
tutorials = SimpleNamespace(**run_path(str(ROOT / "tools" / "tutorials.py"), run_name="tutorials"))


@pytest.mark.parametrize("page", tutorials.pages(), ids=lambda page: page.stem)
def test_a_tutorial_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    if tutorials.kept(page):
        pytest.skip("`make docs` has run it, and neither the page nor the package has changed since")
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


def test_what_a_page_made_is_kept_until_the_page_changes(tmp_path: Path) -> None:
    page, out = tmp_path / "tutorial-one.md", tmp_path / "out"
    page.write_text("```sh\ntouch first\n```\n")
    tutorials.make(page, out, True)
    assert not tutorials.kept(page, out)
    tutorials.make(page, out, False)
    assert tutorials.kept(page, out)
    (out / "tutorial-one" / "mine").touch()
    tutorials.make(page, out, False)
    assert (out / "tutorial-one" / "mine").exists()
    page.write_text("```sh\ntouch second\n```\n")
    assert not tutorials.kept(page, out)
    tutorials.make(page, out, False)
    made = {path.name for path in (out / "tutorial-one").iterdir()}
    assert made == {"second", tutorials.DIGEST}
    page.write_text("```sh\nfalse\n```\n")
    with pytest.raises(tutorials.TutorialError, match=r"^tutorial-one\.md: false"):
        tutorials.make(page, out, False)
    assert not tutorials.kept(page, out)


def test_what_a_page_leaves_running_ends_with_it(tmp_path: Path) -> None:
    text = "```sh\n(sleep 1; touch late) > /dev/null 2>&1 &\n```\n```python\nprint('4 coils')\n```\n"
    assert tutorials.run(f"{text}```text\n8 coils\n```\n", tmp_path, tmp_path / "bin") == 2
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()
