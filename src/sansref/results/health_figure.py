"""The training-health figure of adversarial runs: does either side win, do the losses fall, do the networks agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sansref.files import claimed
from sansref.results.error_figure import DPI
from sansref.results.figures import COLOURS, DASHES, MARKERS, save_figure, style_axes
from sansref.training.history import read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, str]

# Inches of a panel; panels of a row; markers along a curve.
_WIDTH, _HEIGHT, _ABREAST, _MARKS = 5.2, 2.7, 2, 8


@dataclass(frozen=True)
class _Panel:
    """Curves that share an axis: the names in the legend by column of the log."""

    title: str
    curves: Mapping[str, str]
    log: bool = False


_PANELS = (
    _Panel(
        "discriminator on full images: mean output",
        {"d_full_real": "real", "d_full_fake": "made from undersampled"},
    ),
    _Panel(
        "discriminator on undersampled images: mean output",
        {"d_under_real": "real", "d_under_fake": "made from full"},
    ),
    _Panel(
        "consistency (mean absolute difference)",
        {"cycle": "cycle", "bypass": "bypass", "pseudo": "pseudo", "noise": "noise"},
        log=True,
    ),
    _Panel("acquired samples: relative residual of G(x)", {"sampling_residual": "residual"}),
    _Panel("the ensemble's halves: mean |G(x) \N{MINUS SIGN} (x \N{MINUS SIGN} H(x))|", {"halves": "difference"}),
    _Panel(
        "spread (standard deviation, vanishes on collapse)",
        {"d_spread": "discriminator's output", "output_spread": "generator's images"},
        log=True,
    ),
    _Panel("validation score (lower is better)", {"score": "score"}),
    _Panel(
        "loss of each turn",
        {"loss_discriminator": "discriminator", "loss_generator": "generator", "loss_extractor": "extractor"},
    ),
)


def draw_health(run: Path) -> None:
    """Write ``health.png`` into a run directory; nothing before its first epoch, whose history this shows.

    Nothing is written into a folder that is none: a training that was refused is no reason to.
    """
    if claimed(run) == "run" and (rows := read_history(run / "metrics.csv")):
        save_figure(build_health_figure(rows), run / "health.png")


def build_health_figure(rows: Sequence[Row]) -> Figure:
    """Draw what an adversarial run has logged, epoch by epoch.

    Panels are the mean judgements of real and made images of either domain; the consistency losses, in image units
    [-1, 1]; how far generated images are from their acquired samples; how far the two halves of the ensemble are from
    each other; the spreads that vanish where a network collapses; the validation score; and the loss of each turn.
    Epochs are counted from 1 through all stages.

    Parameters
    ----------
    rows
        Of ``metrics.csv``, see :func:`sansref.training.history.read_history`. A panel without any of its columns is
        left out; an empty cell leaves a gap. Every row has a score.
    """
    from matplotlib.figure import Figure

    found = [(panel, curves) for panel in _PANELS if (curves := _curves_of(panel, rows))]
    across = min(len(found), _ABREAST)
    down = -(-len(found) // across)
    figure = Figure((across * _WIDTH, down * _HEIGHT), dpi=DPI, layout="constrained")
    for place, (panel, curves) in enumerate(found, start=1):
        axes = figure.add_subplot(down, across, place)
        _style(axes, panel, last=place > len(found) - across)
        _draw(axes, panel, curves)
    return figure


def _curves_of(panel: _Panel, rows: Sequence[Row]) -> dict[str, list[float]]:
    """Values by epoch of the panel's columns that hold any."""
    curves = {column: [_number(row.get(column)) for row in rows] for column in panel.curves}
    return {column: values for column, values in curves.items() if not all(map(math.isnan, values))}


def _number(cell: str | None) -> float:
    return float(cell) if cell else math.nan


def _style(axes: Axes, panel: _Panel, last: bool) -> None:
    """Title and axes; a legend stands between title and data, where it hides nothing."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(panel.title, fontsize=11, loc="left", pad=22 if len(panel.curves) > 1 else 6)
    style_axes(axes)
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    if last:
        axes.set_xlabel("epoch", fontsize=11)


def _use_log_axis(axes: Axes) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_yscale("log", nonpositive="mask")
    # Powers of ten alone label a narrow range once or not at all.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())


def _draw(axes: Axes, panel: _Panel, curves: Mapping[str, Sequence[float]]) -> None:
    """Draw curves that can be told apart in grey: each has its own dashes, and a marker at epochs of its own."""
    if panel.log and any(value > 0 for values in curves.values() for value in values):
        _use_log_axis(axes)
    for index, (column, name) in enumerate(panel.curves.items()):
        if column not in curves:
            continue
        values = curves[column]
        step = max(1, len(values) // _MARKS)
        axes.plot(
            range(1, len(values) + 1),
            values,
            label=name,
            color=COLOURS[index],
            linestyle=("-", *DASHES)[index],
            marker=MARKERS[index],
            markevery=(index * step // len(panel.curves), step),
            markersize=5,
            linewidth=1.6,
        )
    if len(panel.curves) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 0.97), ncols=len(curves), frameon=False, fontsize=10)
