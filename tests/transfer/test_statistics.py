"""The hierarchical bootstrap: where its interval is known, it has it; and it covers what it says."""

from __future__ import annotations

import numpy as np
import pytest

import mtl.transfer.statistics as statistics
from mtl.transfer.statistics import differences, estimate


def test_of_one_level_the_interval_is_that_of_the_standard_error():
    figures = np.random.default_rng(0).normal(0.7, 0.1, 400).tolist()
    found = estimate(figures)
    # The bootstrap's variance of a mean is Σ(x − x̄)²/n², so the interval is x̄ ± 1.96 · s/√n up to the noise of 2,000
    # resamples: the standard error of a 2.5 % quantile of a normal is √(0.025 · 0.975 / 2000) / 0.0584 = 0.06 sd.
    error = np.std(figures) / 20
    assert found.mean == pytest.approx(np.mean(figures))
    assert found.sd == pytest.approx(np.std(figures, ddof=1))
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.2 * error)
    assert found.count == 400


def test_a_level_with_one_list_adds_nothing():
    figures = np.random.default_rng(1).normal(0.5, 0.2, 40).tolist()
    flat, once, twice = estimate(figures), estimate([figures]), estimate([[figures]])
    assert once.mean == twice.mean == flat.mean
    for found in (once, twice):
        # Only the draws differ; the half-width is 1.96 · 0.2 / √40 = 0.06.
        assert (found.low, found.high) == pytest.approx((flat.low, flat.high), abs=0.01)


def test_lists_that_differ_widen_the_interval():
    rng = np.random.default_rng(2)
    lists = [(0.5 + 0.1 * seed + rng.normal(0, 0.01, 50)).tolist() for seed in range(-2, 3)]
    nested = estimate(lists)
    flat = estimate([figure for figures in lists for figure in figures])
    assert nested.mean == pytest.approx(flat.mean)
    # Means 0.3, 0.4, …, 0.7 have sd √0.02 = 0.1414; of five lists the bootstrap's error is 0.1414/√5 = 0.063.
    assert nested.high - nested.low == pytest.approx(2 * 1.96 * 0.0632, rel=0.1)
    # Flat, 250 figures of the same sd have the error 0.1414/√250 = 0.0089.
    assert flat.high - flat.low == pytest.approx(2 * 1.96 * 0.00894, rel=0.1)


def test_every_list_counts_alike_whatever_its_length():
    assert estimate([[1.0] * 9, [0.0]]).mean == 0.5


def test_one_figure_has_an_interval_without_width():
    found = estimate([0.25])
    assert (found.mean, found.sd, found.low, found.high, found.count) == (0.25, 0.0, 0.25, 0.25, 1)
    assert estimate([[0.25]]).low == 0.25


def test_the_same_figures_have_the_same_interval():
    figures = np.random.default_rng(3).random((3, 10)).tolist()
    assert estimate(figures) == estimate(figures)


def test_the_interval_covers_the_truth_in_about_95_of_100_cases(monkeypatch):
    # 12 lists, of mean 0.6 and sd 0.05, each with 10 figures of sd 0.1 around the list's own.
    monkeypatch.setattr(statistics, "_RESAMPLES", 150)
    rng = np.random.default_rng(4)
    cases, covered = 100, 0
    for case in range(cases):
        lists = (rng.normal(0.6, 0.05, 12)[:, None] + rng.normal(0, 0.1, (12, 10))).tolist()
        found = estimate(lists, seed=case)
        covered += found.low <= 0.6 <= found.high
    # A binomial of 100 and 0.95 has sd √(0.05 · 0.95 / 100) = 0.022; the bootstrap of 12 lists may be a little off as well.
    assert 0.88 <= covered / cases <= 1.0


def test_differences_are_taken_episode_by_episode():
    assert differences([[0.5, 0.75], [1.0]], [[0.25, 0.75], [0.5]]) == [[0.25, 0.0], [0.5]]


def test_paired_differences_know_more_than_two_intervals():
    rng = np.random.default_rng(5)
    hard = rng.normal(0.5, 0.2, 50)  # how hard each episode is, for both
    base, better = hard.tolist(), (hard + 0.05 + rng.normal(0, 0.01, 50)).tolist()
    found = estimate(differences(better, base))
    assert found.low > 0.04
    assert estimate(better).low < estimate(base).high  # side by side nothing could be said


def test_figures_of_different_episodes_cannot_be_paired():
    with pytest.raises(ValueError, match="2 figures cannot be paired with 1"):
        differences([[0.5, 0.75]], [[0.5]])
