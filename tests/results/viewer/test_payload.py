from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.cbook import boxplot_stats

from sansref.results.error_figure import BEYOND
from sansref.results.viewer.contents import Contents, Curve, Distribution, ViewerSlice
from sansref.results.viewer.page import (
    STEPS,
    encode,
    error_colours,
    error_limits,
    five_numbers,
    pixels,
    study,
)

SHAPE = (10, 7)


def shown(subject: str, acceleration: str = "4x", errors: Sequence[float] = ()) -> ViewerSlice:
    """A slice whose methods are off by so many percent of the maximum in every pixel."""
    reference = np.full(SHAPE, 200.0)
    images = {f"method {item}": reference + 2 * error for item, error in enumerate(errors)}
    return ViewerSlice(subject, 0, acceleration, reference, images)


def decode(text: str, shape: tuple[int, int], peak: float) -> Any:
    """The image as the description of the format says."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(2, *shape).astype(int)
    levels = np.cumsum(planes[0] + 256 * planes[1], axis=0) % 65536
    return (levels - 16384) / 16384 * peak


@given(seed=st.integers(0, 99), height=st.integers(1, 9), width=st.integers(1, 9), peak=st.floats(1e-6, 1e6))
@settings(max_examples=30, deadline=None)
def test_images_come_back_to_half_a_step(seed: int, height: int, width: int, peak: float) -> None:
    image = peak * np.random.default_rng(seed).uniform(-1, 2.99, (height, width))
    back = decode(encode(image, peak), (height, width), peak)
    np.testing.assert_allclose(back, image, rtol=0, atol=peak / 16384 / 2 * (1 + 1e-6))


def test_values_out_of_range_are_held_at_its_ends() -> None:
    back = decode(encode(np.array([[-5.0, -1.0, 0.0, 2.0, 9.0]]), 2.0), (1, 5), 2.0)
    assert back.tolist() == [[-2.0, -1.0, 0.0, 2.0, 2.0 * (65535 - 16384) / 16384]]


def test_images_of_single_precision_are_packed_tightly() -> None:
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    image = (np.exp(-4 * (x**2 + y**2)) + 0.005 * np.random.default_rng(0).normal(size=x.shape)).astype(np.float32)
    text = encode(image, float(image.max()))
    assert len(text) < 110_000
    assert abs(decode(text, image.shape, float(image.max())) - image).max() <= image.max() / STEPS


def test_all_images_of_a_slice_are_packed_against_its_reference() -> None:
    packed = pixels(shown("a", errors=[5, -20]))
    assert decode(packed["reference"], SHAPE, 100.0) == pytest.approx(np.full(SHAPE, 100))
    assert list(packed["images"]) == ["method 0", "method 1"]
    for name, level in [("method 0", 105), ("method 1", 80)]:
        assert decode(packed["images"][name], SHAPE, 100.0) == pytest.approx(np.full(SHAPE, level), abs=0.01)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_boxes_are_those_of_matplotlib(values: list[float]) -> None:
    (expected,) = boxplot_stats(values)
    found = five_numbers([*values, math.nan, math.inf])
    assert found is not None
    names = {"low": "whislo", "first": "q1", "median": "med", "third": "q3", "high": "whishi", "mean": "mean"}
    for name, theirs in names.items():
        assert found[name] == pytest.approx(expected[theirs], rel=1e-5, abs=1e-9)
    assert found["values"] == pytest.approx(values, rel=1e-5)


def test_a_box_is_worked_out_by_hand() -> None:
    found = five_numbers([1, 2, 3, 4, 100])
    assert found == {
        "low": 1,
        "first": 2,
        "median": 3,
        "third": 4,
        "high": 4,
        "mean": 22,
        "values": [1, 2, 3, 4, 100],
    }
    assert five_numbers([math.nan, -math.inf]) is None
    assert five_numbers([]) is None


def test_an_error_scale_holds_all_slices_of_its_acceleration() -> None:
    slices = [shown("a", errors=[40, 9, 2]), shown("b", errors=[1.5, 60]), shown("c", "8x", [12]), shown("d", "9x")]
    # The worst method of each slice is left out, unless it is the only one.
    assert error_limits(slices) == {"4x": 10, "8x": 15}


def test_error_colours_grow_brighter_from_black() -> None:
    digits = error_colours()
    assert digits.endswith(BEYOND[1:].lower())
    table = np.array([int(digits[item : item + 2], 16) for item in range(0, 6 * 256, 2)]).reshape(256, 3)
    for place in (0, 100, 255):
        assert table[place] == pytest.approx(255 * np.array(colormaps["inferno"](place)[:3]), abs=1)
    luminance = table @ [0.2126, 0.7152, 0.0722]
    assert luminance[0] < 1
    assert (np.diff(np.convolve(luminance, np.ones(8) / 8, "valid")) > 0).all()


def test_study_is_plain_json_with_what_is_not_finite_left_open() -> None:
    slices = [shown("a", errors=[5])]
    curves = [Curve("idr", "4x", range(1, 4), [0.25, math.nan, math.inf])]
    parts = [Distribution("PSNR", {"4x": {"idr": [math.nan], "method 0": [np.float64(1.23456789)]}}, "higher")]
    contents = Contents("t", distributions=parts, slices=slices, curves=curves, curve_label="loss")
    found = json.loads(json.dumps(study(contents), allow_nan=False))
    assert found["methods"] == ["method 0", "idr"]
    (only,) = found["slices"]
    assert (only["name"], only["subject"], only["acceleration"]) == ("a, slice 0", "a", "4x")
    assert (only["height"], only["width"], only["methods"]) == (10, 7, ["method 0"])
    (curve,) = found["curves"]
    assert (curve["epochs"], curve["scores"]) == ([1, 2, 3], [0.25, None, None])
    (part,) = found["distributions"]
    assert part["panels"]["4x"]["idr"] is None
    assert part["panels"]["4x"]["method 0"]["values"] == [1.23457]
    assert found["curveLabel"] == "loss"


@pytest.mark.parametrize(("bright", "white"), [(1, 100.0), (50, 25.0)])
def test_white_is_where_figures_have_it(bright: int, white: float) -> None:
    """A few bright pixels do not darken the rest, and a reference that is dark but for one is still seen."""
    reference = np.full((100, 100), 0.0 if bright == 1 else 0.25)
    reference[0, 0] = 1
    (only,) = study(Contents("t", slices=[ViewerSlice("a", 0, "4x", reference, {})]))["slices"]
    assert only["white"] == white


def test_maps_keep_their_unit() -> None:
    z, bound = np.array([[-7.5, 0.0], [3.25, 12.0]]), np.array([[0.0, 1.0], [0.5, 0.25]])
    maps = {"idr": {"contradiction": z, "error_bound": bound}}
    one = ViewerSlice("a", 0, "4x", np.full((2, 2), 4.0), {"idr": np.ones((2, 2))}, maps=maps)
    found = json.loads(json.dumps(study(Contents("t", slices=[one])), allow_nan=False))["overlays"]
    packed = pixels(one)["maps"]["idr"]
    # The browser has percent of what stands for the peak, times the unit.
    percent = 100 * decode(packed["contradiction"], (2, 2), 1.0)
    assert percent * found["contradiction"]["unit"] == pytest.approx(z, abs=1e-3)
    assert 100 * decode(packed["error_bound"], (2, 2), 1.0) * found["error_bound"]["unit"] == pytest.approx(
        100 * bound / 4, abs=0.01
    )
    assert (found["error_bound"]["start"], found["contradiction"]["end"]) == (2, 5)
    assert found["contradiction"]["label"] == "contradiction"


def test_without_a_reference_there_is_no_error_scale_and_what_is_known_is_kept() -> None:
    mask = np.eye(4, 6, dtype=bool)
    shown = ViewerSlice(
        "a",
        0,
        "4x",
        None,
        {"idr": np.full(SHAPE, 2.0)},
        details={"idr": {"held-out error": "0.1"}},
        mask=mask,
        noise=0.1,
    )
    found = json.loads(json.dumps(study(Contents("t", slices=[shown])), allow_nan=False))
    (only,) = found["slices"]
    assert found["errorLimits"] == {}
    assert (only["reference"], only["mask"], only["white"]) == (False, {"height": 4, "width": 6}, 100.0)
    assert only["noise"] == pytest.approx(5.0)
    assert only["details"] == {"idr": {"held-out error": "0.1"}}
    packed = pixels(shown)
    assert packed["reference"] is None
    assert decode(packed["mask"], (4, 6), 1.0).tolist() == mask.astype(float).tolist()
    assert decode(packed["images"]["idr"], SHAPE, 2.0) == pytest.approx(np.full(SHAPE, 2.0))
