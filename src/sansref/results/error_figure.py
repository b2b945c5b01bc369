"""The figure of reconstructions in one grey window, with their errors on one colour scale."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sansref.errors import printable
from sansref.outputs.overlay import DISPLAY_PERCENTILE
from sansref.results.scorer import ZERO_FILLED
from sansref.results.viewer.contents import ViewerSlice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]
Zoom = tuple[int, int, int, int]

DPI = 150
"""Pixels per inch."""

ERROR_PERCENTILE = 99.5
"""Percentile of an error map that the colour scale must hold."""

ERROR_LIMITS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 75, 100)
"""Upper ends of the error scale to choose from, in percent of the reference's maximum."""

# Inches: an image, the space between two, the margin, and a line of text.
_CELL, _GAP, _MARGIN, _LINE = 2.0, 0.06, 0.12, 0.19
_TITLE_CHARACTERS = 24
# Characters of the title above all in an inch.
_TITLE_DENSITY = 8.5
_BOX_COLOUR = "#F0E442"

BEYOND = "#56B4E9"
"""Colour of errors above the scale, which is none of its own."""


def build_error_figure(shown: ViewerSlice, title: str = "", zoom: Zoom | None = None) -> Figure:
    """Draw reconstructions of a slice beside its reference, and their absolute errors below.

    All images share the window from 0 to the 99.8th percentile of the reference, or of the last image without one,
    which leaves the errors out.

    Parameters
    ----------
    shown
        At least one method's image.
    title
        Written above all.
    zoom
        Row, column, height and width of a region inside the image, which is boxed in the images and enlarged in a row
        of its own.

    Returns
    -------
    Figure
        Pixels are drawn square, rows and columns as they are stored.
    """
    truth, guide = shown.reference, shown.guide.astype(np.float64)
    region = _region(zoom)
    # An image with next to no signal may be zero at the percentile.
    white = float(np.percentile(guide, DISPLAY_PERCENTILE)) or float(guide.max())
    columns = [(label, shown.captions.get(label, ""), image) for label, image in shown.images.items()]
    if truth is not None:
        columns.insert(0, ("reference", "", truth))
    heads = [(textwrap.fill(printable(head), _TITLE_CHARACTERS), caption) for head, caption, _ in columns]
    rows = {"image": guide.shape, "zoom": None if region is None else guide[region].shape}
    grid = _Grid(heads, rows if truth is None else {**rows, "error": guide.shape}, printable(title))
    for column, ((_, _, image), head) in enumerate(zip(columns, heads, strict=True)):
        axes = grid.cell("image", column)
        axes.imshow(image, cmap="gray", vmin=0, vmax=white)
        _write_head(axes, *head)
        if region is not None:
            _box(axes, region)
            grid.cell("zoom", column).imshow(image[region], cmap="gray", vmin=0, vmax=white)
    if truth is not None:
        errors = errors_of(shown)
        limit = common_error_limit(errors)
        for column, error in enumerate(errors.values(), start=1):
            grid.cell("error", column).imshow(error, cmap=_error_colours(), vmin=0, vmax=limit)
        _write_scale(grid.figure, grid.cell("error", 0), limit)
    return grid.figure


def errors_of(shown: ViewerSlice) -> dict[str, Array]:
    """By method, the absolute errors of a slice with a reference, in percent of the reference's maximum."""
    assert shown.reference is not None
    truth = shown.reference.astype(np.float64)
    return {label: 100 * np.abs(image - truth) / truth.max() for label, image in shown.images.items()}


def common_error_limit(errors: Mapping[str, Array]) -> float:
    """Upper end of one colour scale for several error maps.

    It is the largest 99.5th percentile of the methods that improve on the zero-filled image, rounded up to one of
    :data:`ERROR_LIMITS`: a scale that held the errors of that image, or of a method that failed, would show the methods
    to be compared black. Where no method improves on it, or it is not there, the worst map is left out, unless it is
    the only one. Errors above the scale are drawn in :data:`BEYOND`.

    Parameters
    ----------
    errors
        By method, at least one map of absolute errors, in percent of the reference's maximum.
    """
    squares = {label: float(np.square(error).mean()) for label, error in errors.items()}
    learned = [label for label in errors if not label.startswith(ZERO_FILLED)]
    better = [label for label in learned if squares[label] < squares.get(ZERO_FILLED, 0.0)]
    kept = better or sorted(errors, key=squares.__getitem__)[: max(len(errors) - 1, 1)]
    needed = max(float(np.percentile(errors[label], ERROR_PERCENTILE)) for label in kept)
    return float(next((limit for limit in ERROR_LIMITS if limit >= needed), ERROR_LIMITS[-1]))


