"""The page as a reader meets it: opened from the file system in Chromium, driven by mouse and keys."""

# ruff: noqa: RUF001  (signs as a reader sees them)
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from matplotlib import colormaps
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from helpers.browser import chromium, needs_browser
from sansref.results.error_figure import BEYOND
from sansref.results.tables import Entry, Heading, Table
from sansref.results.viewer.contents import Contents, Curve, Distribution, Figure, Section, ViewerSlice
from sansref.results.viewer.page import write_page

pytestmark = [pytest.mark.slow, needs_browser]

SHAPE = (12, 16)
EVIL = 'IDR </script><b>"x" & co'
METHODS = {"zero-filled": 0.2, "SSDU": 0.05, EVIL: 0.03}
# Subject, slice and acceleration: the second acceleration shares one slice with the first, and one subject.
SLICES = [("a", 3, "4x"), ("b", 1, "4x"), ("b", 2, "4x"), ("a", 9, "8x"), ("b", 2, "8x")]
STEP = 100 / 16384
"""What an image is stored to, in percent of the reference's maximum."""


def _slice(seed: int, subject: str, number: int, acceleration: str) -> ViewerSlice:
    generator = np.random.default_rng(seed)
    reference = 700 * generator.uniform(0.1, 1, SHAPE)
    images = {name: reference + 700 * error * generator.normal(size=SHAPE) for name, error in METHODS.items()}
    if acceleration == "8x":
        del images["SSDU"]
    maps = {"contradiction": generator.uniform(-8, 8, SHAPE), "error_bound": reference / 5}
    return ViewerSlice(subject, number, acceleration, reference, images, {EVIL: "33.41 dB"}, maps={EVIL: maps})


def _contents() -> Contents:
    cells = [("zero-filled", 24.3), ("SSDU", None), (EVIL, 33.4), ("supervised", 9.9)]
    rows = [[Entry(name, name), Entry("–" if psnr is None else f"{psnr} ± 1", psnr)] for name, psnr in cells]
    values = {name: [20 + item, 25.0, 26.0, 31.0] for item, name in enumerate(METHODS)}
    nmse = {name: [0.5, 0.5, 0.5] for name in METHODS}
    return Contents(
        "Comparison",
        "IDR wins.",
        (),
        {},
        [Table("Scores", [Heading("method"), Heading("PSNR", "higher")], rows)],
        [Distribution("PSNR", {"4x": values, "8x": values}, "higher"), Distribution("NMSE", {"4x": nmse}, "lower")],
        [_slice(seed, *place) for seed, place in enumerate(SLICES)],
        [Curve(name, "4x", [1, 2, 3], [0.3, float("nan"), 0.1]) for name in METHODS],
        config="method: idr\n" * 100,
        versions={"torch": "2.0"},
    )


