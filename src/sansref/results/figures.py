"""Figures as PNG or SVG: images with their errors, quality over stages, and how well the reference-free score ranks.

Methods have their own marker as well as their own colour (of Okabe and Ito), so that figures can be read in grey. Names
given by the caller are drawn as they are: a dollar sign does not start a formula.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, filterwarnings

import numpy as np
import numpy.typing as npt

from sansref.files import atomic_path
from sansref.results.error_figure import DPI, Zoom, build_error_figure
from sansref.results.viewer.contents import ViewerSlice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("--", ":", "-.")
MAPS_A_ROW = 8


def error_figure(path: str | Path, shown: ViewerSlice, title: str = "", zoom: Zoom | None = None) -> None:
    """Write :func:`~sansref.results.error_figure.build_error_figure`; FileError if the system refuses."""
    save_figure(build_error_figure(shown, title, zoom), path)


def maps_figure(path: str | Path, maps: Mapping[str, npt.NDArray[np.floating[Any]]]) -> None:
    """Write the magnitudes of coil sensitivity maps by name, (height, width) each, side by side on one grey scale.

    Raises
    ------
    FileError
        If the system refuses.
    """
    from matplotlib.figure import Figure

    columns = min(MAPS_A_ROW, len(maps))
    rows = -(-len(maps) // columns)
    height, width = next(iter(maps.values())).shape
    brightest = max(float(one.max()) for one in maps.values())
    figure = Figure(figsize=(1.6 * columns, 1.75 * rows * height / width), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in places:
        axes.set_axis_off()
    for (name, one), axes in zip(maps.items(), places, strict=False):
        axes.imshow(one, cmap="gray", vmin=0, vmax=brightest)
        axes.set_title(name, fontsize=8)
    save_figure(figure, path)


def build_stage_figure(curves: Mapping[str, Sequence[float]], baselines: Mapping[str, float] | None = None) -> Figure:
    """Draw the PSNR of each method over stages 1, 2, ..., and a level line for each method without stages.

    Parameters
    ----------
    curves
        Values by stage for each method, none of them empty; NaN leaves a gap.
    baselines
        One value for each method without stages.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_axes("stage", "PSNR (dB)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ends: list[tuple[float, Any]] = []
    for (name, values), look in zip(curves.items(), looks(len(curves)), strict=True):
        stages = range(1, len(values) + 1)
        ends.append((values[-1], axes.plot(stages, values, label=name, markersize=6, linewidth=1.6, **look)[0]))
    for index, (name, value) in enumerate((baselines or {}).items()):
        dashes = DASHES[index % len(DASHES)]
        ends.append((value, axes.axhline(value, label=name, color="#404040", linestyle=dashes, linewidth=1.4)))
    # Read downwards, the legend has the order of the lines' right ends.
    add_legend(figure, [handle for _, handle in sorted(ends, key=lambda end: -end[0])])
    return figure


def build_agreement_figure(
    score: Mapping[str, Sequence[float]], truth: Mapping[str, Sequence[float]]
) -> tuple[Figure, float]:
    """Draw the reference-free score of checkpoints against their true PSNR.

    Parameters
    ----------
    score
        Reference-free scores for each method, positive, lower is better.
    truth
        PSNR in decibels of the same checkpoints, at least two in all.

    Returns
    -------
    tuple
        The figure, and Spearman's rho between the negated score and PSNR over the checkpoints of all methods: +1
        if the score ranks them as the reference does, NaN if all scores or all PSNRs are alike.
    """
    scores, psnrs = (np.concatenate([np.asarray(points[name], float) for name in score]) for points in (score, truth))
    rho = _rank_correlation(scores, psnrs)
    figure, axes = new_axes("reference-free score (lower is better)", "PSNR (dB)")
    _use_log_axis(axes, scores)
    axes.set_title(f"Spearman's rho = {rho:+.2f}".replace("-", "\N{MINUS SIGN}"), fontsize=11, loc="left")
    for name, look in zip(score, looks(len(score)), strict=True):
        axes.scatter(score[name], truth[name], s=46, alpha=0.85, edgecolor="white", linewidth=0.5, label=name, **look)
    add_legend(figure, axes.collections)
    return figure, rho


def _rank_correlation(scores: npt.NDArray[np.float64], psnrs: npt.NDArray[np.float64]) -> float:
    from scipy.stats import spearmanr

    if np.ptp(scores) == 0 or np.ptp(psnrs) == 0:
        return math.nan
    return float(spearmanr(-scores, psnrs).statistic)


def new_axes(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """An empty plot in the style of all figures."""
    from matplotlib.figure import Figure

    figure = Figure((7.5, 4.4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel, fontsize=11, parse_math=False)
    axes.set_ylabel(ylabel, fontsize=11, parse_math=False)
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Ticks, frame and grid of all plots."""
    axes.tick_params(which="both", labelsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)


def _use_log_axis(axes: Axes, values: npt.NDArray[np.float64]) -> None:
    from matplotlib.ticker import FormatStrFormatter, MaxNLocator, NullLocator

    axes.set_xscale("log")
    # Powers of ten label a narrow range once or not at all.
    if values.max() < 20 * values.min():
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_locator(NullLocator())


def looks(count: int) -> list[dict[str, Any]]:
    """Colour and marker of so many curves; no two of the first 56 share both."""
    return [{"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]} for index in range(count)]


def add_legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Name curves beside the plot."""
    legend = figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=10)
    for text in legend.get_texts():
        text.set_parse_math(False)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, or as SVG if the name ends so; FileError if the system refuses.

    The same figure gives the same file: an SVG has no date and no random names.
    """
    from matplotlib import rc_context

    kind = "svg" if Path(path).suffix == ".svg" else "png"
    with atomic_path(path) as temporary, rc_context({"svg.hashsalt": "sansref"}), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing")  # of names in other scripts: boxes stand for them
        figure.savefig(temporary, format=kind, facecolor="white", metadata={"Date": None} if kind == "svg" else None)
