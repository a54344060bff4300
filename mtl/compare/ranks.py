"""Several methods on several data sets: mean ranks, and how far apart they must be (Demšar 2006, JMLR 7:1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtl.metrics import Array


@dataclass(frozen=True)
class Ranks:
    """The mean ranks of some methods; 1 is best.

    Attributes:
        names: The methods, the best first.
        ranks: Their mean ranks.
        p: Level of Friedman's test that all are alike; NaN for fewer than three methods or two data sets.
        critical_difference: Two methods whose ranks are closer are not told apart at 5 %.
        groups: Methods that are not told apart, as (first, last) of ``names``; the longest such rows.
        count: Data sets.
    """

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    p: float
    critical_difference: float
    groups: tuple[tuple[int, int], ...]
    count: int


def rank(names: Sequence[str], scores: Array) -> Ranks:
    """Rank methods by their scores on data sets.

    Args:
        names: The methods.
        scores: The higher the better, ``[data sets, methods]``.
    """
    import scipy.stats

    count, methods = scores.shape
    means = scipy.stats.rankdata(-scores, axis=1).mean(axis=0)
    p = math.nan
    if methods > 2 and count > 1 and np.ptp(scores, axis=1).any():
        p = float(scipy.stats.friedmanchisquare(*scores.T).pvalue)
    order = np.argsort(means, kind="stable")
    ranks = tuple(means[order].tolist())
    distance = critical_difference(methods, count)
    return Ranks(tuple(names[place] for place in order), ranks, p, distance, _groups(ranks, distance), count)


def critical_difference(methods: int, count: int, level: float = 0.05) -> float:
    """Return Nemenyi's critical difference of mean ranks, ``q √(k (k + 1) / (6 N))`` (Demšar 2006, section 3.2.2)."""
    import scipy.stats

    if methods < 2:
        return math.nan
    q = scipy.stats.studentized_range.isf(level, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * count)))


def _groups(ranks: Sequence[float], distance: float) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for first, low in enumerate(ranks):
        last = max(place for place, high in enumerate(ranks) if high - low < distance or place == first)
        if last > first and not any(last <= end for _, end in found):
            found.append((first, last))
    return tuple(found)
