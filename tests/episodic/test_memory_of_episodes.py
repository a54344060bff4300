"""What a step of MAML keeps for the way back: one episode's, and of it one inner step's graph."""

from __future__ import annotations

import pytest
import torch
from episodic_setup import make_world
from saved_setup import most_saved

from mtl_plugins.maml import MAML


def most_of_a_step(folder, episodes=1, **options):
    """Bytes of a step on one episode again and again, whose head moves with everything from the first inner step on."""
    world = make_world(folder, dtype=torch.float32)
    strategy = world.prepared(MAML(head="learned", **options))
    draw = [world.episode(ways=4, shots=4, queries=2)] * episodes
    return most_saved(lambda: strategy.fill_gradients(world.model, draw)), strategy, draw[0]


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_a_step_of_four_episodes_keeps_no_more_than_a_step_of_one(encoder_folder, memory):
    alone, *_ = most_of_a_step(encoder_folder, memory=memory, steps=2)
    several, strategy, episode = most_of_a_step(encoder_folder, 4, memory=memory, steps=2)
    assert several == alone
    # Summed and sent back once, they would all be kept.
    reader = strategy._readers["topic"]
    summed = most_saved(lambda: sum(strategy.episode_loss(reader, episode) for _ in range(4)).backward())
    assert summed > 1.5 * alone


def test_recomputing_keeps_one_inner_step_s_graph_at_a_time(encoder_folder):
    most = {
        (memory, steps): most_of_a_step(encoder_folder, memory=memory, steps=steps)[0]
        for memory in ("store", "recompute")
        for steps in (1, 5)
    }
    _, strategy, episode = most_of_a_step(encoder_folder, steps=1)
    # Of every step more, its inputs are kept: what is moved, what is trained beside it, and the trunk's states.
    rows, tokens = episode.support.inputs["attention_mask"].shape
    numbers = sum(p.numel() for p in strategy._readers["topic"].encoder.parameters()) + 4 * (32 + 1) + rows * tokens * 32
    assert most["recompute", 5] - most["recompute", 1] <= 4 * 4 * numbers
    assert most["recompute", 5] < 1.5 * most["recompute", 1]
    assert most["store", 5] > 3 * most["store", 1]
