"""What a page shows: tables, distributions, slices, curves, and sections of text and figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sansref.results.scores import Better, Metric, ScoredSlice
from sansref.results.statistics import by_subject
from sansref.results.tables import Table
from sansref.training.history import read_history

Image = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

WORST = 0.05
"""Share of all slices that are called the worst."""


@dataclass(frozen=True)
class Distribution:
    """How the values of one metric spread, drawn as box plots.

    Attributes
    ----------
    metric
        Its name with its unit.
    values
        By acceleration, then by method, such as one value per subject; those that are not finite are left out. The
        acceleration may be empty, here and below.
    better
        Which values are better, if any.
    """

    metric: str
    values: Mapping[str, Mapping[str, Sequence[float]]]
    better: Better | None = None

    @classmethod
    def of(
        cls, name: str, metric: Metric, labels: Collection[str], groups: Mapping[str, Sequence[ScoredSlice]]
    ) -> Distribution:
        """Collect a score of every slice, the mean over seeds.

        Parameters
        ----------
        name, metric
            The score.
        labels
            Methods, in the order of the plot.
        groups
            Scores by acceleration.
        """
        values = {group: {label: _per_slice(rows, label, name) for label in labels} for group, rows in groups.items()}
        return cls(metric.heading, values, metric.better)


def _per_slice(rows: Sequence[ScoredSlice], label: str, name: str) -> list[float]:
    by_person = by_subject([row for row in rows if row.label == label], name)
    return [value for values in by_person.values() for value in values if not isnan(value)]


@dataclass(frozen=True)
class Curve:
    """How the score of one training went; curves of one method, such as of several seeds, are drawn alike.

    ``epochs`` may hold other places along the axis, such as seconds, see :class:`Contents`.

    Raises
    ------
    ValueError
        If ``epochs`` and ``scores`` have different lengths or are empty.
    """

    method: str
    acceleration: str
    epochs: Sequence[float]
    scores: Sequence[float]

    def __post_init__(self) -> None:
        if not len(self.epochs) == len(self.scores) > 0:
            lengths = f"{len(self.epochs)} and {len(self.scores)}"
            raise ValueError(f"epochs and scores must have one length, at least 1, got {lengths}")

    @classmethod
    def of_run(cls, method: str, acceleration: str, run: Path) -> Curve:
        """Read the validation score of every epoch of a run, stages one after the other."""
        scores = [float(row["score"]) for row in read_history(run / "metrics.csv")]
        return cls(method, acceleration, range(1, len(scores) + 1), scores)


@dataclass(frozen=True)
class ViewerSlice:
    """One slice as all methods reconstruct it, turned as it is to be shown.

    Attributes
    ----------
    subject, number, acceleration
        What it is called.
    reference
        Magnitude, real (height, width), with a positive maximum; None where nobody has one, which leaves error maps
        out.
    images
        By method: real, of one shape and on one grey scale, that of the reference.
    captions
        By method, what is written beside its name, such as "33.41 dB / 0.9123".
    details
        By method, what else is known of it: value by name.
    mask
        Acquired samples, bool (rows, columns) of k-space as it is stored, or None.
    noise
        Standard deviation of the noise in the images' units, or None where it is not known.
    among_worst
        Whether it is one of the worst 5 % of all slices.
    is_median
        Whether it is in the middle of all slices.
    maps
        By method, its error maps: real, of the same shape, by their names in
        :data:`~sansref.outputs.overlay.OVERLAYS`.

    Raises
    ------
    ValueError
        If there is nothing to show, an image is complex, not finite or of another shape, or the reference is empty.
    """

    subject: str
    number: int
    acceleration: str
    reference: Image | None
    images: Mapping[str, Image]
    captions: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    mask: Mask | None = None
    noise: float | None = None
    among_worst: bool = False
    is_median: bool = False
    maps: Mapping[str, Mapping[str, Image]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {} if self.reference is None else {"reference": self.reference}
        if not {**known, **self.images}:
            raise ValueError(f"{self.name}: there is neither a reference nor an image")
        maps = [(name, one) for found in self.maps.values() for name, one in found.items()]
        for name, image in [*known.items(), *self.images.items(), *maps]:
            if image.ndim != 2 or not np.isrealobj(image) or image.shape != self.guide.shape:
                expected = f"real (height, width) = {self.guide.shape}"
                raise ValueError(f"{self.name}: {name!r} must be {expected}, got {image.dtype} {image.shape}")
            if not np.isfinite(image).all():
                raise ValueError(f"{self.name}: {name!r} has NaN or infinite values")
        if self.reference is not None and not self.reference.max() > 0:
            raise ValueError(f"{self.name}: the reference must have a positive maximum")

    @property
    def name(self) -> str:
        """Subject and slice."""
        return f"{self.subject}, slice {self.number}"

    @property
    def guide(self) -> Image:
        """The image that sets the grey scale: the reference, or else the last one."""
        return [*self.images.values()][-1] if self.reference is None else self.reference

    @property
    def peak(self) -> float:
        """What numbers are shown in percent of; 1 for a blank image."""
        return float(self.guide.max()) or 1.0


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes
    ----------
    path
        A PNG file; its content is copied into the page.
    caption
        What the picture shows.
    alt
        What it tells, for a reader who cannot see it.
    """

    path: Path
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading, and what stands below it: paragraphs of plain text, then figures."""

    title: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Contents:
    """What a page shows; parts that are empty are left out.

    Attributes
    ----------
    title, lead
        Heading of the page, and the result in a sentence or two.
    notes
        What a reader of the scores must know, a line each.
    facts
        What was done with which data, by name.
    tables, distributions, slices, curves, sections
        In the order of the page.
    curve_label
        What the training curves show, with its unit.
    config
        Resolved configuration, as text.
    versions
        Of the software, by name.
    curve_axis
        Over what the training curves show it.
    """

    title: str
    lead: str = ""
    notes: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    distributions: Sequence[Distribution] = ()
    slices: Sequence[ViewerSlice] = ()
    curves: Sequence[Curve] = ()
    sections: Sequence[Section] = ()
    curve_label: str = "validation score"
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    curve_axis: str = "epoch"

    @property
    def methods(self) -> list[str]:
        """All methods with images, values or curves, in the order in which they come."""
        names = [name for shown in self.slices for name in shown.images]
        names += [name for part in self.distributions for values in part.values.values() for name in values]
        return list(dict.fromkeys([*names, *(curve.method for curve in self.curves)]))


SHOWN = 6
"""Slices that the page of one file or one evaluation shows, at most."""


def worst_places(count: int) -> int:
    """How many of so many slices are called the worst."""
    return min(count, max(1, round(WORST * count)))


def telling_places(count: int, wanted: int) -> list[int]:
    """Places in a ranking from the worst to the best that tell most, in order.

    Up to half of them are the worst, the others, with the median and the best one among them, are spread evenly over
    the rest: averages hide failures, and the best slices hide them best.

    Parameters
    ----------
    count
        Slices in the ranking.
    wanted
        How many places at most.
    """
    worst = worst_places(count)
    first = min(worst, (wanted + 1) // 2)
    others = count - worst
    rest = min(wanted - first, others)
    places = [round((number + 1) * others / rest) - 1 for number in range(rest)]
    if places:
        median = count // 2 - worst
        movable = places[:-1] or places  # the last one is the best slice
        places[min(range(len(movable)), key=lambda number: abs(places[number] - median))] = median
    return [*range(first), *(worst + place for place in places)]
