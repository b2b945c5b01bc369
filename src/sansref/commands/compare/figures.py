"""Figures of a comparison, each as PNG and SVG: error maps, spread of scores, how trainings went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sansref.commands.compare.plan import slug
from sansref.results.error_figure import build_error_figure, worst_region
from sansref.results.figures import add_legend, looks, new_axes, save_figure
from sansref.results.viewer.contents import Curve, Distribution, ViewerSlice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")


def draw_errors(folder: Path, slices: Sequence[ViewerSlice]) -> None:
    """Write the worst slices and the median one of each acceleration, with errors and an enlargement of the worst part.

    Parameters
    ----------
    folder
        For ``errors-ACCELERATION-worst-N`` and ``errors-ACCELERATION-median``.
    slices
        Of each acceleration from the worst to the best.
    """
    groups: dict[str, list[ViewerSlice]] = defaultdict(list)
    for shown in slices:
        groups[shown.acceleration].append(shown)
    for acceleration, group in groups.items():
        titles = [(f"worst {number}", shown) for number, shown in enumerate(group, start=1) if shown.among_worst]
        titles += [("median", shown) for shown in group if shown.is_median]
        for title, shown in titles:
            heading = f"{acceleration}, {title} slice: {shown.name}"
            figure = build_error_figure(shown, heading, worst_region(shown))
            _save(figure, folder / f"errors-{acceleration}-{slug(title)}")


def draw_spread(folder: Path, name: str, part: Distribution) -> None:
    """Write the box plots of one metric as ``NAME-ACCELERATION``."""
    for acceleration, methods in part.values.items():
        finite = {label: [one for one in values if np.isfinite(one)] for label, values in methods.items()}
        # Read downwards, the order is that of the table.
        known = {label: values for label, values in reversed(finite.items()) if values}
        if not known:
            continue
        figure, axes = new_axes(f"{part.metric}, {acceleration}", "")
        axes.boxplot(
            list(known.values()),
            orientation="horizontal",
            tick_labels=list(known),
            showmeans=True,
            medianprops={"color": "black"},
            meanprops={"marker": "D", "markerfacecolor": "#D55E00", "markeredgecolor": "none", "markersize": 5},
            flierprops={"marker": ".", "markersize": 4},
        )
        for text in axes.get_yticklabels():
            text.set_parse_math(False)
        _save(figure, folder / f"{name}-{acceleration}")


def draw_curves(folder: Path, curves: Sequence[Curve]) -> None:
    """Write the validation scores over epochs, a figure for each acceleration."""
    labels = list(dict.fromkeys(curve.method for curve in curves))
    look = dict(zip(labels, looks(len(labels)), strict=True))
    for acceleration in dict.fromkeys(curve.acceleration for curve in curves):
        figure, axes = new_axes(f"epoch, {acceleration}", "held-out error (lower is better)")
        axes.set_yscale("log")
        named = {}
        for curve in (curve for curve in curves if curve.acceleration == acceleration):
            every = max(1, len(curve.epochs) // 8)
            line = axes.plot(
                curve.epochs, curve.scores, label=curve.method, markevery=every, linewidth=1.4, **look[curve.method]
            )
            named[curve.method] = line[0]
        add_legend(figure, list(named.values()))
        _save(figure, folder / f"training-{acceleration}")


def _save(figure: Figure, path: Path) -> None:
    for kind in FORMATS:
        save_figure(figure, path.with_name(f"{path.name}.{kind}"))
