"""AdaLoRA's budget of ranks: what is kept, by which importance, and that it goes on after a stop."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mtl.config import Choice
from mtl.errors import ConfigError
from mtl.model.adapters import Adapters
from mtl.plugins import load_plugins
from mtl_plugins.adalora import AdaLoRA

pytest.importorskip("peft", reason="needs the extra lora")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.two(self.one(inputs))


def world(**options):
    net = Net().requires_grad_(False)
    adapters = Adapters(AdaLoRA(modules=("one", "two"), **options), net)
    return net, adapters, torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.05)


def train(net, adapters, optimizer, steps):
    for step in steps:
        torch.manual_seed(step)
        loss = (net(torch.randn(6, 5)) - 1).square().mean()
        torch.autograd.backward(loss)
        adapters.before_step()
        optimizer.step()
        adapters.after_step((step + 1) / 20)
        optimizer.zero_grad(set_to_none=True)


def ranks(net):
    return sum(int(module.lora_E["default"].count_nonzero()) for module in (net.one, net.two))


def test_the_budget_falls_by_the_third_power():
    method = AdaLoRA(rank=4, initial_rank=12, start=0.2, finish=0.3)
    # Equation 12: b = 4 + (12 − 4)(1 − (t − 0.2) / 0.5)³; in the middle, at t = 0.45, 4 + 8 / 8 = 5.
    assert [method.budget(t) for t in (0, 0.1, 0.2)] == [12, 12, 12]
    assert method.budget(0.45) == pytest.approx(5)
    assert [method.budget(t) for t in (0.7, 0.9, 1.0)] == [4, 4, 4]
    assert AdaLoRA(rank=5).budget(0) == 8  # 7.5, rounded up


def test_in_the_end_there_are_as_many_ranks_as_asked_for():
    net, adapters, optimizer = world(rank=2, initial_rank=4)
    train(net, adapters, optimizer, range(2))
    assert ranks(net) == 8  # 4 in each of two matrices
    train(net, adapters, optimizer, range(2, 20))
    assert ranks(net) == 4


def test_what_is_least_important_is_taken_away():
    net, adapters, _ = world(rank=1, initial_rank=2, sensitivity=0.0, uncertainty=0.0, orthogonality=0.0)
    # With means that forget at once, the mean is |w g| and the spread 0: nothing could be ranked. So two looks, with decay.
    method = adapters.method
    method.sensitivity = method.uncertainty = 0.5
    with torch.no_grad():
        for module, size in ((net.one, (1.0, 9.0)), (net.two, (7.0, 2.0))):
            for factor in (module.lora_A, module.lora_B, module.lora_E):
                factor["default"].fill_(1.0)
                factor["default"].grad = torch.zeros_like(factor["default"])
            module.lora_E["default"].grad = torch.tensor(size).unsqueeze(1)
    # |w g| = 1, 9, 7, 2: mean (1 − ½)|w g|, spread (1 − ½)|w g − ½ w g|, so S = (w g)² / 8; two ranks of four are left.
    adapters.after_step(1.0)
    assert net.one.lora_E["default"].flatten().tolist() == [0.0, 1.0]
    assert net.two.lora_E["default"].flatten().tolist() == [1.0, 0.0]


def test_the_penalty_is_that_of_the_paper():
    net, adapters, _ = world(rank=2, initial_rank=2, orthogonality=0.7)
    factors = [module for net_part in (net.one, net.two) for module in (net_part.lora_A["default"], net_part.lora_B["default"])]
    for factor in factors:
        factor.grad = torch.zeros_like(factor)
    adapters.before_step()
    found = [factor.grad.clone() for factor in factors]
    a1, b1, a2, b2 = factors
    penalty = sum(((one @ one.T) - torch.eye(2)).square().sum() for one in (a1, b1.T, a2, b2.T))
    assert_close(found, list(torch.autograd.grad(0.7 * penalty / 4, factors)))


def test_training_goes_on_with_the_same_bits_after_a_stop():
    net, adapters, optimizer = world(rank=1, initial_rank=3)
    train(net, adapters, optimizer, range(20))
    half, its, other = world(rank=1, initial_rank=3)
    train(half, its, other, range(9))
    again, ours, third = world(rank=1, initial_rank=3)
    again.load_state_dict(half.state_dict())
    third.load_state_dict(other.state_dict())
    ours.method.load_state_dict(its.method.state_dict())
    train(again, ours, third, range(9, 20))
    assert_close(dict(again.state_dict()), dict(net.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rank": 4, "initial_rank": 2}, "initial_rank must be at least rank, 4"),
        ({"start": 0.6, "finish": 0.4}, "start and finish must be less than 1 together"),
        ({"rank": 0}, "adapter 'adalora': rank: must be at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, told):
    from mtl.components import Builder

    with pytest.raises(ConfigError, match=told):
        Builder(load_plugins())("adapter", Choice(name="adalora", **options))
