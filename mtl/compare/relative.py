"""Δm: one figure for many tasks with metrics of different units."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def delta_m(values: Sequence[float], base: Sequence[float], higher_is_better: Sequence[bool]) -> float:
    """Return the mean relative gain over single-task training, as a share: ``1/T Σ (−1)^l_i (M_i − B_i) / B_i``.

    Maninis et al. 2019, "Attentive Single-Tasking of Multiple Tasks" (arXiv:1904.08918); l_i is 1 where a lower
    value is better. NaN where a base is 0 or undefined: relative to nothing there is no gain.
    """
    gains = [
        (1 if up else -1) * (value - other) / abs(other) if other else math.nan
        for value, other, up in zip(values, base, higher_is_better, strict=True)
    ]
    return float(np.mean(gains)) if gains else math.nan
