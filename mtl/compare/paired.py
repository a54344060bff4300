"""Two methods on the same episodes and seeds: how much better one is, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl.compare.bootstrap import ALIKE, Estimate, Nested, differences, estimate_all, flat, unit_means
from mtl.metrics import Array


@dataclass(frozen=True)
class Difference:
    """A gain over a base; positive is better, whichever way the metric points.

    Attributes:
        gain: Mean difference with the interval of the paired bootstrap and the level of the paired t test.
        p_holm: That level, corrected for how many comparisons were made together; set by :func:`correct`.
        p_wilcoxon: Level of the signed-rank test over what the bootstrap draws from: seeds, or episodes of one seed.
        effect: Mean difference over the standard deviation of the differences of all pairs (Cohen's d_z).
        wins: Pairs in which it is better.
        ties: Pairs in which both are alike.
        losses: Pairs in which it is worse.
    """

    gain: Estimate
    p_holm: float
    p_wilcoxon: float
    effect: float
    wins: int
    ties: int
    losses: int

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or ``unclear``: at 5 %, corrected."""
        if not self.p_holm <= 0.05:
            return "unclear"
        return "better" if self.gain.mean > 0 else "worse"


def compare_pairs(pairs: Sequence[tuple[Nested, Nested]], higher_is_better: Sequence[bool]) -> list[Difference]:
    """Compare pairs of nested figures, each as (method, base), and correct the levels for their number.

    Args:
        pairs: Figures of the same episodes of the same seeds.
        higher_is_better: The direction of each pair's metric.
    """
    gains = []
    for (figures, base), up in zip(pairs, higher_is_better, strict=True):
        gains.append(differences(figures, base) if up else differences(base, figures))
    return correct([_difference(gain, found) for gain, found in zip(gains, estimate_all(gains), strict=True)])


def correct(found: Sequence[Difference]) -> list[Difference]:
    """Return the same differences with ``p_holm`` set for all of them as one family."""
    levels = holm([each.gain.p for each in found])
    return [replace(each, p_holm=p) for each, p in zip(found, levels, strict=True)]


def holm(levels: Sequence[float]) -> list[float]:
    """Correct levels of significance for their number (Holm 1979, Scandinavian Journal of Statistics 6:65).

    The smallest of m is multiplied by m, the next by m − 1, and so on; none gets smaller than the one before. NaN is no
    comparison and is not counted.
    """
    order = sorted((place for place, p in enumerate(levels) if not math.isnan(p)), key=lambda place: levels[place])
    corrected = [math.nan] * len(levels)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * levels[place]))
        corrected[place] = largest
    return corrected


def wilcoxon(gains: Array) -> float:
    """Return the level of Wilcoxon's signed-rank test; differences of 0 count half for each side (Demšar 2006, p. 7)."""
    import scipy.stats

    if len(gains) < 2:
        return math.nan
    gains = np.where(np.abs(gains) < ALIKE, 0.0, gains)
    return float(scipy.stats.wilcoxon(gains, zero_method="zsplit").pvalue) if np.any(gains) else 1.0


def _difference(gain: Nested, found: Estimate) -> Difference:
    values = flat(gain)
    effect = found.mean / found.sd if found.sd > 0 else math.nan
    signs = np.where(np.abs(values) < ALIKE, 0, np.sign(values))
    wins, losses = int((signs > 0).sum()), int((signs < 0).sum())
    return Difference(found, math.nan, wilcoxon(unit_means(gain)), effect, wins, len(values) - wins - losses, losses)
