# ruff: noqa: RUF001  (signs as a reader sees them)
from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.figure
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from sansref.errors import FileError
from sansref.results.error_figure import DPI, build_error_figure, common_error_limit, worst_region
from sansref.results.figures import (
    build_agreement_figure,
    build_stage_figure,
    error_figure,
    save_figure,
)
from sansref.results.viewer.contents import ViewerSlice


def _reference(height: int = 24, width: int = 24) -> Tensor:
    """Values from 0 to 2, so that shares of the maximum differ from the values."""
    return 2 * torch.rand(height, width, generator=torch.Generator().manual_seed(0)).square()


def _shown(reference: Tensor | None, caption: str = "", **images: Tensor) -> ViewerSlice:
    truth = None if reference is None else reference.numpy()
    found = {name: image.numpy() for name, image in images.items()}
    return ViewerSlice("a", 0, "", truth, found, dict.fromkeys(images, caption))


def _off(reference: Tensor, *errors: float) -> ViewerSlice:
    """Methods whose every pixel is off by so much."""
    return _shown(reference, **{f"method {number}": reference + error for number, error in enumerate(errors)})


def _axes(figure: matplotlib.figure.Figure, row: str) -> list[matplotlib.axes.Axes]:
    return [axes for axes in figure.axes if axes.get_label() == row and axes.images]


def _texts(figure: matplotlib.figure.Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_png_widens_by_one_column_per_panel(tmp_path: Path) -> None:
    reference = _reference()
    sizes = []
    for count in (1, 2, 6):
        path = tmp_path / "new" / f"{count}.png"
        error_figure(path, _off(reference, *(0.01 * i for i in range(count))), "title")
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)
            sizes.append(image.size)
    (one, height), (two, _), (six, _) = sizes
    assert two - one == pytest.approx((six - two) / 4, abs=2)
    assert two - one > 250
    assert {size[1] for size in sizes} == {height}
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["1.png", "2.png", "6.png"]


def test_all_images_share_a_window_and_all_errors_a_scale() -> None:
    reference = _reference()
    errors = [0.5, 0.06, 0.02]
    figure = build_error_figure(_off(reference, *errors))
    images, maps = _axes(figure, "image"), _axes(figure, "error")
    assert len(images) == 4
    assert len(maps) == 3
    white = float(np.percentile(reference.double().numpy(), 99.8))
    assert {axes.images[0].get_clim() for axes in images} == {(0, white)}
    # The zero-filled image (25 % of the maximum) is left out, the next has 3 %.
    assert {axes.images[0].get_clim() for axes in maps} == {(0, 5)}
    for axes, error in zip(maps, errors, strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), 100 * error / float(reference.max()), rtol=1e-4)
    assert "|image − reference|\n0 to 5 % of the\nreference's maximum,\nblue beyond" in _texts(figure)
    assert "5 %" in _texts(figure)


@pytest.mark.parametrize(
    ("levels", "limit"), [((3.0,), 3), ((3.1,), 5), ((40, 9, 2), 10), ((0,), 0.1), ((0, 0), 0.1), ((400, 400), 100)]
)
def test_error_limit_holds_all_maps_but_the_worst(levels: Sequence[float], limit: float) -> None:
    assert common_error_limit({str(item): np.full((4, 4), float(level)) for item, level in enumerate(levels)}) == limit


def test_error_limit_is_that_of_methods_that_improve_on_their_input() -> None:
    levels = {"zero-filled": 20.0, "zero-filled, best scale": 19.0, "CycleGAN": 90.0, "failed": 80.0, "IDR": 2.0}
    errors = {label: np.full((4, 4), level) for label, level in levels.items()}
    assert common_error_limit(errors) == 2
    del errors["IDR"]  # and where there is none, the worst is left out
    assert common_error_limit(errors) == 100


def test_error_limit_ignores_a_few_pixels() -> None:
    error = np.full((100, 100), 1.5)
    error[0, :20] = 60
    assert common_error_limit({"one": error}) == 2


def test_zoom_shows_the_boxed_region_of_every_image() -> None:
    reference = _reference(20, 30)
    shown = _off(reference, 0.1, 0.2)
    figure = build_error_figure(shown, zoom=(4, 6, 5, 10))
    zoomed = _axes(figure, "zoom")
    for axes, image in zip(zoomed, [reference, *shown.images.values()], strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), image[4:9, 6:16], rtol=1e-6)
        assert axes.images[0].get_clim() == _axes(figure, "image")[0].images[0].get_clim()
    for axes in _axes(figure, "image"):
        (box,) = axes.patches
        assert box.get_bbox().bounds == (5.5, 3.5, 10, 5)
    plain = build_error_figure(shown)
    assert not _axes(plain, "zoom")
    assert figure.get_size_inches()[1] - plain.get_size_inches()[1] == pytest.approx(1.06)


def test_texts_are_drawn_as_given_and_do_not_collide(tmp_path: Path) -> None:
    reference = _reference()
    title, caption = "a title of $many words_{ that is wider than its column", "33.41 dB / 0.9123"
    shown = _shown(reference, caption, **{title: reference, "b": reference})
    error_figure(tmp_path / "figure.png", shown, "subject $1")
    figure = build_error_figure(shown, "subject $1")
    assert {"reference", "b", caption, "subject $1"} <= set(_texts(figure))
    figure.draw_without_rendering()
    heads = [text for axes in _axes(figure, "image") for text in axes.texts if text.get_text()]
    boxes = [text.get_window_extent() for text in [*heads, figure.texts[0]]]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert max(box.y1 for box in boxes) <= figure.bbox.y1
    assert " ".join(heads[2].get_text().split("\n")) == title