class Page:
    """The page in the browser."""

    def __init__(self, driver: Chrome, path: Path) -> None:
        self.driver = driver
        driver.get(path.as_uri())
        self.run("document.querySelector('#stage')?.scrollIntoView({ block: 'center' })")

    def __getitem__(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)"
        return [text.strip() for text in self.run(script, selector)]

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.driver, 10, 0.05).until(lambda _: condition())

    def settled(self) -> None:
        self.until(lambda: self["stage"].get_attribute("aria-busy") == "false")

    def choose(self, name: str, text: str) -> None:
        script = "return [...document.getElementById(arguments[0]).options].find(({ text }) => text === arguments[1])"
        self.run(script, name, text).click()
        self.settled()

    def press(self, *keys: str, on: str = "stage") -> None:
        self.run("document.getElementById(arguments[0]).focus()", on)
        ActionChains(self.driver, duration=0).send_keys(*keys).perform()
        self.settled()

    def offset(self, row: int, column: int) -> tuple[int, int]:
        """Where the middle of a pixel lies, from the middle of the stage."""
        size = self["stage"].size
        x, y = ((place + 0.5) / count - 0.5 for place, count in zip((column, row), SHAPE[::-1], strict=True))
        return round(x * size["width"]), round(y * size["height"])

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Hold the pointer at one pixel (row, column), and let it go at another."""
        stage, chain = self["stage"], ActionChains(self.driver, duration=0)
        chain.move_to_element_with_offset(stage, *self.offset(*start)).click_and_hold()
        chain.move_to_element_with_offset(stage, *self.offset(*end)).release().perform()

    def painted(self) -> Any:
        """What is painted in the middle of every pixel, 0 to 255: (height, width, 3)."""
        script = """const [height, width] = arguments, canvas = document.getElementById("canvas"), colours = [];
            const copy = new OffscreenCanvas(canvas.width, canvas.height);
            const context = copy.getContext("2d", { willReadFrequently: true });
            context.drawImage(canvas, 0, 0);
            for (let row = 0; row < height; row++) for (let column = 0; column < width; column++) {
              const x = (column + 0.5) / width * canvas.width, y = (row + 0.5) / height * canvas.height;
              colours.push([...context.getImageData(x, y, 1, 1).data].slice(0, 3));
            }
            return colours;"""
        return np.array(self.run(script, *SHAPE)).reshape(*SHAPE, 3)

    def divider(self) -> int:
        return int(self["divider"].get_attribute("aria-valuenow") or "")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def browser(driver: Chrome) -> Iterator[Chrome]:
    """The browser, whose console must stay empty."""
    driver.get_log("browser")
    yield driver
    assert driver.get_log("browser") == []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, _contents())
    return path


@pytest.fixture
def page(browser: Chrome, report: Path) -> Page:
    page = Page(browser, report)
    page.settled()
    return page


def image(place: int, name: str = "reference") -> Any:
    """In percent of the reference's maximum."""
    shown = _slice(place, *SLICES[place])
    return 100 * (shown.reference if name == "reference" else shown.images[name]) / shown.reference.max()


def grey(values: Any, low: float, high: float) -> Any:
    return 255 * np.clip((values - low) / (high - low), 0, 1)


def white(place: int) -> float:
    return float(np.percentile(image(place), 99.8))


def test_page_opens_whole_and_asks_for_nothing(page: Page) -> None:
    page.until(lambda: len(page.all("#boxes svg")) == 2 and len(page.all("#curves svg")) == 1)
    assert page.run("return performance.getEntriesByType('resource')") == []
    assert page.run("return document.querySelectorAll('b').length") == 0
    assert page.texts("nav a") == ["Scores", "Spread", "Images", "Training", "Settings"]
    assert page.texts("#left option")[0] == "reference"
    assert page["left-name"].text == "reference"


def test_headings_sort_best_first_then_worst_then_as_given(page: Page) -> None:
    given = ["zero-filled", "SSDU", EVIL, "supervised"]
    for column, first, orders in [
        (1, [EVIL, "zero-filled", "supervised", "SSDU"], ["descending", "ascending"]),
        (0, [EVIL, "SSDU", "supervised", "zero-filled"], ["ascending", "descending"]),
    ]:
        # What has no value comes last in both directions.
        second = [name for name in first[::-1] if column == 0 or name != "SSDU"]
        second += [name for name in first if name not in second]
        for rows, order in zip([first, second, given], [*orders, None], strict=True):
            page.all("thead button")[column].click()
            assert page.texts("tbody th") == rows
            assert page.all("thead th")[column].get_attribute("aria-sort") == order
            said = f"Sorted by {['method', 'PSNR'][column]}, {order}" if order else "In the order given"
            assert page.texts("#sorted") == [said]


def test_a_column_sorted_after_another_forgets_it(page: Page) -> None:
    for button in page.all("thead button"):
        button.click()
    assert [head.get_attribute("aria-sort") for head in page.all("thead th")] == [None, "descending"]


def test_divider_follows_the_mouse_and_parts_the_images(page: Page) -> None:
    left, right = grey(image(0), 0, white(0)), grey(image(0, "zero-filled"), 0, white(0))
    assert page.divider() == 50
    for start, end in [(8, 2), (2, 13), (5, 9)]:
        page.drag((6, start), (8, end))
        assert page.divider() == pytest.approx(100 * (end + 0.5) / SHAPE[1], abs=1)
        painted = page.painted()
        for side, columns in ((left, slice(0, end)), (right, slice(end + 1, None))):
            assert painted[:, columns, 0] == pytest.approx(side[:, columns], abs=1.5)
        assert np.ptp(painted, axis=2).max() == 0


