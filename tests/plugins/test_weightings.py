from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from mtl.errors import UnknownNameError
from mtl.training.weighting import TaskLoss
from mtl_plugins.dwa import DynamicWeightAverage
from mtl_plugins.imtl_l import IMTLL
from mtl_plugins.random_weighting import RandomWeighting
from mtl_plugins.static import Static
from mtl_plugins.uncertainty import Uncertainty

SOFTMAX, SQUARED = 1.0, 0.5
EVERY = [Static, Uncertainty, DynamicWeightAverage, IMTLL, RandomWeighting]


def ready(weighting, **weights):
    weighting.setup([TaskLoss(name, weight, SOFTMAX) for name, weight in (weights or {"a": 1.0, "b": 1.0}).items()])
    return weighting


def test_static_weighs_by_the_tasks_own_weight_unless_told_otherwise():
    static = ready(Static(weights_by_task={"b": 3.0}), a=2.0, b=5.0)
    assert static.weights() == {"a": 2.0, "b": 3.0}
    assert static.weigh("a", torch.tensor(1.5)).item() == 3.0
    assert static.weigh("b", torch.tensor(1.5)).item() == 4.5


def test_static_refuses_a_weight_for_a_task_that_is_not_trained():
    with pytest.raises(UnknownNameError, match=r"Unknown task in weights_by_task 'moood'\. Did you mean 'mood'\?"):
        ready(Static(weights_by_task={"moood": 1.0}), mood=1.0).check()


def uncertain(factor, weight=1.0):
    weighting = Uncertainty()
    weighting.setup([TaskLoss("a", weight, factor)])
    return weighting, weighting.parameters()[0]


@pytest.mark.parametrize("factor", [SOFTMAX, SQUARED])
@pytest.mark.parametrize("log_variance", [0.0, 0.7, -1.2])
def test_uncertainty_gradient_is_that_of_the_formula(factor, log_variance):
    weighting, parameter = uncertain(factor, weight=2.0)
    parameter.data.fill_(log_variance)
    loss = torch.tensor(3.0, requires_grad=True)
    weighting.weigh("a", loss).backward()
    # f = w (c e^{−s} L + s/2): df/ds = w (½ − c e^{−s} L), df/dL = w c e^{−s}.
    assert_close(parameter.grad, torch.tensor(2 * (0.5 - factor * math.exp(-log_variance) * 3)))
    assert_close(loss.grad, torch.tensor(2 * factor * math.exp(-log_variance)))
    assert weighting.weights()["a"] == pytest.approx(2 * factor * math.exp(-log_variance))


@pytest.mark.parametrize(
    ("factor", "variance"),
    [(SOFTMAX, 2 * 3.0), (SQUARED, 3.0)],  # ½ = c L / σ² at the optimum, so σ² = 2 c L
)
def test_uncertainty_is_least_where_the_variance_is_twice_the_factor_times_the_loss(factor, variance):
    weighting, parameter = uncertain(factor)
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        weighting.weigh("a", torch.tensor(3.0)).backward()
        optimizer.step()
    assert_close(parameter.exp(), torch.tensor(variance))


def test_uncertainty_starts_with_variance_1_and_one_parameter_a_task():
    weighting = ready(Uncertainty())
    assert [value.item() for value in weighting.parameters()] == [0.0, 0.0]
    assert weighting.weights() == {"a": 1.0, "b": 1.0}


def period(weighting, progress, **losses):
    """Two steps a period, whose mean losses are those given."""
    low = {name: torch.tensor(value - 0.5) for name, value in losses.items()}
    high = {name: torch.tensor(value + 0.5) for name, value in losses.items()}
    weighting.end_step(low, progress - 0.125)
    weighting.end_step(high, progress)


def test_dwa_weighs_by_equation_7():
    weighting = ready(DynamicWeightAverage(temperature=2.0, periods=4))
    assert weighting.weights() == {"a": 1.0, "b": 1.0}
    period(weighting, 0.25, a=4.0, b=2.0)
    assert weighting.weights() == {"a": 1.0, "b": 1.0}  # no ratio before two periods
    period(weighting, 0.5, a=2.0, b=2.0)
    # r = 2/4 and 2/2; w = 2 softmax(r / 2) = 2 (e^0.25, e^0.5) / (e^0.25 + e^0.5)
    total = math.exp(0.25) + math.exp(0.5)
    assert weighting.weights() == pytest.approx({"a": 2 * math.exp(0.25) / total, "b": 2 * math.exp(0.5) / total})
    assert sum(weighting.weights().values()) == pytest.approx(2)
    period(weighting, 0.75, a=2.0, b=1.0)
    # Only the last two periods count: r = 2/2 and 1/2.
    assert weighting.weights() == pytest.approx({"a": 2 * math.exp(0.5) / total, "b": 2 * math.exp(0.25) / total})


def test_dwa_multiplies_by_the_tasks_own_weight():
    weighting = ready(DynamicWeightAverage(periods=4), a=3.0, b=1.0)
    assert weighting.weigh("a", torch.tensor(2.0)).item() == 6.0
    assert weighting.weights() == {"a": 3.0, "b": 1.0}


