"""What the page of a comparison shows: tables, distributions, curves and slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.floating[Any]]

Better = Literal["high", "low"]


@dataclass(frozen=True)
class Heading:
    """Head of a column: its text, and which of its numbers are better; None where neither is."""

    text: str
    better: Better | None = None


@dataclass(frozen=True)
class Entry:
    """A cell: its text, and the number or word it is sorted by; None and NaN are sorted last."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class SortableTable:
    """A table that the reader can sort by each column.

    Attributes
    ----------
    caption
        What the table shows, without a full stop.
    headings
        The first column names the rows.
    rows
        Cells, one for each heading. The best of a column whose heading says what is better are set in bold.
    note
        How the numbers are defined, written below.

    Raises
    ------
    ValueError
        If a row has another length than ``headings``, or a column is sorted by words and numbers, or has a better end
        and is sorted by words.
    """

    caption: str
    headings: Sequence[Heading]
    rows: Sequence[Sequence[Entry]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headings):
                texts = [entry.text for entry in row]
                raise ValueError(f"row must have {len(self.headings)} cells, as headings has, got {texts}")
        for column, heading in enumerate(self.headings):
            words = sum(isinstance(row[column].value, str) for row in self.rows)
            numbers = sum(isinstance(row[column].value, float | int) for row in self.rows)
            if words and (numbers or heading.better):
                raise ValueError(f"column {heading.text!r} must be sorted by numbers, or by words without a better end")

    def numeric(self, column: int) -> bool:
        """Whether a column is sorted by numbers."""
        return any(isinstance(row[column].value, float | int) for row in self.rows)

    def highlights(self) -> frozenset[tuple[int, int]]:
        """Row and column of the cells set in bold."""
        return frozenset((row, column) for column in range(len(self.headings)) for row in self._best_rows(column))

    def _best_rows(self, column: int) -> list[int]:
        better = self.headings[column].better
        values = [finite(row[column].value) for row in self.rows]
        known = [value for value in values if value is not None]
        if better is None or not known:
            return []
        best = max(known) if better == "high" else min(known)
        return [row for row, value in enumerate(values) if value == best]


@dataclass(frozen=True)
class Distribution:
    """How the values of one metric spread, drawn as box plots.

    Attributes
    ----------
    metric
        Its name with its unit.
    values
        By acceleration, then by method, such as one value per subject; those that are not finite are left out.
    better
        Which values are better, if any.
    """

    metric: str
    values: Mapping[str, Mapping[str, Sequence[float]]]
    better: Better | None = None


@dataclass(frozen=True)
class Curve:
    """How the score of one training went; curves of one method, such as of several seeds, are drawn alike.

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


@dataclass(frozen=True)
class ViewerSlice:
    """One slice as all methods reconstruct it.

    Attributes
    ----------
    subject, number, acceleration
        What it is called.
    reference
        Magnitude, real (height, width), with a positive maximum, turned as it is to be shown.
    images
        By method: real, of the reference's shape and on its grey scale.
    captions
        By method, what is written beside its name, such as "33.41 dB / 0.9123".
    among_worst
        Whether it is one of the worst 5 % of all slices.
    is_median
        Whether it is in the middle of all slices.

    Raises
    ------
    ValueError
        If an image is complex, not finite or of another shape, or the reference is empty.
    """

    subject: str
    number: int
    acceleration: str
    reference: Image
    images: Mapping[str, Image]
    captions: Mapping[str, str] = field(default_factory=dict)
    among_worst: bool = False
    is_median: bool = False

    def __post_init__(self) -> None:
        for name, image in [("reference", self.reference), *self.images.items()]:
            if image.ndim != 2 or not np.isrealobj(image) or image.shape != self.reference.shape:
                expected = f"real (height, width) = {self.reference.shape}"
                raise ValueError(f"{self.name}: {name!r} must be {expected}, got {image.dtype} {image.shape}")
            if not np.isfinite(image).all():
                raise ValueError(f"{self.name}: {name!r} has NaN or infinite values")
        if not self.reference.max() > 0:
            raise ValueError(f"{self.name}: the reference must have a positive maximum")

    @property
    def name(self) -> str:
        """Subject and slice."""
        return f"{self.subject}, slice {self.number}"


@dataclass(frozen=True)
class Comparison:
    """What a page shows; parts that are empty are left out.

    Attributes
    ----------
    title, note
        Heading of the page, and the result in a sentence or two.
    tables, distributions, slices, curves
        In the order of the page.
    curve_label
        What the training curves show, with its unit.
    config
        Resolved configuration, as text.
    versions
        Of the software, by name.
    """

    title: str
    note: str
    tables: Sequence[SortableTable] = ()
    distributions: Sequence[Distribution] = ()
    slices: Sequence[ViewerSlice] = ()
    curves: Sequence[Curve] = ()
    curve_label: str = "held-out error"
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """All methods with images, values or curves, in the order in which they come."""
        names = [name for shown in self.slices for name in shown.images]
        names += [name for part in self.distributions for values in part.values.values() for name in values]
        return list(dict.fromkeys([*names, *(curve.method for curve in self.curves)]))


def finite(value: float | str | None) -> float | None:
    """A number that can be sorted, written as JSON and highlighted; None for words, NaN and infinity."""
    return None if value is None or isinstance(value, str) or not isfinite(value) else float(value)