def test_divider_obeys_the_keys(page: Page) -> None:
    page.press(Keys.ARROW_LEFT * 3)
    assert page.divider() == 47
    page.press(Keys.ARROW_RIGHT * 2, Keys.ARROW_UP, on="divider")
    assert page.divider() == 50
    for key, share, name in [(Keys.HOME, 0, "zero-filled"), (Keys.END, 100, "reference")]:
        page.press(key, on="divider")
        assert page.divider() == share
        assert page.painted()[..., 0] == pytest.approx(grey(image(0, name), 0, white(0)), abs=1.5)


def test_wheel_and_keys_turn_the_slices(page: Page) -> None:
    def shows(place: int) -> bool:
        subject, number, _ = SLICES[place]
        named = page["slice-name"].text == f"{subject}, slice {number} ({place + 1} of 3)"
        expected = grey(image(place), 0, white(place))[:, :8]
        return named and abs(page.painted()[:, :8, 0] - expected).max() < 1.5

    assert shows(0)
    origin = ScrollOrigin.from_element(page["stage"])
    ActionChains(page.driver).scroll_from_origin(origin, 0, 100).perform()
    page.until(lambda: shows(1))
    ActionChains(page.driver).scroll_from_origin(origin, 0, -100).perform()
    page.until(lambda: shows(0))
    presses = [(Keys.ARROW_DOWN, 1), (Keys.PAGE_DOWN, 2), (Keys.PAGE_DOWN, 2), (Keys.ARROW_UP, 1), (Keys.PAGE_UP, 0)]
    for key, place in [*presses, (Keys.END, 2), (Keys.HOME, 0)]:
        page.press(key)
        page.until(lambda place=place: shows(place))
    page.press(Keys.ARROW_RIGHT, on="slice")
    page.until(lambda: shows(1))


def test_acceleration_keeps_the_slice_or_else_the_subject(page: Page) -> None:
    page.press(Keys.END)
    page.choose("acceleration", "8x")
    assert page["slice-name"].text == "b, slice 2 (2 of 2)"
    assert page.painted()[:, :8, 0] == pytest.approx(grey(image(4), 0, white(4))[:, :8], abs=1.5)
    page.choose("acceleration", "4x")
    assert page["slice-name"].text == "b, slice 2 (3 of 3)"
    page.press(Keys.HOME)
    page.choose("acceleration", "8x")
    assert page["slice-name"].text == "a, slice 9 (1 of 2)"


def test_a_method_without_an_image_says_so(page: Page) -> None:
    page.choose("right", "SSDU")
    page.choose("acceleration", "8x")
    assert page["right-name"].text == "SSDU\nnot available here"
    assert not page.painted()[:, 9:].any()
    page.choose("right", EVIL)
    assert page["right-name"].text == f"{EVIL}\n33.41 dB"


def test_window_follows_the_mouse_and_is_reset(page: Page) -> None:
    page.all("input[name=mode]")[1].click()
    before = page.painted()
    page.drag((2, 2), (4, 6))
    level, width = (float(page[name].get_attribute("value") or "") for name in ("level", "width"))
    assert level == pytest.approx(white(0) / 2 - 100 * 2 / SHAPE[0], abs=0.5)
    assert width == pytest.approx(white(0) + 100 * 4 / SHAPE[1], abs=0.5)
    assert page.divider() == 50
    expected = grey(image(0), level - width / 2, level + width / 2)
    assert page.painted()[:, :8, 0] == pytest.approx(expected[:, :8], abs=2)
    assert (page.painted() != before).any()
    page.press("r")
    assert (page.painted() == before).all()
    # Levels below zero stand in a field for numbers.
    page.drag((1, 2), (11, 2))
    assert float(page["level"].get_attribute("value") or "") < 0


def test_numbers_of_a_pixel_are_the_image_and_its_error(page: Page) -> None:
    page.choose("left", EVIL)
    page.choose("right", "error of zero-filled")
    expected = [image(0), image(0, EVIL), np.abs(image(0, "zero-filled") - image(0))]
    for row, column in [(0, 0), (11, 15), (5, 12), (7, 1)]:
        chain = ActionChains(page.driver, duration=0)
        chain.move_to_element_with_offset(page["stage"], *page.offset(row, column)).perform()
        place, *numbers = page.texts("#probe dd")
        assert place == f"{row}, {column}"
        shown = [float(number.removesuffix(" %").replace("−", "-")) for number in numbers]
        assert shown == pytest.approx([values[row, column] for values in expected], abs=STEP + 0.005)
    assert page.texts("#probe dt")[1:] == ["reference", EVIL, "error of zero-filled"]
    ActionChains(page.driver, duration=0).key_down(Keys.SHIFT).perform()
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    ActionChains(page.driver, duration=0).key_up(Keys.SHIFT).perform()
    assert page.texts("#probe dd")[0] == "8, 2"


