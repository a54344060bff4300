"""Paired differences: direction, correction, signed ranks, wins and effect, by hand and by a published example."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl.compare.paired import compare_pairs, holm, wilcoxon

#: AUC of C4.5 and of C4.5 with pruning by m on 14 data sets: Demšar 2006, table 2.
C45 = [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.0, 0.940, 0.619, 0.972, 0.957]
C45_M = [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.0, 0.962, 0.666, 0.981, 0.978]


def test_the_signed_rank_test_is_that_of_demsar():
    # His R⁻ is 12 and R⁺ 93; he rejects at 5 %, with z = −2.54, whose level is 2 Φ(−2.54) = 0.011.
    assert wilcoxon(np.subtract(C45_M, C45)) == pytest.approx(0.011, abs=0.0005)


def test_without_any_difference_the_signed_rank_test_is_sure_of_nothing():
    assert wilcoxon(np.zeros(5)) == 1.0
    assert math.isnan(wilcoxon(np.array([0.1])))


def test_holm_by_hand():
    # Sorted 0.005 · 4 = 0.02, 0.01 · 3 = 0.03, 0.03 · 2 = 0.06; 0.04 · 1 is not less than what came before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_was_not_compared_is_not_counted():
    corrected = holm([0.02, math.nan, 0.03])
    assert corrected[0] == pytest.approx(0.04)
    assert math.isnan(corrected[1])


def test_a_gain_is_positive_where_less_is_better():
    up, down = compare_pairs([([0.8, 0.7], [0.6, 0.6]), ([0.8, 0.7], [0.6, 0.6])], [True, False])
    assert up.gain.mean == pytest.approx(0.15)  # (0.2 + 0.1) / 2
    assert down.gain.mean == pytest.approx(-0.15)


def test_wins_ties_losses_and_effect_by_hand():
    (found,) = compare_pairs([([[0.6, 0.5], [0.5, 0.4]], [[0.5, 0.5], [0.3, 0.5]])], [True])
    # Differences 0.1, 0, 0.2, −0.1: mean 0.05; sd √((0.05² + 0.05² + 0.15² + 0.15²) / 3) = √(0.05 / 3) = 0.1291.
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.effect == pytest.approx(0.05 / 0.1291, rel=1e-3)
    assert found.gain.units == 2


def test_a_verdict_takes_the_corrected_level():
    rng = np.random.default_rng(0)
    sure = (rng.normal(0.1, 0.01, 20).tolist(), [0.0] * 20)
    unsure = (rng.normal(0, 0.1, 20).tolist(), [0.0] * 20)
    better, unclear, worse = compare_pairs([sure, unsure, (sure[1], sure[0])], [True] * 3)
    assert (better.verdict, unclear.verdict, worse.verdict) == ("better", "unclear", "worse")
    assert better.p_holm == pytest.approx(3 * better.gain.p)


def test_one_figure_gives_a_gain_without_a_verdict():
    (found,) = compare_pairs([([0.6], [0.5])], [True])
    assert found.verdict == "unclear"
    assert math.isnan(found.p_holm)


@pytest.mark.parametrize("seeds", [3, 10])
def test_of_three_targets_without_a_difference_one_is_called_different_in_at_most_5_of_100_grids(seeds):
    # Two methods, each seed with an error of its own: corrected, any false verdict in a grid of three targets.
    rng = np.random.default_rng(seeds)
    grids = 1000
    figures = 0.6 + rng.normal(0, 0.02, (grids, 3, 2, seeds, 1)) + rng.normal(0, 0.1, (grids, 3, 1, seeds, 20))
    wrong = 0
    for grid in figures.tolist():
        wrong += any(found.verdict != "unclear" for found in compare_pairs([tuple(target) for target in grid], [True] * 3))
    assert wrong / grids <= 0.065
