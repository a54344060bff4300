"""An inner loop that moves the adapters alone has the gradient of a plain loop."""

from __future__ import annotations

import pytest
import torch
from episodic_setup import error, gradients_of, make_world, plain_maml

from mtl_plugins.fomaml import FOMAML
from mtl_plugins.lora import LoRA
from mtl_plugins.maml import MAML


def with_lora(world):
    """Put LoRA into a world's encoder, away from where it starts: there its second matrix is 0, and the first without a say."""
    world.encoder.put(LoRA(rank=2))
    world.model.to(world.dtype)
    torch.manual_seed(0)
    for name, parameter in world.encoder.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.2)
    return world


@pytest.fixture
def worlds(encoder_folder):
    """Two alike; the second can be differentiated twice by plain autograd."""
    pytest.importorskip("peft", reason="needs the extra lora")
    return [with_lora(make_world(encoder_folder, attention=attention)) for attention in ("sdpa", "eager")]


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_an_inner_loop_on_lora_has_the_meta_gradient_of_a_plain_loop(worlds, memory):
    world, other = worlds
    episode = world.episode()
    strategy = world.prepared(MAML(adapt="adapter", steps=3, rate=0.05, memory=memory, clip=None))
    # Two matrices beside the query and two beside the value of both layers; nothing else.
    assert strategy.adapted.keys() == {name for name, _ in other.encoder.named_parameters() if "lora_" in name}
    assert len(strategy.adapted) == 2 * 2 * 2
    trained = {name: p for name, p in other.encoder.named_parameters() if p.requires_grad}
    expected = gradients_of(plain_maml(other.encoder, strategy.adapted, episode, steps=3, rate=0.05), trained)
    assert strategy.adapted.keys() <= expected.keys()
    found = world.gradients(strategy, episode)
    assert error(found, expected) <= 1e-6
    first = world.gradients(world.prepared(FOMAML(adapt="adapter", steps=3, rate=0.05, clip=None)), episode)
    assert error(first, expected) > 1e-3  # what is compared is not the first-order gradient


def test_an_inner_loop_on_lora_leaves_the_weights_below_it_alone(worlds):
    world, _ = worlds
    strategy = world.prepared(MAML(adapt="adapter", steps=2, rate=0.05))
    *_, end = strategy.unroll(strategy._readers["topic"], world.episode(), "first")
    assert end.keys() == strategy.adapted.keys() | {"head.weight", "head.bias"}
    assert not any(torch.equal(end[name], start) for name, start in strategy.adapted.items())