def test_error_maps_share_a_scale_that_the_reader_can_set(page: Page) -> None:
    page.choose("left", "error of SSDU")
    page.choose("right", "error of zero-filled")
    colours = colormaps["inferno"].with_extremes(over=BEYOND)
    limit = float(page["limit"].get_attribute("value") or "")
    for scale in (limit, 40.0):
        page["limit"].send_keys(Keys.CONTROL, "a", Keys.NULL, f"{scale:g}", Keys.TAB)
        assert page.texts("#error-ends span") == ["0 %", f"{scale / 2:g} %", f"{scale:g} %"]
        for name, columns in [("SSDU", slice(0, 8)), ("zero-filled", slice(8, None))]:
            shares = abs(image(0, name) - image(0))[:, columns] / scale
            # Neighbouring colours of the scale differ by a few levels.
            assert page.painted()[:, columns] == pytest.approx(255 * colours(shares)[..., :3], abs=8)
    page["reset-limit"].click()
    assert float(page["limit"].get_attribute("value") or "") == limit


def test_maps_are_laid_over_the_image_that_they_belong_to(page: Page) -> None:
    page.choose("left", "SSDU")
    page.choose("right", EVIL)
    page.choose("overlay", "contradiction")
    assert "red: added signal" in page["overlay-legend"].text
    z = _slice(0, *SLICES[0]).maps[EVIL]["contradiction"]
    strength = np.clip((np.abs(z) - 2) / (5 - 2), 0, 1)[..., None]
    colour = np.where(z[..., None] < 0, (255, 40, 40), (0, 190, 255))
    under = {name: grey(image(0, name), 0, white(0))[..., None] for name in ("SSDU", EVIL)}
    for opacity in (0.7, 0.0):
        if opacity == 0:
            page["opacity"].send_keys(Keys.HOME)
        shown = (1 - opacity * strength) * under[EVIL] + opacity * strength * colour
        assert page.painted()[:, 8:] == pytest.approx(shown[:, 8:], abs=3)
        assert page.painted()[:, :8] == pytest.approx(np.repeat(under["SSDU"], 3, -1)[:, :8], abs=1.5)
    page.choose("overlay", "none")
    assert page["overlay-legend"].text == ""


def test_swapped_sides_change_places(page: Page) -> None:
    before = page.painted()
    page["swap"].click()
    page.settled()
    assert [page["left-name"].text, page["right-name"].text] == ["zero-filled", "reference"]
    assert page.painted()[:, :8, 0] == pytest.approx(grey(image(0, "zero-filled"), 0, white(0))[:, :8], abs=1.5)
    page.press("x")
    assert (page.painted() == before).all()


def test_zoom_keeps_the_place_under_the_pointer(page: Page) -> None:
    stage, chain = page["stage"], ActionChains(page.driver, duration=0)
    chain.move_to_element_with_offset(stage, *page.offset(3, 12)).perform()
    origin = ScrollOrigin.from_element(stage, *page.offset(3, 12))
    ActionChains(page.driver).key_down(Keys.CONTROL).scroll_from_origin(origin, 0, -300).key_up(Keys.CONTROL).perform()
    page.until(lambda: page["zoom"].text == "128 %")
    chain = ActionChains(page.driver, duration=0)
    chain.move_to_element_with_offset(stage, 0, 0)
    chain.move_to_element_with_offset(stage, *page.offset(3, 12)).perform()
    assert page.texts("#probe dd")[0] == "3, 12"
    assert page["slice-name"].text.startswith("a, slice 3")
    page.press("+")
    assert page["zoom"].text == "161 %"
    page.press("0")
    assert page["zoom"].text == "100 %"


