"""Splits by subject: slices of one person never stand on both sides of a split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from sansref.errors import SettingError
from sansref.randomness import seeded


@dataclass(frozen=True)
class Fold:
    """One of the ``of`` rounds of a cross-validation, numbered from 0; each subject is tested on in one of them."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if self.of < 2:
            raise SettingError(f"a cross-validation takes at least 2 folds, got {self.of}")
        if not 0 <= self.number < self.of:
            raise SettingError(f"{self.of} folds are numbered from 0 to {self.of - 1}, there is no fold {self.number}")


def split_subjects(
    subjects: Iterable[str], fractions: dict[str, float], seed: int, fold: Fold | None = None
) -> dict[str, list[str]]:
    """Divide subjects at random into named splits.

    Raises ``SettingError`` if there are too few subjects to give every split one, or fewer than folds, or if a fold and
    a test fraction are both given, and ``ValueError`` if a fold is given and no split after the first is named
    ``test``.

    Parameters
    ----------
    subjects
        One name per scan or file; repeats count once.
    fractions
        Share of all subjects that each split gets but the first, which takes what is left; a positive one gives at
        least one subject.
    seed
        Seed of the random order, which all folds have in common.
    fold
        Makes the split named ``test`` the fold's own share of the random order, which differs by at most one subject
        between folds; its fraction must then be 0. The other splits are taken from behind the fold, so that their
        subjects change from fold to fold as well.

    Returns
    -------
    dict
        Sorted subject names of each split; the splits are disjoint and complete.
    """
    names = sorted(set(subjects))
    first, *others = fractions
    order = [names[i] for i in torch.randperm(len(names), generator=seeded(seed, "split")).tolist()]
    tested: list[str] = []
    if fold is not None:
        if "test" not in others:
            raise ValueError(f"with a fold, a split after the first must be named 'test', got {list(fractions)}")
        tested, order = _fold_first(order, fold, fractions["test"])
    splits: dict[str, list[str]] = {}
    start = 0
    for split in others:
        share = fractions[split]
        if not 0 <= share < 1:
            raise SettingError(f"the {split} fraction must lie in [0, 1), got {share}: change --{split}")
        count = max(1, round(share * len(names))) if share > 0 else 0
        splits[split] = sorted(order[start : start + count])
        start += count
    splits = {first: sorted(order[start:]), **splits}
    if fold is not None:
        splits["test"] = sorted(tested)
    if not splits[first]:
        shares = {split: f"{fractions[split]:g}" for split in others}
        if fold is not None:
            shares["test"] = f"one of {fold.of} folds"
        told = f"{len(names)} subject(s) cannot be split into {first} and "
        told += ", ".join(f"{split} {share}" for split, share in shares.items())
        options = " or ".join(f"--{split}" for split in others if fractions[split] > 0) or "--folds"
        raise SettingError(f"{told}: add subjects or set {options} to 0")
    return splits


def _fold_first(order: list[str], fold: Fold, share: float) -> tuple[list[str], list[str]]:
    """The fold's split of the random order, and the others as the order goes on behind it."""
    if share != 0:
        raise SettingError(
            f"the test split is fold {fold.number} of {fold.of} or a fraction, not both: set the test fraction to 0, "
            f"got {share:g} (--test 0, or --folds 0)"
        )
    if len(order) < fold.of:
        told = f"{len(order)} subject(s) cannot be split into {fold.of} folds"
        raise SettingError(f"{told}: add subjects or take fewer folds (--folds)")
    start, stop = (number * len(order) // fold.of for number in (fold.number, fold.number + 1))
    return order[start:stop], order[stop:] + order[:start]


def split_halves(subjects: Iterable[str], seed: int) -> tuple[list[str], list[str]]:
    """Divide subjects at random into sorted names of those with full scans and of those with undersampled ones.

    So unpaired data are emulated from full scans; the code of ISCL (Lee and Jeong, IEEE TMI 40:3238, 2021) halves its
    images, not its subjects, and takes the first half as the full one too. Of an odd number the undersampled half,
    which is learned to be reconstructed, gets one more. Raises ``SettingError`` if there are fewer than two subjects.
    """
    names = sorted(set(subjects))
    if len(names) < 2:
        told = f"{len(names)} subject(s) cannot be halved into full and undersampled scans"
        raise SettingError(f"{told}: at least 2 are needed")
    order = [names[i] for i in torch.randperm(len(names), generator=seeded(seed, "halves")).tolist()]
    half = len(order) // 2
    return sorted(order[:half]), sorted(order[half:])
