"""How sure a mean is, when episodes are of seeds and seeds are of splits: the hierarchical bootstrap, made right for few seeds.

The percentiles of a bootstrap of three seeds cover the truth in 75 of 100 cases instead of 95. So the interval is
stretched to the length that Student's t gives it; ``docs/compare.md`` has the measurements.

A figure may be undefined, as a correlation with a constant is: NaN, or ``None`` where it was read from a file. It is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mtl.metrics import Array, mean_of, number

#: Figures of episodes, in lists of seeds, in lists of splits, to any depth.
Nested = Sequence[Any]
#: Fewest seeds whose interval is to be relied on.
FEWEST_UNITS = 3
RESAMPLES = 2000
LEVEL = 0.05
#: Figures are rounded sums; what differs by less is alike.
ALIKE = 1e-12
#: Rows of figures that are resampled at once: 16 MB of resampled means.
_CHUNK = 1024


@dataclass(frozen=True)
class Estimate:
    """A mean with its spread.

    Attributes:
        mean: Of all figures; every list of a level counts alike. NaN where none is defined.
        sd: Standard deviation over the figures.
        low: Lower end of the 95 % interval; NaN where there is one figure only, or all are alike and not 0: how much they
            vary is not known then.
        high: Upper end.
        count: How many figures there are.
        units: How many lists (or figures) were drawn from: those of the outermost level that has several.
        p: Level at which Student's t test says that the mean is not 0, for differences. NaN where there is one figure.
            Where all are alike it is that of the sign test, ``2^(1 − units)``, and 1 where all are 0.
    """

    mean: float
    sd: float
    low: float
    high: float
    count: int
    units: int
    p: float


def estimate(figures: Nested) -> Estimate:
    """Return mean, 95 % interval and level of significance of nested figures. See :func:`estimate_all`."""
    return estimate_all([figures])[0]


def estimate_all(many: Sequence[Nested]) -> list[Estimate]:
    """Return mean and 95 % interval of each of ``many`` by the hierarchical bootstrap.

    Lists are drawn with replacement at the outermost level that has more than one, and taken whole: of the two ways in
    Davison & Hinkley 1997, Bootstrap Methods and their Application, section 3.8, the one that keeps the variance. The
    distances of the 2.5th and the 97.5th percentile of the 2,000 resampled means from the mean are then multiplied by
    ``t(n − 1) / z · √(n / (n − 1))``, n lists, so that for normal figures the interval is as long as Student's t makes it:
    the correction of the "narrowness bias" in Hesterberg 2015 (arXiv:1411.5279), on the scale of the figures. The test is
    Student's, over the same lists: at levels far below 5 %, which corrections for many comparisons ask for, a bootstrap of
    three lists has no percentiles left.
    """
    units = [unit_means(figures) for figures in many]
    found: list[Estimate | None] = [None] * len(many)
    for count in sorted({len(means) for means in units}):
        places = [place for place, means in enumerate(units) if len(means) == count]
        for start in range(0, len(places), _CHUNK):
            part = places[start : start + _CHUNK]
            means = np.stack([units[place] for place in part])
            for place, (low, high, p) in zip(part, _intervals(means), strict=True):
                values = flat(many[place])
                sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
                found[place] = Estimate(float(units[place].mean()), sd, low, high, len(values), count, p)
    return [each for each in found if each is not None]


def differences(figures: Nested, base: Nested) -> list[Any]:
    """Return what is gained on each episode, in the same lists; NaN where one of the two is undefined.

    Raises:
        ValueError: If the two do not have the same episodes.
    """
    if len(figures) != len(base):
        raise ValueError(f"{len(figures)} figures cannot be paired with {len(base)}")
    pairs = zip(figures, base, strict=True)
    if figures and isinstance(figures[0], Sequence):
        return [differences(value, other) for value, other in pairs]
    return [number(value) - number(other) for value, other in pairs]


def unit_means(figures: Nested) -> Array:
    """Return the means of the lists of the outermost level that has several, ``[units]``: what is drawn from."""
    while isinstance(figures[0], Sequence) and len(figures) == 1:
        figures = figures[0]
    means = np.array([mean_of(each) for each in figures])
    defined: Array = means[~np.isnan(means)]
    return defined if len(defined) else means[:1]


def flat(figures: Nested) -> Array:
    """Return all figures that are defined in one row, ``[figures]``."""
    if isinstance(figures[0], Sequence):
        return np.concatenate([flat(inner) for inner in figures])
    values = np.array([number(value) for value in figures])
    defined: Array = values[~np.isnan(values)]
    return defined


def _intervals(means: Array) -> list[tuple[float, float, float]]:
    """Return low, high and p of every row of ``[rows, units]``."""
    rows, count = means.shape
    import scipy.stats

    if count == 1:
        return [(math.nan, math.nan, math.nan)] * rows
    centre = means.mean(axis=1)
    ends = np.percentile(means @ _weights(count).T, [50 * LEVEL, 100 - 50 * LEVEL], axis=1)
    low, high = centre + _stretch(count) * (ends - centre)
    deviation = means.std(axis=1, ddof=1)
    alike = deviation < ALIKE
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * scipy.stats.t.sf(np.abs(centre) / (deviation / math.sqrt(count)), count - 1)
    p = np.where(alike, np.where(np.abs(centre) < ALIKE, 1.0, 2.0 ** (1 - count)), p)
    low, high = (np.where(alike & (np.abs(centre) >= ALIKE), math.nan, end) for end in (low, high))
    return list(zip(low.tolist(), high.tolist(), p.tolist(), strict=True))


@lru_cache(maxsize=8)
def _weights(count: int) -> Array:
    """Return how often each of ``count`` is drawn in each resample, as shares, ``[resamples, units]``; always the same."""
    rng = np.random.default_rng(count)
    return rng.multinomial(count, [1 / count] * count, size=RESAMPLES) / count


def _stretch(count: int) -> float:
    """Return how much longer Student's interval of ``count`` normal figures is than the bootstrap's."""
    import scipy.stats

    student, normal = scipy.stats.t.isf(LEVEL / 2, count - 1), scipy.stats.norm.isf(LEVEL / 2)
    return float(student / normal) * math.sqrt(count / (count - 1))