def test_box_plots_are_those_of_the_metric(page: Page) -> None:
    page.until(lambda: len(page.all("#boxes svg")) == 2)
    label = page.all("#boxes svg")[0].get_attribute("aria-label")
    assert label == f"Box plots of PSNR at 4x. Medians: zero-filled 25.5, SSDU 25.5, {EVIL} 25.5."
    # Their middle boxes run from the first to the third quartile on one scale: 23.75 to 27.25, 24.0, and 24.25.
    widths = [float(box.get_attribute("width") or "") for box in page.all("#boxes figure:first-child .box")]
    assert np.array(widths) / widths[0] == pytest.approx(np.array([3.5, 3.25, 3.0]) / 3.5)
    page.choose("metric", "NMSE")
    page.until(lambda: len(page.all("#boxes svg")) == 1)
    assert "NMSE (lower is better)" in page["boxes"].text
    assert "0.5" in page.texts("#boxes .tick")


def test_legend_hides_and_shows_curves(page: Page) -> None:
    def drawn() -> list[str]:
        return page.texts("#curves title")

    page.until(lambda: drawn() == list(METHODS))
    assert page.texts("#legend label") == list(METHODS)
    box = page.all("#legend input")[1]
    box.send_keys(Keys.SPACE)
    page.until(lambda: drawn() == ["zero-filled", EVIL])
    box.send_keys(Keys.SPACE)
    page.until(lambda: drawn() == list(METHODS))
    looks = [
        (lines[0].get_attribute("stroke-dasharray"), lines[1].get_attribute("d"))
        for lines in (group.find_elements(By.TAG_NAME, "path") for group in page.all("#legend svg"))
    ]
    assert len({dashes for dashes, _ in looks}) == len({marker for _, marker in looks}) == len(METHODS)


def test_everything_can_be_reached_by_keys_and_has_a_name(page: Page) -> None:
    for details in page.all("details"):
        page.run("arguments[0].open = true", details)
    # Of radio buttons, the keys reach the chosen one.
    selector = "a, button, input:not([name=mode]), input:checked, select, summary, [tabindex='0']"
    wanted = [element for element in page.all(selector) if element.is_displayed()]
    page.run("window.reached = []; addEventListener('focusin', (event) => window.reached.push(event.target))")
    # One more, wherever the keys begin, for the way from the last element to the first.
    ActionChains(page.driver, duration=0).send_keys(Keys.TAB * (len(wanted) + 1)).perform()
    reached = page.run("return window.reached")
    assert set(reached) == set(wanted)
    names = [element.accessible_name for element in reached]
    assert all(names), names
    named = dict(zip(page.run("return window.reached.map(({ id }) => id)"), names, strict=True))
    assert named["slice"] == "Slice"
    assert named["swap"] == "Swap left and right"
    assert named["left"] == "Left of the divider"


@pytest.mark.parametrize("width", [360, 780, 1400])
def test_page_fits_its_window(page: Page, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.until(
            lambda: (
                page["stage"].size["width"]
                == page["canvas"].size["width"]
                == page.run("return document.getElementById('canvas').width")
            )
        )
        assert page.run("return document.documentElement.scrollWidth") <= width
        stage = page["stage"].size
        assert stage["width"] / stage["height"] == pytest.approx(SHAPE[1] / SHAPE[0], rel=0.01)
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"slices": [_slice(0, "a", 1, "4x")]},
        {"slices": [ViewerSlice("a", 1, "4x", np.ones(SHAPE), {})]},
        {"curves": [Curve("idr", "4x", [1], [0.5])]},
        {"curves": [Curve("idr", "4x", [1, 2], [float("nan")] * 2)]},
        {"distributions": [Distribution("PSNR", {"4x": {"idr": [float("inf")], "none": []}})]},
        {"tables": [Table("empty", [Heading("method")], [])]},
        {"config": "a: 1"},
    ],
    ids=lambda parts: " ".join(parts) or "nothing",
)
def test_a_page_of_some_parts_shows_these_alone(browser: Chrome, tmp_path: Path, parts: dict[str, Any]) -> None:
    write_page(tmp_path / "report.html", Contents("part", **parts))
    page = Page(browser, tmp_path / "report.html")
    sections = {"tables": "Scores", "distributions": "Spread", "slices": "Images", "curves": "Training"}
    headings = [sections.get(part, "Settings and versions") for part in parts]
    assert page.texts("h2") == headings
    if "slices" in parts:
        page.settled()
        assert not page["acceleration-row"].is_displayed()
        assert not page["slice"].is_enabled()
        assert re.fullmatch(r"a, slice 1 \(1 of 1\)", page["slice-name"].text)