def test_dwa_takes_a_task_that_was_not_drawn_for_one_whose_loss_stands_still():
    weighting = ready(DynamicWeightAverage(temperature=1.0, periods=4))
    period(weighting, 0.25, a=4.0, b=2.0)
    period(weighting, 0.5, a=4.0)
    assert weighting.weights() == pytest.approx({"a": 1.0, "b": 1.0})  # r = 1 and 1
    never = ready(DynamicWeightAverage(temperature=1.0, periods=4))
    period(never, 0.25, a=4.0)
    period(never, 0.5, a=2.0)
    # r = ½ for a; b has no mean at all and counts as 1.
    total = math.exp(0.5) + math.exp(1)
    assert never.weights() == pytest.approx({"a": 2 * math.exp(0.5) / total, "b": 2 * math.exp(1) / total})


def test_random_weights_have_mean_1_and_change_at_every_step():
    torch.manual_seed(0)
    weighting = ready(RandomWeighting(), a=1.0, b=1.0, c=1.0)
    seen = []
    for _ in range(3000):
        weighting.begin_step()
        weights = weighting.weights()
        assert sum(weights.values()) == pytest.approx(3)
        seen.append(weights["a"])
    assert len(set(seen)) == 3000
    # By symmetry each task's weight has expectation 1; its standard error over 3,000 draws is below 0.02.
    assert sum(seen) / len(seen) == pytest.approx(1, abs=0.05)


def test_random_weights_stand_still_within_a_step():
    torch.manual_seed(0)
    weighting = ready(RandomWeighting(), a=2.0, b=1.0)
    weighting.begin_step()
    first = weighting.weigh("a", torch.tensor(1.0)).item()
    assert weighting.weigh("a", torch.tensor(1.0)).item() == first == pytest.approx(weighting.weights()["a"])


def go_on(weighting):
    """Learn from three more steps, and say how the tasks are weighed after each."""
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.1) if weighting.parameters() else None
    shown = []
    for progress, loss in ((0.5, 2.0), (0.6, 1.0), (0.8, 0.5)):
        weighting.begin_step()
        losses = {"a": torch.tensor(loss), "b": torch.tensor(3.0)}
        weighted = sum(weighting.weigh(name, value) for name, value in losses.items())
        if optimizer:
            optimizer.zero_grad()
            weighted.backward()
            optimizer.step()
        weighting.end_step(losses, progress)
        shown.append(weighting.weights())
    return shown


@pytest.mark.parametrize("make", EVERY)
def test_a_weighting_goes_on_from_its_state_as_if_never_stopped(make):
    torch.manual_seed(0)
    weighting = ready(make())
    go_on(weighting)
    state, generator = copy.deepcopy(weighting.state_dict()), torch.get_rng_state()
    expected = go_on(weighting)
    torch.set_rng_state(generator)
    resumed = ready(make())
    resumed.load_state_dict(state)
    assert go_on(resumed) == expected


@pytest.mark.parametrize("make", EVERY)
def test_the_weighted_loss_moves_linearly_with_the_loss(make):
    torch.manual_seed(0)
    weighting = ready(make())
    weighting.begin_step()
    one, two, three = (weighting.weigh("a", torch.tensor(loss)).item() for loss in (1.0, 2.0, 3.0))
    assert three - two == pytest.approx(two - one)


@pytest.mark.parametrize(
    ("weighting", "scalarizer", "factor"),
    [(Uncertainty(), "UW", SQUARED), (IMTLL(), "IMTLL", SOFTMAX)],
    ids=["uncertainty", "imtl-l"],
)
def test_with_all_tasks_there_a_learned_weighting_is_that_of_torchjd(weighting, scalarizer, factor):
    made = getattr(pytest.importorskip("torchjd.scalarization", reason="needs the extra gradient"), scalarizer)(2)
    weighting.setup([TaskLoss(name, 1.0, factor) for name in "ab"])
    learned = torch.tensor([0.4, -0.9])
    for parameter, value in zip(weighting.parameters(), learned, strict=True):
        parameter.data.fill_(value)
    next(made.parameters()).data.copy_(learned)
    values, others = (torch.tensor([1.5, 0.2], requires_grad=True) for _ in range(2))
    ours = weighting.weigh("a", values[0]) + weighting.weigh("b", values[1])
    theirs = made(others)
    ours.backward()
    theirs.backward()
    assert_close((ours, values.grad), (theirs, others.grad), rtol=1e-6, atol=0)
    assert_close(torch.stack([parameter.grad for parameter in weighting.parameters()]), next(made.parameters()).grad)


def test_with_all_tasks_there_dwa_weighs_as_torchjd_does():
    made = pytest.importorskip("torchjd.scalarization", reason="needs the extra gradient").DWA(temperature=2.0)
    weighting = ready(DynamicWeightAverage(temperature=2.0, periods=4))
    for progress, losses in ((0.25, [4.0, 2.0]), (0.5, [2.5, 1.9]), (0.75, [2.0, 0.7])):
        made(torch.tensor(losses))
        made.step()
        period(weighting, progress, a=losses[0], b=losses[1])
    values = torch.tensor([1.5, 0.2])
    assert_close(weighting.weigh("a", values[0]) + weighting.weigh("b", values[1]), made(values))
