"""Attention by fused kernels wherever nothing is differentiated twice, and by products of matrices where something is."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
import torch
from episodic_setup import make_world
from torch.utils._python_dispatch import TorchDispatchMode

from mtl.config import EpisodesConfig
from mtl.data.episodes import EpisodeRows
from mtl.model.inference import TaskData
from mtl.transfer.space import Space
from mtl_plugins.anil import ANIL
from mtl_plugins.fomaml import FOMAML
from mtl_plugins.imaml import IMAML
from mtl_plugins.maml import MAML

FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
#: What attention by products has for each sequence, token and head: weights that add up to 1.
SOFTMAX = torch.ops.aten._safe_softmax


class Kernels(TorchDispatchMode):
    """Counts passes of attention, on the way forward, by path and number of sequences."""

    def __init__(self):
        super().__init__()
        self.fused, self.products = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is FUSED:
            self.fused[len(args[0])] += 1
        elif func.overloadpacket is SOFTMAX:
            self.products[len(args[0])] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("strategy", "fused", "products"),
    [
        # Two layers, a support of 6 rows, 9 queries, three steps: 2 · 3 passes of layers over the support.
        pytest.param(FOMAML(), {6: 6, 9: 2}, {}, id="fomaml"),
        pytest.param(MAML(memory="store"), {9: 2}, {6: 6}, id="maml that stores"),
        # The way there needs no derivative of a derivative; each step is made again on the way back.
        pytest.param(MAML(memory="recompute"), {6: 6, 9: 2}, {6: 6}, id="maml that recomputes"),
        pytest.param(MAML(first_order_until=0.5), {6: 6, 9: 2}, {}, id="maml of the first order so far"),
        # The Hessian is that of one more pass over the support, at the end.
        pytest.param(IMAML(), {6: 6, 9: 2}, {6: 2}, id="imaml"),
        # The layers are all below the head, and run once.
        pytest.param(ANIL(), {6: 2, 9: 2}, {}, id="anil"),
    ],
)
def test_attention_is_by_products_in_second_order_steps_alone(encoder_folder, strategy, fused, products):
    world = make_world(encoder_folder, dtype=torch.float32)
    strategy.steps = 3
    prepared, episode = world.prepared(strategy), world.episode(shots=2, queries=3)
    with Kernels() as kernels:
        world.gradients(prepared, episode)
    assert (kernels.fused, kernels.products) == (fused, products)


@pytest.mark.parametrize(
    "strategy", [MAML(steps=3), MAML(steps=3, memory="store"), IMAML(steps=3)], ids=["maml", "maml that stores", "imaml"]
)
def test_what_was_practised_by_products_is_measured_by_fused_kernels(encoder_folder, strategy):
    world = make_world(encoder_folder, dtype=torch.float32)
    prepared, features = world.prepared(strategy), world.features["topic"]
    space = Space(world.encoder, TaskData("topic", world.kinds["topic"], {"train": features}), features)
    episode = EpisodeRows("topic", (0, 1, 2, 3), tuple(range(8)), tuple(range(8, 18)))
    with Kernels() as kernels:
        prepared.adaptation(EpisodesConfig()).adapt(space, episode)(episode.query)
    assert kernels.fused
    assert not kernels.products


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        (MAML(), "24 tensors of 2 layers adapted; second derivatives, recompute, attention by math kernels for them"),
        (MAML(memory="store", adapt=1), "12 tensors of 1 layers adapted; second derivatives, store, attention by math kernels"),
        (FOMAML(), "24 tensors of 2 layers adapted; first derivatives only"),
        (ANIL(), "0 tensors of 0 layers adapted; second derivatives, store"),
        (IMAML(), "first derivatives, and products with the Hessian where it ends, attention by math kernels for them"),
        (IMAML(adapt="head"), "first derivatives, and products with the Hessian where it ends"),
    ],
    ids=["maml", "maml of a layer", "fomaml", "anil", "imaml", "imaml of the head"],
)
def test_the_log_says_which_derivatives_are_taken_and_by_which_kernels(encoder_folder, caplog, strategy, said):
    with caplog.at_level(logging.INFO, "mtl.episodic.gradient_based"):
        make_world(encoder_folder).prepared(strategy)
    (message,) = caplog.messages
    assert message.startswith("inner loop: ")
    assert said in message
    assert ("math kernels" in message) == strategy.second_order