@pytest.fixture
def single(browser: Chrome, tmp_path: Path) -> Page:
    """The page of one scan that there is no reference of."""
    images = {name: _slice(0, "a", 3, "").images[name] for name in ("zero-filled", "SSDU")}
    mask = np.zeros((8, 8), bool)
    mask[::2] = True
    details = {name: {"held-out error": f"0.{number}"} for number, name in enumerate(images, start=1)}
    captions = {"SSDU": "held-out error 0.2"}
    shown = ViewerSlice("a", 3, "", None, images, captions, details, mask, 7.0)
    write_page(tmp_path / "single.html", Contents("One scan", slices=[shown]))
    page = Page(browser, tmp_path / "single.html")
    page.settled()
    return page


def test_a_scan_without_a_reference_has_no_error_maps(single: Page) -> None:
    assert single.texts("#left option") == ["zero-filled", "SSDU"]
    assert not any(part.is_displayed() for part in single.all(".error-scale"))
    assert [single["left-name"].text, single["right-name"].text] == ["zero-filled", "SSDU\nheld-out error 0.2"]
    images, peak = _slice(0, "a", 3, "").images, float(_slice(0, "a", 3, "").images["SSDU"].max())
    white = float(np.percentile(100 * images["SSDU"] / peak, 99.8))
    for name, columns in [("zero-filled", slice(0, 8)), ("SSDU", slice(8, None))]:
        expected = grey(100 * images[name] / peak, 0, white)[:, columns]
        assert single.painted()[:, columns, 0] == pytest.approx(expected, abs=2)
    assert single["units"].text == "All numbers in percent of the maximum of the last image; there is no reference."
    assert "reference" not in single.texts("#probe dt")


def test_what_is_known_of_a_slice_stands_beside_it(single: Page) -> None:
    assert single.texts("#details thead th") == ["zero-filled", "SSDU"]
    assert single.texts("#details tbody tr") == ["held-out error0.10.2"]
    peak = float(_slice(0, "a", 3, "").images["SSDU"].max())
    assert single["noise"].text == f"Noise: {100 * 7.0 / peak:.2f} % (standard deviation)."
    assert single["mask"].accessible_name == "Acquired samples, white: 50 % of the grid, 2x"
    script = """const canvas = document.getElementById("mask");
        return [...canvas.getContext("2d").getImageData(0, 0, 8, 8).data].filter((_, item) => item % 4 === 0);"""
    assert np.array_equal(np.reshape(single.run(script), (8, 8)), 255 * (np.arange(8) % 2 == 0)[:, None] * np.ones(8))


def test_slices_without_a_reference_among_others_say_so(browser: Chrome, tmp_path: Path) -> None:
    plain = _slice(0, "a", 3, "")
    bare = ViewerSlice("b", 1, "", None, plain.images)
    write_page(tmp_path / "report.html", Contents("Mixed", slices=[plain, bare]))
    page = Page(browser, tmp_path / "report.html")
    page.settled()
    assert "" not in page.texts("h3")
    page.choose("right", "error of SSDU")
    page.press(Keys.END)
    assert page["left-name"].text == "reference\nnot available here"
    assert page["right-name"].text == "error of SSDU\nnot available here"
    assert not page.painted().any()
    assert not page["mask"].is_displayed()


def test_figures_and_sections_are_shown(browser: Chrome, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (300, 150), "red").save(tmp_path / "red.png")
    section = Section("Stages", ["One by one."], [Figure(tmp_path / "red.png", "All red.", "A red square")])
    write_page(
        tmp_path / "report.html", Contents("Figures", facts={"Noise": "SNR 50"}, notes=["n"], sections=[section])
    )
    page = Page(browser, tmp_path / "report.html")
    assert page.texts("h2") == page.texts("nav a") == ["Stages"]
    (picture,) = page.all("img")
    assert picture.accessible_name == "A red square"
    assert page.run("return arguments[0].naturalWidth", picture) == 300
