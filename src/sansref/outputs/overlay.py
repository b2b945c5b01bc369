"""Error maps as colour over images, and what the colours mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sansref.metrics.contradiction import THRESHOLD
from sansref.metrics.sure import VISIBLE

Array = npt.NDArray[np.floating[Any]]

OPACITY = 0.7
"""Of an overlay where its map is at the end of its scale."""

DISPLAY_PERCENTILE = 99.8
"""Upper end of what is shown: a few bright vessels must not darken the rest."""


@dataclass(frozen=True)
class Overlay:
    """How a map is laid over an image as colour.

    Attributes
    ----------
    positive, negative
        Red, green and blue, 0 to 255, of values above and below zero.
    start, end
        Magnitude from which it is seen, and from which it gets no stronger.
    of_maximum
        Whether these are shares of the image's maximum.
    legend
        What the colours mean, in words.
    """

    positive: tuple[int, int, int]
    negative: tuple[int, int, int]
    start: float
    end: float
    of_maximum: bool
    legend: str

    def over(self, image: Array, values: Array) -> npt.NDArray[np.uint8]:
        """The image as grey, 0 to its 99.8th percentile, with the map over it; (height, width, 3)."""
        white = float(np.percentile(image, DISPLAY_PERCENTILE))
        grey = 255 * np.clip(image / white, 0, 1) if white > 0 else np.zeros_like(image)
        unit = (float(image.max()) or 1.0) if self.of_maximum else 1.0
        share = OPACITY * np.clip((np.abs(values) / unit - self.start) / (self.end - self.start), 0, 1)[..., None]
        colour = np.where(values[..., None] < 0, self.negative, self.positive)
        return np.rint((1 - share) * grey[..., None] + share * colour).astype(np.uint8)


ORANGE, BLUE, RED = (255, 140, 0), (0, 190, 255), (255, 40, 40)

OVERLAYS = {
    "error_bound": Overlay(
        ORANGE, ORANGE, 0.02, 0.2, True, "orange: the error may be large; from 2 to 20 % of the slice's maximum"
    ),
    "contradiction": Overlay(
        BLUE,
        RED,
        2.0,
        THRESHOLD,
        False,
        f"the scan contradicts, red: added signal, blue: signal left out; from 2 to {THRESHOLD:g} standard deviations",
    ),
    "structure_lost": Overlay(
        ORANGE,
        ORANGE,
        VISIBLE / 2,
        2 * VISIBLE,
        False,
        f"orange: more was taken away than noise; from {VISIBLE / 2:g} to {2 * VISIBLE:g} standard deviations",
    ),
}
"""By the names of maps, which are those of their files."""
