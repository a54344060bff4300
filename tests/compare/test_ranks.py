"""Mean ranks, Friedman's test and the critical difference, on the example of Demšar 2006."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl.compare.ranks import critical_difference, rank

#: AUC of four classifiers on 14 data sets: Demšar 2006, table 6. He ranks 0.975 of the last two on "voting" before rounding.
TABLE = np.array(
    [
        [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.0, 0.940, 0.619, 0.972, 0.957],
        [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.0, 0.962, 0.666, 0.981, 0.978],
        [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.0, 0.965, 0.614, 0.9751, 0.946],
        [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.0, 0.962, 0.669, 0.975, 0.970],
    ]
).T
NAMES = ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"]


def test_mean_ranks_are_those_of_demsar():
    found = rank(NAMES, TABLE)
    assert dict(zip(found.names, found.ranks, strict=True)) == pytest.approx(
        {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}, abs=5e-4
    )
    assert found.names[0] == "C4.5+m+cf"
    # He has χ² = 9.28 without the correction for ties; with it SciPy's own test of this table has 10.228, level 0.01672.
    assert found.p == pytest.approx(0.01672, abs=1e-5)
    assert found.count == 14


def test_the_critical_difference_is_that_of_demsar():
    # q of four methods is 2.569 in his table 5: 2.569 √(4 · 5 / (6 · 14)) = 1.25.
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    # At 10 % q is 2.291: 1.12.
    assert critical_difference(4, 14, level=0.10) == pytest.approx(1.12, abs=0.005)


def test_methods_within_the_critical_difference_are_one_group():
    # 3.143 − 1.964 = 1.18 is less than 1.25: none is told apart, as he says of Nemenyi's test at 5 %.
    assert rank(NAMES, TABLE).groups == ((0, 3),)


def test_two_groups_may_share_a_method():
    # 15 data sets rank them 1, 2, 3 and on 15 all tie at 2: mean ranks 1.5, 2, 2.5. q of three is 2.343, so the distance
    # is 2.343 √(12 / 180) = 0.605: more than from one to the next, less than from first to last.
    rows = [[3, 2, 1]] * 15 + [[2, 2, 2]] * 15
    found = rank(["a", "b", "c"], np.array(rows, dtype=float))
    assert found.ranks == (1.5, 2.0, 2.5)
    assert found.critical_difference == pytest.approx(0.605, abs=0.001)
    assert found.groups == ((0, 1), (1, 2))


def test_two_methods_have_no_friedman_test():
    assert math.isnan(rank(["a", "b"], np.array([[1.0, 2.0], [1.0, 2.0]])).p)


def test_one_method_has_no_critical_difference():
    assert math.isnan(critical_difference(1, 5))
