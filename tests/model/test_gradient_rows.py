"""Gradients by task from one pass: what autograd gives for each task by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mtl.errors import EncoderError
from mtl.model.gradient_rows import GradientRows

RUNS = {"first": slice(0, 2), "second": slice(2, 5)}
OWNERS = ["first"] * 2 + ["second"] * 3


class Block(nn.Module):
    """Layers that write, one of them used twice, and one weight that no layer writes."""

    def __init__(self):
        super().__init__()
        self.up, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)
        self.again, self.plain = nn.Linear(6, 6, bias=False), nn.LayerNorm(6, bias=False)
        self.scale = nn.Parameter(torch.ones(6))
        self.parted, self.recomputing = None, False

    def forward(self, inputs):
        states = self.norm(self.up(inputs)).tanh()
        return self.plain(self.again(self.again(states).relu())) * self.scale


@pytest.fixture
def block():
    torch.manual_seed(0)
    made = Block().double()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def written(block):
    return [parameter for name, parameter in block.named_parameters() if name != "scale"]


def expected(block, inputs, target, parameters):
    rows = [torch.autograd.grad((block(inputs[own]) * target[own]).sum(), parameters) for own in RUNS.values()]
    return torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in rows])


def test_each_row_is_the_gradient_of_its_own_sequences(block):
    inputs, target = torch.randn(5, 3, 4).double(), torch.randn(5, 3, 6).double()
    rows = GradientRows(block, written(block))
    assert rows.alone == []
    with rows.filling(list(RUNS), [1.0, 3.0]) as jacobian:
        rows.route(OWNERS, 5)
        found = torch.autograd.grad((block(inputs) * target).sum(), [*written(block), block.scale], allow_unused=True)
    assert all(gradient is None for gradient in found[:-1])
    scales = torch.tensor([[1.0], [3.0]]).double()
    assert_close(jacobian, scales * expected(block, inputs, target, written(block)))


def test_passes_add_up_and_what_had_no_pass_is_zero(block):
    inputs, target = torch.randn(5, 3, 4).double(), torch.randn(5, 3, 6).double()
    rows = GradientRows(block, written(block))
    with rows.filling([*RUNS, "third"], [1.0] * 3) as jacobian:
        for _ in range(2):
            rows.route(OWNERS, 5)
            (block(inputs) * target).sum().backward()
    assert_close(jacobian[:2], 2 * expected(block, inputs, target, written(block)))
    assert not jacobian[2].any()


def test_frozen_parameters_have_no_place_and_layers_compute_as_before_afterwards(block):
    block.up.bias.requires_grad_(False)
    parameters = [parameter for parameter in written(block) if parameter.requires_grad]
    inputs, target = torch.randn(5, 3, 4).double(), torch.randn(5, 3, 6).double()
    rows = GradientRows(block, parameters)
    with rows.filling(list(RUNS), [1.0, 1.0]) as jacobian:
        assert block.parted is rows
        rows.route(OWNERS, 5)
        (block(inputs) * target).sum().backward()
    assert_close(jacobian, expected(block, inputs, target, parameters))
    assert block.parted is None
    assert not any("forward" in vars(module) for module in block.modules())


def test_parameters_whose_layers_do_not_write_are_named(block):
    assert GradientRows(block, list(block.parameters())).alone == ["scale"]
    block.up.forward = block.up.forward  # somebody else's
    assert GradientRows(block, list(block.parameters())).alone == ["scale", "up.weight", "up.bias"]


def test_a_layer_with_a_trained_parameter_that_is_in_no_row_does_not_write(block):
    parameters = [parameter for parameter in written(block) if parameter is not block.up.bias]
    assert GradientRows(block, parameters).alone == ["up.weight"]  # its bias would have no gradient


def test_what_is_no_sequence_cannot_be_parted(block):
    rows = GradientRows(block, written(block))
    with rows.filling(list(RUNS), [1.0, 1.0]):
        rows.route(OWNERS, 5)
        with pytest.raises(EncoderError, match=r"Linear of this encoder takes \[7, 3, 4\] for 5 sequences"):
            block(torch.randn(7, 3, 4).double())
