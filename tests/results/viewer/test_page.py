from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from sansref import __version__
from sansref.errors import FileError
from sansref.results.tables import Entry, Heading, Table
from sansref.results.viewer.contents import (
    Contents,
    Curve,
    Distribution,
    Figure,
    Section,
    ViewerSlice,
    telling_places,
)
from sansref.results.viewer.page import write_page

EVIL = '</script><script>alert("x")</script><!-- & '
SHAPE = (6, 5)


class Page(HTMLParser):
    """Text of each element by tag, with its attributes; the text of scripts and styles as it stands."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[list[str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        texts: list[str] = []
        self.elements.append((tag, dict(attrs), texts))
        if tag not in ("meta", "link", "input", "img"):
            self._open.append(texts)

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for texts in self._open:
            texts.append(data)

    def all(self, tag: str, **attributes: str) -> list[str]:
        return [
            "".join(texts) for name, own, texts in self.elements if name == tag and attributes.items() <= own.items()
        ]

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [own for name, own, _ in self.elements if name == tag]


def viewer_slice(subject: str = "a", acceleration: str = "4x", **images: Any) -> ViewerSlice:
    reference = np.linspace(0, 3, 30, dtype=np.float32).reshape(SHAPE)
    return ViewerSlice(subject, 1, acceleration, reference, images or {EVIL: reference, "b": reference})


def table(*values: float | str | None, better: Any = "higher") -> Table:
    rows = [[Entry(f"row {item}"), Entry(f"<{value}>", value)] for item, value in enumerate(values)]
    return Table("Scores.", [Heading("method"), Heading("PSNR", better)], rows)


def png(folder: Path) -> Path:
    PIL.Image.new("RGB", (300, 150), "red").save(folder / "worst.png")
    return folder / "worst.png"


@pytest.fixture
def page(tmp_path: Path) -> Page:
    png(tmp_path)
    contents = Contents(
        EVIL,
        f"lead {EVIL}",
        [EVIL],
        {EVIL: EVIL},
        [table(1.5, None, math.nan, 2.0)],
        [Distribution(EVIL, {EVIL: {EVIL: [1.0, 2.0]}}, "lower")],
        [viewer_slice(EVIL), viewer_slice("b", "8x")],
        [Curve(EVIL, "4x", [1], [0.5])],
        [Section(EVIL, [EVIL], [Figure(tmp_path / "worst.png", EVIL, EVIL)])],
        EVIL,
        f"name: {EVIL}",
        {EVIL: EVIL},
    )
    write_page(tmp_path / "report.html", contents)
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_names_stay_names_wherever_they_stand(page: Page) -> None:
    assert page.all("title") == page.all("h1") == [EVIL]
    assert page.all("code") == [f"name: {EVIL}"]
    assert page.all("dd")[0] == page.all("dd")[-1] == page.all("li")[0] == EVIL
    assert page.all("h2")[4] == page.all("a")[4] == EVIL
    assert EVIL in page.all("p")
    assert page.all("figcaption")[-1] == page.attributes("img")[0]["alt"] == EVIL
    assert page.all("option") == [EVIL]
    # Two slices, the study and the page's own script: none was added by a name.
    assert len(page.all("script")) == 4
    study = json.loads(page.all("script", id="study")[0])
    assert study["methods"] == [EVIL, "b"]
    assert study["slices"][0]["name"] == f"{EVIL}, slice 1"
    assert list(json.loads(page.all("script", id="pixels-0")[0])["images"]) == [EVIL, "b"]


def test_policy_lets_in_the_page_itself_alone(page: Page, tmp_path: Path) -> None:
    (policy,) = [meta["content"] or "" for meta in page.attributes("meta") if "http-equiv" in meta]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for rule, (source,) in {"style-src": page.all("style"), "script-src": page.all("script", type="module")}.items():
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert "unsafe" not in policy
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"]*", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\s(style|on\w+)=", re.sub(r"<(script|style).*?</\1>", "", html, flags=re.DOTALL))


def test_script_has_all_its_parts_in_an_order_that_runs(page: Page) -> None:
    (script,) = page.all("script", type="module")
    folder = Path(__file__).parents[3] / "src/sansref/results/viewer/templates"
    parts = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.js")}
    assert len(parts) == 8
    assert sorted(parts.values(), key=script.index)[0] == parts["base.js"]
    assert sum(map(len, parts.values())) + len(parts) - 1 == len(script)
    assert script.index("class Viewer") < script.index("startViewer();")


def test_table_says_what_its_cells_are_sorted_by(page: Page) -> None:
    values = [cell.get("data-value") for cell in page.attributes("td")]
    assert values == ["1.5", None, None, "2.0"]
    assert page.all("td") == ["<1.5>", "<None>", "<nan>", "<2.0>"]
    assert page.all("strong") == ["<2.0>"]
    assert page.all("caption")[0] == "Scores. Bold: best of the column."
    assert [head.get("data-better") for head in page.attributes("th")[:2]] == [None, "higher"]
    assert [head.get("class") for head in page.attributes("th")[:2]] == [None, "number"]


def test_empty_parts_are_left_out(tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", Contents("t"))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not page.all("section")
    assert not page.all("h2")


def test_figures_are_embedded_whole(page: Page, tmp_path: Path) -> None:
    (image,) = page.attributes("img")
    content = base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,"))
    assert content == (tmp_path / "worst.png").read_bytes()
    assert (image["width"], image["height"]) == ("192", "96")


def test_unusable_pictures_are_file_errors(tmp_path: Path) -> None:
    missing, jpeg, cut = tmp_path / "missing.png", tmp_path / "photo.png", tmp_path / "cut.png"
    PIL.Image.new("L", (2, 2)).save(jpeg, format="JPEG")
    cut.write_bytes(b"\x89PNG\r\n\x1a\n")
    for path, message in [(missing, "cannot be read"), (jpeg, "is not a PNG picture"), (cut, "is not a PNG picture")]:
        with pytest.raises(FileError, match=f"{path.name}: {message}"):
            write_page(tmp_path / "report.html", Contents("t", sections=[Section("s", (), [Figure(path, "c", "a")])]))
    assert not (tmp_path / "report.html").exists()


def test_footer_names_version_and_purpose(page: Page) -> None:
    (footer,) = page.all("footer")
    assert __version__ in footer
    assert "research use only" in footer


def test_a_page_that_cannot_be_written_is_a_file_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"):
        write_page(tmp_path / "file" / "report.html", Contents("t"))


@pytest.mark.parametrize(
    ("values", "better", "rows"),
    [
        ([1.0, 3.0, 2.0], "higher", {1}),
        ([1.0, 3.0, 2.0], "lower", {0}),
        ([3.0, 1, 3, math.nan], "higher", {0, 2}),
        ([math.nan, None, -1.0], "higher", {2}),
        ([math.inf, 5.0], "higher", {1}),
        ([math.nan, None], "lower", set()),
        ([1.0, 2.0], None, set()),
        (["b", "a"], None, set()),
        ([], "higher", set()),
    ],
)
def test_best_cells_are_bold_with_ties_and_without_unknown_values(
    values: list[float | str | None], better: Any, rows: set[int]
) -> None:
    assert table(*values, better=better).highlights() == {(row, 1) for row in rows}


def test_tables_refuse_cells_that_cannot_be_sorted() -> None:
    with pytest.raises(ValueError, match=r"row must have 2 cells, as headings has, got \['x'\]"):
        Table("", [Heading("a"), Heading("b")], [[Entry("x")]])
    for values, better in [(["a", 1.0], None), (["a", "b"], "higher")]:
        with pytest.raises(ValueError, match="column 'PSNR' must be sorted by numbers, or by words without"):
            table(*values, better=better)


def test_curves_have_a_score_for_every_epoch() -> None:
    for epochs, scores, lengths in [([1, 2], [0.1], "2 and 1"), ([], [], "0 and 0")]:
        with pytest.raises(ValueError, match=f"must have one length, at least 1, got {lengths}"):
            Curve("idr", "4x", epochs, scores)


@pytest.mark.parametrize(
    ("reference", "image", "message"),
    [
        (np.ones(SHAPE), np.ones((6, 4)), r"'idr' must be real \(height, width\) = \(6, 5\), got float64 \(6, 4\)"),
        (np.ones(SHAPE), np.ones(SHAPE) + 0j, r"'idr' must be real .* got complex128"),
        (np.ones((1, *SHAPE)), np.ones((1, *SHAPE)), r"'reference' must be real"),
        (np.ones(SHAPE), np.full(SHAPE, np.nan), "'idr' has NaN or infinite values"),
        (np.full(SHAPE, np.inf), np.ones(SHAPE), "'reference' has NaN or infinite values"),
        (np.zeros(SHAPE), np.ones(SHAPE), "the reference must have a positive maximum"),
    ],
)
def test_slices_refuse_images_that_cannot_be_compared(reference: Any, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"sub-1, slice 4: .*{message}"):
        ViewerSlice("sub-1", 4, "4x", reference, {"idr": image})


def test_methods_are_listed_once_in_the_order_in_which_they_come() -> None:
    contents = Contents(
        "t",
        distributions=[Distribution("PSNR", {"4x": {"c": [1.0], "b": [1.0]}, "8x": {"d": [2.0]}})],
        slices=[viewer_slice(b=np.ones(SHAPE)), viewer_slice(a=np.ones(SHAPE), b=np.ones(SHAPE))],
        curves=[Curve("e", "4x", [1], [1.0]), Curve("e", "4x", [1], [1.0])],
    )
    assert contents.methods == ["b", "a", "c", "d", "e"]


def test_a_slice_without_a_reference_is_shown_on_the_scale_of_its_last_image() -> None:
    shown = ViewerSlice("a", 1, "", None, {"a": 4 * np.ones(SHAPE), "b": 2 * np.ones(SHAPE)})
    assert shown.peak == 2
    assert ViewerSlice("a", 1, "", None, {"a": np.zeros(SHAPE)}).peak == 1
    with pytest.raises(ValueError, match=r"a, slice 1: there is neither a reference nor an image"):
        ViewerSlice("a", 1, "", None, {})


def test_up_to_half_of_the_shown_slices_are_of_the_worst_ones() -> None:
    assert telling_places(100, 6) == [0, 1, 2, 50, 67, 99]
    assert telling_places(100, 20)[:5] == [0, 1, 2, 3, 4]
    assert telling_places(100, 1) == [0]
    assert telling_places(100, 2) == [0, 50]
    assert telling_places(100, 4) == [0, 1, 50, 99]
    for count in range(1, 6):
        for wanted in range(1, 8):
            few = telling_places(count, wanted)
            assert few == sorted(set(few))
            assert len(few) == min(wanted, count)
    assert telling_places(0, 6) == []
