"""1-D sampling laws: whole columns (phase-encoding lines, the last axis) are acquired or not.

``center`` is the fraction of the columns that is fully sampled around DC. fastMRI pairs an acceleration of 4
with 0.08 and of 8 with 0.04.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sansref.kspace.grid import Shape, central_mask, fraction_sides
from sansref.kspace.masks.mask import SamplingMask, check_request, sample_budget


def random_columns(
    shape: Shape, acceleration: float, generator: Generator, *, center: float = 0.08, exact: bool = True
) -> SamplingMask:
    """Full central columns, and every other column with the same probability.

    The law of fastMRI's ``RandomMaskFunc``: ``n = round(width * center)`` central columns, and each other one
    with ``p = (width / acceleration - n) / (width - n)``.

    Parameters
    ----------
    shape
        Height and width of the grid.
    acceleration
        At least 1; the central columns count.
    generator
        Source of randomness.
    center
        Fraction of the columns that is fully sampled.
    exact
        Take exactly ``round(width / acceleration)`` columns. False is fastMRI's law, where the number of
        columns varies from mask to mask.

    Raises
    ------
    SettingError
        If the request is impossible.
    """
    low, wanted = _low_frequencies(shape, acceleration, center)
    outer = torch.nonzero(~low).flatten()
    taken = low.clone()
    if exact:
        chosen = torch.randperm(len(outer), generator=generator)[: wanted - int(low.sum())]
        taken[outer[chosen]] = True
        probability = (wanted - int(low.sum())) / max(len(outer), 1)
    else:
        # The rounding of n can put it a little above width / acceleration.
        probability = max(shape[1] / acceleration - int(low.sum()), 0.0) / max(len(outer), 1)
        taken[outer] = torch.rand(len(outer), dtype=torch.float64, generator=generator) < probability
    density = torch.where(low, 1.0, probability)
    return _from_line(shape, taken, density, "random_columns", acceleration)


def equispaced_columns(
    shape: Shape, acceleration: float, generator: Generator, *, center: float = 0.08, exact: bool = True
) -> SamplingMask:
    """Full central columns, and equally spaced columns with a random offset.

    The spacing is ``acceleration * (width - n) / (width - n * acceleration)`` columns, so that the total
    acceleration is right together with the ``n`` central columns; positions are rounded to columns.

    Parameters
    ----------
    shape
        Height and width of the grid.
    acceleration
        At least 1; the central columns count.
    generator
        Source of randomness.
    center
        Fraction of the columns that is fully sampled.
    exact
        Take exactly ``round(width / acceleration)`` columns: the spaced columns are counted over the outer
        columns only, so that none falls into the centre, with a continuous random offset (every outer column
        is equally likely). False is the law of fastMRI's ``EquispacedMaskFractionFunc``, where the columns run
        through the centre, the offset is an integer and the number of columns varies a little.

    Raises
    ------
    SettingError
        If the request is impossible.
    """
    low, wanted = _low_frequencies(shape, acceleration, center)
    if wanted in (int(low.sum()), len(low)):  # no other column, or every one: there is nothing to space
        taken = torch.full_like(low, wanted == len(low)) | low
        density = taken.double()
    elif exact:
        taken, density = _systematic(low, wanted, generator)
    else:
        taken, density = _fastmri_equispaced(low, acceleration, generator)
    return _from_line(shape, taken, density, "equispaced_columns", acceleration)


def _systematic(low: Tensor, wanted: int, generator: Generator) -> tuple[Tensor, Tensor]:
    outer = torch.nonzero(~low).flatten()
    count = wanted - int(low.sum())
    taken = low.clone()
    steps = torch.arange(count) + torch.rand((), dtype=torch.float64, generator=generator)
    taken[outer[(steps * (len(outer) / count)).long()]] = True
    return taken, torch.where(low, 1.0, count / len(outer))


def _fastmri_equispaced(low: Tensor, acceleration: float, generator: Generator) -> tuple[Tensor, Tensor]:
    width, central = len(low), int(low.sum())
    spacing = acceleration * (width - central) / (width - central * acceleration)
    masks = low.repeat(round(spacing), 1)  # one for each offset, all equally likely
    for offset, mask in enumerate(masks):
        mask[torch.arange(offset, max(width - 1, offset), spacing, dtype=torch.float64).round().long()] = True
    drawn = int(torch.randint(len(masks), (), generator=generator))
    return masks[drawn], masks.double().mean(0)


def _low_frequencies(shape: Shape, acceleration: float, center: float) -> tuple[Tensor, int]:
    check_request(shape, acceleration)
    line = (1, shape[1])
    low = central_mask(line, fraction_sides(line, center))[0]
    return low, sample_budget(shape[1], int(low.sum()), acceleration, "columns")


def _from_line(shape: Shape, taken: Tensor, density: Tensor, law: str, acceleration: float) -> SamplingMask:
    return SamplingMask(
        array=taken.expand(shape).clone(),
        density=density.float().expand(shape).clone(),
        columns=True,
        law=law,
        asked=float(acceleration),
    )
