from __future__ import annotations

import pytest

from mtl_plugins.annealed import Annealed
from mtl_plugins.proportional import Proportional
from mtl_plugins.temperature import Temperature
from mtl_plugins.uniform import Uniform

SIZES = {"large": 900, "small": 100}


def large(sampler, progress=0.0, sizes=SIZES):
    """The large task's share of the examples; the small one has the rest."""
    shares = sampler.shares(sizes, progress)
    assert set(shares) == set(sizes)
    return shares["large"] / sum(shares.values())


def test_uniform_draws_every_task_alike():
    assert large(Uniform()) == 1 / 2


def test_proportional_draws_in_proportion_to_rows():
    assert large(Proportional()) == pytest.approx(0.9)


def test_proportional_counts_a_task_with_at_most_the_cap():
    # min(900, 300) : min(100, 300) = 3 : 1
    assert large(Proportional(cap=300)) == pytest.approx(3 / 4)
    # Both are capped.
    assert large(Proportional(cap=50)) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("temperature", "cap", "ratio"),
    [
        (1.0, None, 9.0),
        (2.0, None, 3.0),  # √900 : √100
        (0.5, None, 81.0),  # 900² : 100²
        (2.0, 400, 2.0),  # √400 : √100
        (1e9, None, 1.0),
    ],
)
def test_temperature_takes_the_root_of_the_rows(temperature, cap, ratio):
    assert large(Temperature(temperature=temperature, cap=cap)) == pytest.approx(ratio / (ratio + 1))


@pytest.mark.parametrize(
    ("progress", "ratio"),
    [(0.0, 9.0), (0.5, 9**0.6), (1.0, 9**0.2)],  # α = 1, ½ (1 + 0.2), 0.2
)
def test_annealed_goes_from_proportional_to_nearly_uniform(progress, ratio):
    assert large(Annealed(), progress) == pytest.approx(ratio / (ratio + 1))


@pytest.mark.parametrize(("progress", "ratio"), [(0.0, 4.0), (0.5, 2.0), (1.0, 1.0)])  # 4 ** (1, ½, 0)
def test_annealed_counts_a_task_with_at_most_the_cap(progress, ratio):
    assert large(Annealed(start=1.0, end=0.0, cap=400), progress) == pytest.approx(ratio / (ratio + 1))


@pytest.mark.parametrize("sampler", [Uniform(), Proportional(), Temperature(), Annealed()], ids=repr)
def test_shares_are_finite_for_tasks_of_very_different_size(sampler):
    shares = sampler.shares({"large": 10**9, "small": 1}, 0.5)
    assert all(0 < share < float("inf") for share in shares.values())


@pytest.mark.parametrize("sampler", [Uniform(), Proportional(), Temperature()], ids=repr)
def test_shares_do_not_depend_on_progress(sampler):
    assert sampler.shares(SIZES, 0.0) == sampler.shares(SIZES, 0.7)
