# ruff: noqa: RUF001  (signs as a reader sees them)
from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

from sansref import __version__
from sansref.errors import FileError
from sansref.results.report import Best, Figure, Section, Table, template_environment, write_report

VOID = {"meta", "img"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    inside: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """A page's elements; fails where a tag is not closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        element = Element(tag, dict(attrs), inside=[parent.tag for parent in self._open])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def texts(self, tag: str) -> list[str]:
        return [element.text.strip() for element in self.all(tag)]


TABLE = Table(
    "Mean ± standard deviation over 24 slices",
    ["method", "PSNR (dB)", "NMSE", "remark"],
    [
        ["zero-filled", "24.31 ± 1.02", "3.1e-2", "–"],
        ["idr", "33.41 ± 0.92", "4.1e-3", "3 files & <b>more</b>"],
        ["supervised", "33.90 ± 0.88", "4.1e-3", "paired"],
    ],
    best={"PSNR (dB)": "highest", "NMSE": "lowest"},
)


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "worst.png"
    Image.new("RGB", (300, 150), "red").save(path)
    return path


@pytest.fixture
def page(tmp_path: Path, png: Path) -> Page:
    path = tmp_path / "report.html"
    write_report(
        path,
        'IDR <script>alert("x")</script>',
        "Half a decibel below supervised λ < 1.",
        [
            Section("Scores", ["PSNR & SSIM", "second paragraph"], [TABLE]),
            Section("Pictures", figures=[Figure(png, "Worst slice", 'errors at "edges"')]),
            Section("Notes"),
        ],
        {"data": "IXI <T1>", "seed": "0"},
        "method: idr\ntraining:\n  epochs: 8 # <8>\n",
    )
    return Page(path.read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_elsewhere(page: Page, tmp_path: Path) -> None:
    for element in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (element.attributes.get(name) or "#").startswith(("#", "data:"))
    assert not {"script", "link", "iframe", "object", "base"} & {element.tag for element in page.elements}
    (style,) = page.texts("style")
    assert "url(" not in style
    assert "@import" not in style
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text


def test_text_is_escaped(page: Page) -> None:
    assert page.texts("h1") == ['IDR <script>alert("x")</script>']
    assert page.texts("title") == page.texts("h1")
    assert "PSNR & SSIM" in page.texts("p")
    assert page.texts("dt") == ["data", "seed"]
    assert page.texts("dd") == ["IXI <T1>", "0"]
    assert "3 files & <b>more</b>" in page.texts("td")
    assert not page.all("b")


def test_table_is_complete_and_semantic(page: Page) -> None:
    assert page.texts("caption") == ["Mean ± standard deviation over 24 slices. Bold: best of the column."]
    headers = page.all("th")
    assert [th.text for th in headers if th.attributes["scope"] == "col"] == [
        "method",
        "PSNR (dB) ↑",
        "NMSE ↓",
        "remark",
    ]
    assert [th.text for th in headers if th.attributes["scope"] == "row"] == ["zero-filled", "idr", "supervised"]
    assert page.texts("td") == [cell for row in TABLE.rows for cell in row[1:]]
    assert [span.attributes["aria-label"] for span in page.all("span")] == ["higher is better", "lower is better"]
    assert page.texts("strong") == ["4.1e-3", "33.90 ± 0.88", "4.1e-3"]
    right = [td.text for td in page.all("td") if td.attributes.get("class") == "number"]
    assert right == [cell for row in TABLE.rows for cell in row[1:3]]


def test_figure_is_embedded_whole(page: Page, png: Path) -> None:
    (image,) = page.all("img")
    assert image.inside[-1] == "figure"
    assert base64.b64decode((image.attributes["src"] or "").removeprefix("data:image/png;base64,")) == png.read_bytes()
    assert image.attributes["alt"] == 'errors at "edges"'
    assert (image.attributes["width"], image.attributes["height"]) == ("192", "96")
    assert page.texts("figcaption") == ["Worst slice"]


def test_settings_can_be_unfolded_and_keep_their_lines(page: Page) -> None:
    (code,) = page.all("code")
    assert "details" in code.inside
    assert code.text == "method: idr\ntraining:\n  epochs: 8 # <8>\n"


def test_footer_names_version_and_purpose(page: Page) -> None:
    (footer,) = page.texts("footer")
    assert __version__ in footer
    assert "research use only" in footer


def test_contents_lead_to_the_sections(page: Page) -> None:
    targets = [(element.attributes["href"] or "").removeprefix("#") for element in page.all("a")]
    assert targets == [element.attributes["id"] for element in page.all("h2")]
    assert page.texts("a") == page.texts("h2") == ["Scores", "Pictures", "Notes"]


def test_a_short_report_has_no_empty_parts(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", "t", "l", [Section("only")])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not {"dl", "nav", "details", "table", "figure"} & {element.tag for element in page.elements}


def test_a_forgotten_value_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        template_environment("sansref.results").from_string("{{ forgotten }}").render()
    with pytest.raises(UndefinedError):
        template_environment("sansref.results").get_template("report.html.j2").render(title="only a title")


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["1", "-2.5 dB", "−3 %", "+1e-3"], True),
        (["4x", "8×", "8 x"], True),
        (["1", "–", "", "n/a", "nan ± nan"], True),
        (["001.h5", "2"], False),
        (["2a", "3"], False),
        (["1.2.3", "3"], False),
        (["nanometre", "3"], False),
        (["–", ""], False),
    ],
)
def test_columns_of_numbers_are_recognised(cells: Sequence[str], numeric: bool) -> None:
    table = Table("", ["name", "value"], [["row", cell] for cell in cells])
    assert table.numeric == ({1} if numeric else set())


@pytest.mark.parametrize(
    ("cells", "best", "rows"),
    [
        (["9.5 ± 3", "10.1", "–"], "highest", {1}),
        (["9.5 ± 3", "10.1", "–"], "lowest", {0}),
        (["−2", "1", "-2.0"], "lowest", {0, 2}),
        (["nan", "3", "nan ± nan"], "highest", {1}),
        (["nan", "–"], "highest", set()),
    ],
)
def test_best_cells_are_chosen_by_their_number(cells: Sequence[str], best: Best, rows: set[int]) -> None:
    table = Table("", ["name", "value"], [["row", cell] for cell in cells], {"value": best})
    assert table.highlights == {(row, 1) for row in rows}


def test_table_refuses_rows_and_names_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"row must have 2 cells, as columns has, got \['x'\]"):
        Table("", ["a", "b"], [["x"]])
    with pytest.raises(ValueError, match=r"best must name columns of \['a'\], got \['PSNR'\]"):
        Table("", ["a"], [], {"PSNR": "highest"})


def test_unusable_pictures_are_file_errors(tmp_path: Path) -> None:
    missing, jpeg, cut = tmp_path / "missing.png", tmp_path / "photo.png", tmp_path / "cut.png"
    Image.new("L", (2, 2)).save(jpeg, format="JPEG")
    cut.write_bytes(b"\x89PNG\r\n\x1a\n")
    for path, message in [(missing, "cannot be read"), (jpeg, "is not a PNG picture"), (cut, "is not a PNG picture")]:
        with pytest.raises(FileError, match=f"{path.name}: {message}"):
            write_report(tmp_path / "report.html", "t", "l", [Section("s", figures=[Figure(path, "c", "a")])])
    assert not (tmp_path / "report.html").exists()
