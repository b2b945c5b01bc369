from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text
from PIL import Image

from sansref.errors import FileError
from sansref.results.error_figure import DPI
from sansref.results.figures import save_figure
from sansref.results.health_figure import build_health_figure
from sansref.training.history import read_history

GROUPS = [
    ["d_full_real", "d_full_fake"],
    ["d_under_real", "d_under_fake"],
    ["cycle", "bypass", "pseudo", "noise"],
    ["sampling_residual"],
    ["halves"],
    ["d_spread", "output_spread"],
    ["score"],
    ["loss_discriminator", "loss_generator", "loss_extractor"],
]
COLUMNS = [column for group in GROUPS for column in group]


def _rows(epochs: int, columns: list[str] = COLUMNS) -> list[dict[str, str]]:
    """As read from a file: text, with columns that are not drawn; each column falls from a height of its own."""
    return [
        {"stage": "0", "epoch": str(epoch), "learning_rate": "0.001"}
        | {column: f"{value:.6g}" for column, value in zip(columns, _values(epoch, len(columns)), strict=True)}
        for epoch in range(epochs)
    ]


def _values(epoch: int, count: int) -> Iterator[float]:
    for number in range(count):
        yield (1 + number) * math.exp(-0.1 * epoch)


def _drawn(axes: Axes) -> list[list[float]]:
    return [list(line.get_ydata()) for line in axes.lines]


@pytest.mark.parametrize("epochs", [1, 2, 50])
def test_every_column_is_drawn_over_epochs_from_1(epochs: int) -> None:
    rows = _rows(epochs)
    panels = build_health_figure(rows).axes
    assert len(panels) == len(GROUPS)
    for axes, group in zip(panels, GROUPS, strict=True):
        assert _drawn(axes) == [[float(row[column]) for row in rows] for column in group]
        assert all(list(line.get_xdata()) == list(range(1, epochs + 1)) for line in axes.lines)
        assert axes.get_yscale() == ("log" if "cycle" in group or "d_spread" in group else "linear")


def test_curves_of_a_panel_differ_without_colour_and_are_named() -> None:
    for axes, group in zip(build_health_figure(_rows(50)).axes, GROUPS, strict=True):
        for look in ("color", "linestyle", "marker"):
            assert len({getattr(line, f"get_{look}")() for line in axes.lines}) == len(group)
        marked = [set(np.arange(50)[line.get_markevery()[0] :: line.get_markevery()[1]]) for line in axes.lines]
        assert sum(map(len, marked)) == len(set().union(*marked)) >= 6 * len(group)
        legend = axes.get_legend()
        assert (legend is not None) is (len(group) > 1)
        if legend is not None:
            assert len({text.get_text() for text in legend.get_texts()}) == len(group)


def test_a_curve_looks_the_same_whatever_else_is_there() -> None:
    alone = build_health_figure(_rows(5, ["pseudo"])).axes[0].lines[0]
    among = build_health_figure(_rows(5)).axes[2].lines[2]
    assert (alone.get_color(), alone.get_marker()) == (among.get_color(), among.get_marker())
    assert build_health_figure(_rows(5, ["pseudo"])).axes[0].get_legend() is not None


@pytest.mark.parametrize("missing", GROUPS)
def test_a_panel_without_columns_is_left_out(missing: list[str]) -> None:
    kept = [column for column in COLUMNS if column not in missing]
    titles = [axes.get_title(loc="left") for axes in build_health_figure(_rows(4)).axes]
    del titles[GROUPS.index(missing)]
    assert [axes.get_title(loc="left") for axes in build_health_figure(_rows(4, kept)).axes] == titles


def test_columns_without_a_value_are_left_out_and_empty_cells_are_gaps() -> None:
    rows = _rows(3, ["score", "halves", "cycle"])
    rows[1]["score"] = ""
    del rows[2]["score"]
    for row in rows:
        row |= {"halves": "", "cycle": "nan"}
    (axes,) = build_health_figure(rows).axes
    np.testing.assert_array_equal(_drawn(axes), [[float(rows[0]["score"]), math.nan, math.nan]])


def test_stages_follow_each_other() -> None:
    rows = [{"stage": str(i // 3), "epoch": str(i % 3), "score": str(1 + i)} for i in range(6)]
    (line,) = build_health_figure(rows).axes[0].lines
    assert list(line.get_xdata()) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_lowest_panel_of_each_column_says_what_lies_across(count: int) -> None:
    figure = build_health_figure(_rows(3, [group[0] for group in GROUPS[:count]]))
    labelled = [bool(axes.get_xlabel()) for axes in figure.axes]
    assert labelled == [False] * (count - min(count, 2)) + [True] * min(count, 2)


def test_nothing_is_hidden() -> None:
    """Neither legends nor titles nor numbers cover data or leave the figure."""
    figure = build_health_figure(_rows(50))
    figure.draw_without_rendering()
    boxes = []
    for axes in figure.axes:
        boxes.append(axes.get_tightbbox())
        legend = axes.get_legend()
        if legend is not None:
            (title,) = [text for text in axes.findobj(Text) if text.get_text() == axes.get_title(loc="left")]
            assert legend.get_window_extent().y0 >= axes.bbox.y1 - 1
            assert legend.get_window_extent().y1 <= title.get_window_extent().y0 + 1
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


@pytest.mark.parametrize("values", [["0.021", "0.029"], ["1e-5", "3"], ["0.02", "0.02"], ["0", "0.1"], ["0", "0"]])
def test_log_axes_have_labels_at_any_range(values: list[str]) -> None:
    figure = build_health_figure([{"cycle": value} for value in values])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    labels = [label.get_text() for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert len(set(labels)) == len(labels) >= 1
    if float(values[0]) > 0:
        assert len(labels) >= 2


@pytest.mark.parametrize("epochs", [1, 2, 50])
def test_epochs_are_whole_numbers(epochs: int) -> None:
    figure = build_health_figure(_rows(epochs, ["score"]))
    figure.draw_without_rendering()
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())


def test_the_log_of_a_run_is_drawn_as_png(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("stage,epoch,cycle,score\n0,0,0.2,0.5\n0,1,0.1,0.4\n")
    before = dict(matplotlib.rcParams)
    save_figure(build_health_figure(read_history(path)), tmp_path / "new" / "health.png")
    with Image.open(tmp_path / "new" / "health.png") as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["health.png"]
    assert dict(matplotlib.rcParams) == before


def test_unwritable_figure_is_a_file_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"):
        save_figure(build_health_figure(_rows(2)), tmp_path / "file" / "health.png")
