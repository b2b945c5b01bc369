"""How sure the numbers of a comparison are: intervals, paired tests and the share of a gap that a method closes.

Slices of one subject are alike, so subjects, not slices, are what is resampled and tested. Intervals are percentile
bootstraps (Efron and Tibshirani 1993, section 13.3) of whole subjects, from the same seeded resamples for all methods:
a table made twice has the same numbers. With few subjects they hold the truth less often than they say, see
:data:`FEW`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import compress
from math import inf, isfinite, isnan, nan
from statistics import stdev

import numpy as np
import numpy.typing as npt

from sansref.results.scores import Better, ScoredSlice

Values = Mapping[str, Sequence[float]]
"""One value per slice, by subject; NaN where a slice has none."""
Interval = tuple[float, float]
_Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
FEW = 20
"""With fewer subjects, intervals are clearly too narrow: those of 5 subjects hold a normal mean in 84 of 100 cases."""

_ONE_SIGMA = 0.8413
"""Share of a normal distribution below one standard deviation."""

_SEED = 0
_TAILS = (2.5, 97.5)
_UNKNOWN: Interval = (nan, nan)


@dataclass(frozen=True)
class Estimate:
    """Mean of a method's scores.

    Attributes
    ----------
    mean, std
        Over all slices; the standard deviation is the sample's, and 0 for a single slice. NaN without slices.
    slices, subjects
        How many.
    interval
        95 % interval of the mean; NaN with fewer than two subjects.
    """

    mean: float
    std: float
    slices: int
    subjects: int
    interval: Interval


@dataclass(frozen=True)
class Difference:
    """Paired difference from the baseline.

    Attributes
    ----------
    mean
        Of the differences between per-subject means; NaN without common subjects.
    interval
        95 % interval of the mean; NaN with fewer than two subjects.
    subjects
        How many both methods have.
    p
        Of the two-sided Wilcoxon signed-rank test over subjects; NaN without common subjects.
    corrected
        The same after Holm's correction.
    """

    mean: float
    interval: Interval
    subjects: int
    p: float
    corrected: float

    @property
    def smallest(self) -> float:
        """The smallest ``p`` that so many subjects can give: all differences of one sign, 2 of 2^n assignments."""
        return min(1.0, 2.0 ** (1 - self.subjects))


@dataclass(frozen=True)
class Share:
    """Share of a gap that is closed, 0 at its lower end and 1 at its upper; NaN where it is not defined."""

    share: float
    interval: Interval


def by_subject(rows: Iterable[ScoredSlice], metric: str) -> dict[str, list[float]]:
    """Scores of one label at one acceleration, the mean over seeds of each slice; NaN where a seed has none.

    Parameters
    ----------
    rows
        The trainings of several seeds were scored on the same slices in the same order.
    metric
        Name of the score.
    """
    trained: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    seen: dict[tuple[int, int, str, int], int] = defaultdict(int)
    for row in rows:
        # A subject may have several files, whose slices have the same numbers.
        place = row.fold, row.seed, row.subject, row.slice
        trained[row.subject, row.slice, seen[place]].append(getattr(row, metric))
        seen[place] += 1
    values: dict[str, list[float]] = defaultdict(list)
    for (subject, _, _), scores in trained.items():
        values[subject].append(float(np.mean(scores)))
    return {subject: slices for subject, slices in values.items() if not np.isnan(slices).all()}


def standard_error(values: Sequence[float]) -> float:
    """Of the mean, as large as Student's distribution makes it where values are few; infinite for a single one."""
    if len(values) < 2 or not all(map(isfinite, values)):
        return inf
    from scipy.stats import t

    few = float(t.ppf(_ONE_SIGMA, len(values) - 1))
    return few * stdev(values) / len(values) ** 0.5


def estimate(values: Values) -> Estimate:
    """Mean and standard deviation over all slices, and the interval of the mean."""
    values = _known(values)
    if not values:
        return Estimate(nan, nan, 0, 0, _UNKNOWN)
    slices = np.concatenate([np.asarray(values[subject], dtype=np.float64) for subject in values])
    # An infinite PSNR, of images that are equal, leaves spread and interval undefined.
    with np.errstate(invalid="ignore"):
        mean, std = float(slices.mean()), float(slices.std(ddof=min(1, len(slices) - 1)))
    return Estimate(mean, std, len(slices), len(values), _interval(values))


def against(baseline: Values, others: Mapping[str, Values]) -> dict[str, Difference]:
    """Differences of methods from the baseline, each over the subjects and slices that both have.

    The test is exact; subjects without a difference are left out (Wilcoxon 1945), and p is 1 if there are no others.
    Ties are counted as they are. p is corrected for testing as many methods as there are.

    Parameters
    ----------
    baseline, others
        Values of one metric at one acceleration, others by label.
    """
    found = {label: _difference(baseline, values) for label, values in others.items()}
    corrected = holm([one.p for one in found.values()])
    return {label: replace(one, corrected=p) for (label, one), p in zip(found.items(), corrected, strict=True)}


