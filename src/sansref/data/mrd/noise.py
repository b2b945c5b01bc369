"""The noise lines of a scan, and the whitening that they give."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sansref.data.mrd.lines import Data
from sansref.errors import FileError
from sansref.kspace.whitening import whitening_matrix

#: Samples per coil that are kept: they tell a covariance to well under 1 %.
MOST_SAMPLES = 2**16
#: Of the dwell times of scan and noise; beyond it one of them is not a dwell time.
MOST_RATIO = 100.0


class NoiseScan:
    """Gathers the noise lines of a scan, as many as are of use."""

    def __init__(self) -> None:
        self._lines: list[Data] = []
        self._dwell = 0.0
        self.samples = 0

    @property
    def coils(self) -> int:
        """Coils of the noise lines, 0 where there are none."""
        return len(self._lines[0]) if self._lines else 0

    @property
    def full(self) -> bool:
        """Whether further lines are of no use."""
        return self.samples >= MOST_SAMPLES

    def add(self, head: Any, data: Data) -> None:
        """Take in a noise line, complex64 (coils, samples); another number of coils starts afresh."""
        if self._lines and len(data) != self.coils:
            self._lines, self.samples = [], 0
        if not self.full:
            self._lines.append(data)
            self._dwell = float(head["sample_time_us"])
            self.samples += data.shape[1]

    def matrix(self, source: Path | str, coils: int, dwell: float) -> Tensor | None:
        """The matrix that whitens lines of a scan, so that the noise in them has unit strength.

        Noise power grows with the bandwidth, the inverse of the dwell time, so noise that was sampled faster than
        the scan is scaled down. (The receiver's filter, which may pass some 20 % less noise at the edges of the
        noise scan's band, is not known and left out.)

        Parameters
        ----------
        source
            Where the noise comes from, for error messages.
        coils
            Of the scan.
        dwell
            Time from one sample of the scan to the next in microseconds; 0 where it is not known.

        Returns
        -------
        Tensor or None
            complex64 (coils, coils); None where there is no noise, or that of another number of coils.

        Raises
        ------
        FileError
            If the noise is of no use: too short, not finite, of a dead coil or of coils that depend on each other.
        """
        if self.coils != coils:
            return None
        try:
            matrix = whitening_matrix(torch.from_numpy(np.concatenate(self._lines, axis=1)))
        except ValueError as error:
            problem = f"has noise lines that cannot whiten the coils: {error}"
            raise FileError(source, problem, "Repair or leave out the coil, or take the noise lines out") from error
        known = 1 / MOST_RATIO < dwell / self._dwell < MOST_RATIO if self._dwell > 0 else False
        return matrix * math.sqrt(dwell / self._dwell) if known else matrix