def test_tall_images_keep_square_pixels() -> None:
    reference = _reference(64, 16)
    figure = build_error_figure(_off(reference, 0.1))
    figure.draw_without_rendering()
    for axes in figure.axes:
        if axes.images:
            x, y = axes.transData.transform([(0, 0), (1, 1)]).T
            assert abs(x[1] - x[0]) == pytest.approx(abs(y[1] - y[0]))
            assert axes.get_xlim()[0] <= -0.5
            assert axes.get_xlim()[1] >= 15.5


def test_a_nearly_empty_reference_has_a_window() -> None:
    reference = torch.zeros(64, 64)
    reference[3, 3] = 1
    figure = build_error_figure(_off(reference, 0.1))
    assert _axes(figure, "image")[0].images[0].get_clim() == (0, 1)


def test_without_a_reference_the_images_stand_alone() -> None:
    image = torch.rand(8, 12, generator=torch.Generator().manual_seed(0))
    figure = build_error_figure(_shown(None, "first", a=2 * image, b=image), "a title that is long " * 9)
    assert [axes.get_label() for axes in figure.axes] == ["image", "image"]
    assert figure.axes[0].images[0].get_clim() == figure.axes[1].images[0].get_clim()
    assert figure.axes[1].images[0].get_clim()[1] == pytest.approx(float(image.quantile(0.998)), rel=0.02)
    assert "\n" in figure.texts[0].get_text()


def test_figures_touch_no_global_state(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    save_figure(build_stage_figure({"idr": [1.0, 2.0]}), tmp_path / "stages.png")
    assert dict(matplotlib.rcParams) == before


def test_unwritable_figure_is_a_file_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"):
        save_figure(build_stage_figure({"idr": [1.0]}), tmp_path / "file" / "figure.png")


def test_stage_figure_draws_curves_and_baselines(tmp_path: Path) -> None:
    curves = {"idr": [30.0, 33.0, 33.5], "other $1": [29.0, 34.0]}
    baselines = {"supervised": 35.0, "zero-filled": 24.0}
    figure = build_stage_figure(curves, baselines)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["idr"].get_xdata()) == [1, 2, 3]
    assert list(lines["other $1"].get_ydata()) == curves["other $1"]
    assert set(lines["zero-filled"].get_ydata()) == {24.0}
    assert lines["idr"].get_marker() != lines["other $1"].get_marker()
    assert lines["supervised"].get_linestyle() != lines["zero-filled"].get_linestyle() != "-"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("stage", "PSNR (dB)")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["supervised", "other $1", "idr", "zero-filled"]
    save_figure(figure, tmp_path / "stages.png")
    with Image.open(tmp_path / "stages.png") as image:
        assert image.format == "PNG"


def test_stages_are_whole_numbers() -> None:
    for values in ([30.0], [30.0, 31.0], [30.0] * 9):
        figure = build_stage_figure({"idr": values})
        figure.draw_without_rendering()
        low, high = figure.axes[0].get_xlim()
        ticks = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)


def test_rho_is_one_when_the_score_ranks_perfectly() -> None:
    score = {"idr": [0.5, 0.3, 0.2], "ssdu": [0.4, 0.25]}
    truth = {"ssdu": [31.0, 33.0], "idr": [30.0, 32.0, 34.0]}
    assert build_agreement_figure(score, truth)[1] == pytest.approx(1)
    worst = {name: [-value for value in values] for name, values in truth.items()}
    assert build_agreement_figure(score, worst)[1] == pytest.approx(-1)


def test_rho_is_that_of_scipy_over_all_methods() -> None:
    rng = np.random.default_rng(0)
    score = {name: list(rng.uniform(0.01, 3, 7)) for name in "abc"}
    truth = {name: list(rng.normal(30, 2, 7)) for name in "abc"}
    figure, rho = build_agreement_figure(score, truth)
    expected = spearmanr([-v for values in score.values() for v in values], [v for t in truth.values() for v in t])
    assert rho == pytest.approx(expected.statistic)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert f"{abs(rho):.2f}" in axes.get_title(loc="left")
    for points, name in zip(axes.collections, "abc", strict=True):
        np.testing.assert_allclose(points.get_offsets(), np.stack([score[name], truth[name]], 1))
    shapes = {points.get_paths()[0].vertices.tobytes() for points in axes.collections}
    assert len(shapes) == 3


@pytest.mark.parametrize("spread", [1.0001, 1.3, 8.0, 1e4])
def test_score_axis_has_labels_at_any_range(spread: float) -> None:
    figure, _ = build_agreement_figure({"idr": [0.02, 0.02 * spread]}, {"idr": [30.0, 31.0]})
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    labels = [label.get_text() for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert len(set(labels)) == len(labels) >= 2


def test_rho_is_undefined_without_spread() -> None:
    assert math.isnan(build_agreement_figure({"idr": [0.1, 0.1]}, {"idr": [30.0, 31.0]})[1])
    assert math.isnan(build_agreement_figure({"idr": [0.1, 0.2]}, {"idr": [30.0, 30.0]})[1])


def test_the_worst_region_is_where_most_methods_fail() -> None:
    reference = torch.ones(30, 24)
    images = [reference.clone() for _ in range(3)]
    for image in images[:2]:
        image[21:24, 3:6] = 0
    images[2][2, 20] = 50  # of one method alone
    row, column, height, width = worst_region(_shown(reference, a=images[0], b=images[1], c=images[2]))
    assert (height, width) == (10, 8)
    assert row <= 21 and row + height >= 24
    assert column <= 3 and column + width >= 6
