"""The hierarchical bootstrap: where its interval is known, it has it; and it covers what it says, and tests as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from mtl.compare.bootstrap import differences, estimate, estimate_all


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
    # Means 0.3, 0.4, …, 0.7 have sd √(0.1 / 4) = 0.158, so their mean has the error 0.158/√5 = 0.0707; of Student's t with
    # 4 degrees of freedom 95 % lie within ±2.776.
    assert nested.high - nested.low == pytest.approx(2 * 2.776 * 0.0707, rel=0.1)
    # Flat, 250 figures of the same sd have the error 0.1414/√250 = 0.0089.
    assert flat.high - flat.low == pytest.approx(2 * 1.96 * 0.00894, rel=0.1)


def test_every_list_counts_alike_whatever_its_length():
    assert estimate([[1.0] * 9, [0.0]]).mean == 0.5


def test_one_figure_has_no_interval():
    found = estimate([0.25])
    assert (found.mean, found.count, found.units) == (0.25, 1, 1)
    assert all(math.isnan(value) for value in (found.sd, found.low, found.high, found.p))
    assert math.isnan(estimate([[0.25]]).low)


def test_many_are_as_each_alone():
    rng = np.random.default_rng(3)
    many = [rng.random((3, 10)).tolist(), rng.random(40).tolist(), [[0.5, 0.6], [0.7]], [0.1]]
    alone = [estimate(figures) for figures in many]
    assert str(estimate_all(many)) == str(alone)
    assert [found.units for found in alone] == [3, 40, 2, 1]
    assert [found.count for found in alone] == [30, 40, 3, 1]


@pytest.mark.parametrize("units", [3, 5, 10, 50])
@pytest.mark.parametrize("between", [0.0, 0.02, 0.05])
def test_the_interval_of_a_mean_of_seeds_covers_95_of_100(units, between):
    # Seeds of mean 0.6 and sd ``between``, each with 20 episodes of sd 0.1 around its own.
    rng = np.random.default_rng(units)
    cases = 4000
    seeds = rng.normal(0.6, between, (cases, units, 1)) + rng.normal(0, 0.1, (cases, units, 20))
    covered = np.mean([found.low <= 0.6 <= found.high for found in estimate_all(seeds.tolist())])
    # A share of 4,000 has the sd √(0.05 · 0.95 / 4000) = 0.0034; asked for are 95 ± 2 %.
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("episodes", [20, 600])
def test_the_interval_of_accuracies_of_one_seed_covers_95_of_100(episodes):
    # 25 queries an episode, each right with probability 0.9: skewed, and never above 1.
    figures = np.random.default_rng(episodes).binomial(25, 0.9, (4000, episodes)) / 25
    covered = np.mean([found.low <= 0.9 <= found.high for found in estimate_all(figures.tolist())])
    assert 0.93 <= covered <= 0.97


#: How figures of trainings may be spread, and their mean: near the top, with a long tail, and with one of ten that collapses.
SPREADS = {
    "top": (lambda rng, size: rng.beta(9, 1, size), 0.9),
    "tail": (lambda rng, size: rng.exponential(1, size), 1.0),
    "collapse": (lambda rng, size: np.where(rng.random(size) < 0.1, 0.5, 0.9) + rng.normal(0, 0.01, size), 0.86),
}


@pytest.mark.parametrize(
    ("spread", "units", "documented"),
    [
        ("top", 3, 0.897),
        ("top", 20, 0.933),
        ("tail", 3, 0.888),
        ("tail", 20, 0.924),
        ("collapse", 3, 0.356),
        ("collapse", 20, 0.88),
    ],
)
def test_intervals_of_skewed_figures_cover_less_as_the_page_on_comparison_says(spread, units, documented):
    draw, mean = SPREADS[spread]
    figures = draw(np.random.default_rng(units), (4000, units)).tolist()
    covered = np.mean([found.low <= mean <= found.high for found in estimate_all(figures)])
    assert covered == pytest.approx(documented, abs=0.025)  # three standard deviations of both simulations


@pytest.mark.parametrize("units", [3, 5, 10, 600])
def test_without_a_difference_5_of_100_are_called_one(units):
    figures = np.random.default_rng(units).normal(0, 0.1, (4000, units)).tolist()
    found = estimate_all(figures)
    assert 0.035 <= np.mean([each.p <= 0.05 for each in found]) <= 0.065
    assert 0.035 <= np.mean([each.low > 0 or each.high < 0 for each in found]) <= 0.065


def test_the_level_is_that_of_a_t_test_over_seeds():
    figures = np.random.default_rng(6).normal(0.04, 0.1, (5, 30))
    assert estimate(figures.tolist()).p == pytest.approx(scipy.stats.ttest_1samp(figures.mean(axis=1), 0).pvalue)


def test_equal_gains_are_as_sure_as_the_sign_test_and_have_no_interval():
    two, three, ten = (estimate([0.5] * count) for count in (2, 3, 10))
    assert [two.p, three.p, ten.p] == [0.5, 0.25, 2**-9]
    assert [math.isnan(three.low), math.isnan(three.high)] == [True, True]
    assert estimate([0.0, 0.0, 0.0]).p == 1.0


def test_what_differs_by_rounding_alone_is_no_gain():
    noise = differences([[0.1 + 0.2]] * 3, [[0.3]] * 3)
    assert noise[0][0] > 0
    assert estimate(noise).p == 1.0


def test_undefined_figures_are_left_out_of_a_mean_and_of_a_pair():
    found = estimate([[0.2, None, 0.4], [math.nan, 0.6, 0.8]])
    assert (found.mean, found.count) == (pytest.approx(0.5), 4)
    assert np.isnan(differences([0.5, None, 0.7], [None, 0.1, 0.2])).tolist() == [True, True, False]
    assert estimate([0.1, None, 0.3]).units == 2
    assert math.isnan(estimate([None, None]).mean)


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