def _difference(baseline: Values, values: Values) -> Difference:
    baseline, values = _common(baseline, values)
    if not values:
        return Difference(nan, _UNKNOWN, 0, nan, nan)
    # Both are infinite where two methods reconstruct a subject without any error.
    with np.errstate(invalid="ignore"):
        differences = _subject_means(values) - _subject_means(baseline)
    paired = {subject: [float(one)] for subject, one in zip(values, differences, strict=True)}
    p = _signed_rank(differences)
    return Difference(float(differences.mean()), _interval(paired), len(paired), p, p)


def _signed_rank(differences: _Floats) -> float:
    if np.isnan(differences).any():
        return nan
    changed = differences[differences != 0]
    # Twice the ranks, since equal sizes share a mean one. SciPy's exact test takes ties for differing sizes.
    from scipy.stats import rankdata  # takes long to be imported, and whoever tests nothing does without

    ranks = np.rint(2 * rankdata(np.abs(changed))).astype(int)
    chances = np.zeros(int(ranks.sum()) + 1)
    chances[0] = 1.0
    for rank in ranks:
        chances[rank:] = chances[rank:] / 2 + chances[: len(chances) - rank] / 2
        chances[:rank] /= 2
    positive = int(ranks[changed > 0].sum())
    return min(1.0, 2 * float(chances[: min(positive, len(chances) - 1 - positive) + 1].sum()))


def holm(p: Sequence[float]) -> list[float]:
    """Step-down correction for several tests (Holm, Scand J Stat 6:65, 1979); NaN is no test and stays NaN."""
    corrected, largest = list(p), 0.0
    tests = sorted((index for index, value in enumerate(p) if not isnan(value)), key=lambda index: p[index])
    for rank, index in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - rank) * p[index]))
        corrected[index] = largest
    return corrected


def gap_share(values: Values, low: Values, high: Values, better: Better = "higher") -> Share:
    """Share of the gap between two methods that a third closes, (m - low) / (high - low) of means over slices.

    Only subjects and slices that all three have count, and a resample is of the same subjects for all three.

    A share means nothing where there is no gap. If the gap is not positive in the direction of better, it is undefined.
    A resample without a gap is counted at both ends of the interval, as if its share were infinite of either sign:
    some of them widen the interval, and more than 2.5 % leave it undefined.

    Parameters
    ----------
    values
        Of the method.
    low, high
        Of the gap's worse and better end.
    better
        Which values are better.
    """
    values, low, high = _common(values, low, high)
    sign = 1.0 if better == "higher" else -1.0
    middle, bottom, top = (estimate(one).mean for one in (values, low, high))
    if not (isfinite(middle) and 0 < sign * (top - bottom) < inf):
        return Share(nan, _UNKNOWN)
    share = (middle - bottom) / (top - bottom)
    middles, bottoms, tops = (_resampled_means(one) for one in (values, low, high))
    gap = tops - bottoms
    defined = sign * gap > 0
    shares = np.divide(middles - bottoms, gap, out=np.zeros_like(gap), where=defined)
    lower = np.percentile(np.where(defined, shares, -inf), _TAILS[0], method="lower")
    upper = np.percentile(np.where(defined, shares, inf), _TAILS[1], method="higher")
    bounded = len(values) > 1 and isfinite(lower) and isfinite(upper)
    return Share(share, (float(lower), float(upper)) if bounded else _UNKNOWN)


def _known(values: Values) -> Values:
    """Subjects with values, by name: their order changes nothing."""
    known = {subject: [value for value in values[subject] if not isnan(value)] for subject in sorted(values)}
    return {subject: slices for subject, slices in known.items() if slices}


def _common(*parts: Values) -> list[Values]:
    """Subjects that all have. Of as many slices, one that is not known of all of them counts for none."""
    shared = [subject for subject in parts[0] if all(subject in part for part in parts)]
    found = [{subject: list(part[subject]) for subject in shared} for part in parts]
    for subject in shared:
        slices = [part[subject] for part in found]
        if len(set(map(len, slices))) == 1:
            defined = [not any(map(isnan, values)) for values in zip(*slices, strict=True)]
            for part in found:
                part[subject] = list(compress(part[subject], defined))
    known = [_known(part) for part in found]
    return [{subject: part[subject] for subject in part if all(subject in one for one in known)} for part in known]


def _subject_means(values: Values) -> _Floats:
    return np.array([np.mean(values[subject]) for subject in values])


def _resampled_means(values: Values) -> _Floats:
    """Means over the slices of the subjects drawn in each resample."""
    sums = np.array([np.sum(values[subject]) for subject in values], dtype=np.float64)
    counts = np.array([len(values[subject]) for subject in values], dtype=np.float64)
    drawn = _drawn(len(values))
    with np.errstate(invalid="ignore"):
        return (drawn @ sums) / (drawn @ counts)


def _interval(values: Values) -> Interval:
    if len(values) < 2:
        return _UNKNOWN
    means = _resampled_means(values)
    if not np.isfinite(means).all():
        return _UNKNOWN
    low, high = np.percentile(means, _TAILS)
    return float(low), float(high)


@lru_cache(maxsize=8)
def _drawn(subjects: int) -> _Floats:
    """How often each subject is drawn, (resamples, subjects)."""
    generator = np.random.default_rng(_SEED)
    drawn = generator.multinomial(subjects, np.full(subjects, 1 / subjects), RESAMPLES).astype(np.float64)
    drawn.setflags(write=False)
    return drawn