def worst_region(shown: ViewerSlice) -> Zoom:
    """Where reconstructions fail most: the third of each side with the largest squared error of the median method.

    Parameters
    ----------
    shown
        A slice with a reference.
    """
    assert shown.reference is not None
    truth = shown.reference.astype(np.float64)
    squared = np.median([(image - truth) ** 2 for image in shown.images.values()], axis=0)
    height, width = (max(1, size // 3) for size in truth.shape)
    sums = np.lib.stride_tricks.sliding_window_view(squared, (height, width)).sum((-2, -1))
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(row), int(column), height, width


def _region(zoom: Zoom | None) -> tuple[slice, slice] | None:
    if zoom is None:
        return None
    row, column, height, width = zoom
    return slice(row, row + height), slice(column, column + width)


class _Grid:
    """A figure of rows "image", "zoom" and "error", laid out in inches: matplotlib's engines leave uneven gaps."""

    def __init__(
        self, heads: Sequence[tuple[str, str]], rows: Mapping[str, tuple[int, ...] | None], title: str
    ) -> None:
        from matplotlib.figure import Figure

        lines = max(head.count("\n") + 1 + bool(caption) for head, caption in heads)
        width = 2 * _MARGIN + len(heads) * (_CELL + _GAP) - _GAP
        title = textwrap.fill(title, int(_TITLE_DENSITY * width))
        below = _MARGIN + (1.25 * _LINE * (title.count("\n") + 1) if title else 0.0) + (lines + 0.55) * _LINE
        self._tops, self._heights = {}, {}
        for row, shape in rows.items():
            if shape is not None:
                # Long readouts are drawn smaller instead of making a poster.
                self._tops[row], self._heights[row] = below, _CELL * min(shape[0] / shape[1], 1.5)
                below += self._heights[row] + _GAP
        self._size = (width, below - _GAP + _MARGIN)
        self.figure = Figure(self._size, dpi=DPI)
        if title:
            place = (_MARGIN / self._size[0], 1 - _MARGIN / self._size[1])
            self.figure.text(*place, title, fontsize=12, weight="bold", va="top", parse_math=False)

    def cell(self, row: str, column: int) -> Axes:
        """Axes without ticks and frame, black where the image does not fill them."""
        width, height = self._size
        left, top, tall = _MARGIN + column * (_CELL + _GAP), self._tops[row], self._heights[row]
        place = (left / width, 1 - (top + tall) / height, _CELL / width, tall / height)
        axes = self.figure.add_axes(place, label=row, facecolor="black", adjustable="datalim", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes


def _write_head(axes: Axes, title: str, caption: str) -> None:
    style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "va": "bottom"}
    axes.annotate(caption, (0.5, 1), xytext=(0, 3), fontsize=10, color="#404040", parse_math=False, **style)
    rise = 3 + (72 * _LINE if caption else 0)
    axes.annotate(title, (0.5, 1), xytext=(0, rise), fontsize=11, parse_math=False, **style)


def _box(axes: Axes, region: tuple[slice, slice]) -> None:
    from matplotlib.patches import Rectangle

    rows, columns = region
    # Pixel centers are at whole coordinates.
    corner = (columns.start - 0.5, rows.start - 0.5)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=_BOX_COLOUR, linewidth=1))


def _write_scale(figure: Figure, axes: Axes, limit: float) -> None:
    """Colour bar and its meaning in words, where the reference's own error would stand."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes.set_axis_off()
    words = f"|image \N{MINUS SIGN} reference|\n0 to {limit:g} % of the\nreference's maximum,\nblue beyond"
    axes.text(0.5, 0.55, words, fontsize=10, ha="center", va="bottom", linespacing=1.4)
    bar = axes.inset_axes((0.1, 0.4, 0.8, 0.07))
    scale = figure.colorbar(
        ScalarMappable(Normalize(0, limit), _error_colours()), cax=bar, orientation="horizontal", extend="max"
    )
    scale.set_ticks([0, limit / 2, limit], labels=["0", f"{limit / 2:g}", f"{limit:g} %"], fontsize=10)


def _error_colours() -> Colormap:
    from matplotlib import colormaps

    return colormaps["inferno"].with_extremes(over=BEYOND)
