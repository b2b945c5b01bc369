"""Splits by subject: slices of one person never stand on both sides of a split."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from sansref.errors import SettingError
from sansref.randomness import seeded


def split_subjects(subjects: Iterable[str], fractions: dict[str, float], seed: int) -> dict[str, list[str]]:
    """Divide subjects at random into named parts.

    Parameters
    ----------
    subjects
        One name per scan or file; repeats count once.
    fractions
        Wanted share of each part but the first, which takes what is left; a positive share gets at least
        one subject.
    seed
        Of the random order.

    Returns
    -------
    dict
        Sorted subject names of each part; the parts are disjoint and complete.

    Raises
    ------
    SettingError
        If there are too few subjects to give every part one.
    """
    names = sorted(set(subjects))
    first, *others = fractions
    order = [names[i] for i in torch.randperm(len(names), generator=seeded(seed, "split")).tolist()]
    parts: dict[str, list[str]] = {}
    start = 0
    for part in others:
        share = fractions[part]
        if not 0 <= share < 1:
            raise SettingError(f"the {part} fraction must lie in [0, 1), got {share}")
        count = max(1, round(share * len(names))) if share > 0 else 0
        parts[part] = sorted(order[start : start + count])
        start += count
    parts = {first: sorted(order[start:]), **parts}
    if not parts[first]:
        wanted = ", ".join(f"{part} {fractions[part]:g}" for part in others)
        raise SettingError(
            f"{len(names)} subject(s) cannot be split into {first} and {wanted}: add subjects or set a fraction to 0"
        )
    return parts
