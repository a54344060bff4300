"""The same experiment by learn2learn gives the same gradient."""

from __future__ import annotations

import sys

import pytest
import torch
from episodic_setup import error, make_world

from mtl.errors import ConfigError
from mtl_plugins.kfo import KFO
from mtl_plugins.maml import MAML


@pytest.mark.parametrize("options", [{"adapt": "all"}, {"adapt": 1, "clip": None}, {"adapt": "head"}], ids=str)
@pytest.mark.parametrize("task", ["topic", "rating"])
def test_learn2learn_s_inner_loop_has_the_same_gradient(encoder_folder, options, task):
    world = make_world(encoder_folder, tasks=(task,))
    episode = world.episode(task, shots=3, queries=2)
    found = [
        world.gradients(world.prepared(MAML(steps=3, rate=0.01, backend=backend, **options)), episode)
        for backend in ("mtl", "learn2learn")
    ]
    assert error(found[1], found[0]) < 1e-6


@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_transformed_by_kronecker_products_are_those_of_learn2learn_s_gbml(encoder_folder, steps, memory):
    found = []
    for backend in ("learn2learn", "mtl"):
        world = make_world(encoder_folder, tasks=("topic",))
        strategy = world.prepared(KFO(adapt=1, steps=steps, rate=0.05, clip=None, memory=memory, backend=backend))
        generator = torch.Generator().manual_seed(0)
        for factor in strategy._learned.values():  # away from the identity, where the transform does nothing
            noise = torch.randn(factor.shape, generator=generator, dtype=factor.dtype)
            factor.data += 0.1 * noise / factor.shape[0] ** 0.5
        found.append(world.gradients(strategy, world.episode(shots=3, queries=2)))
    factors = [name for name in found[0] if name.startswith(("left:", "right:"))]
    assert len(factors) == 2 * 6  # query, key, value, output and the two of the feed-forward network
    if steps == 1:  # a step from a head of zeros moves the head alone, and the factors have no gradient; there it is 0
        found[1] |= {name: torch.zeros_like(found[0][name]) for name in factors}
    assert error(found[1], found[0]) < 1e-6


def test_the_error_says_how_to_install_learn2learn(encoder_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    with pytest.raises(ConfigError, match="make learn2learn"):
        make_world(encoder_folder).prepared(MAML(backend="learn2learn"))


@pytest.mark.parametrize(
    "options",
    [{"head": "learned"}, {"rates": "layer"}, {"head_rate": 0.1}, {"multi_step": 0.5}, {"dropout": True}],
    ids=str,
)
def test_what_learn2learn_cannot_do_is_refused(encoder_folder, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_world(encoder_folder, dtype=torch.float32).prepared(MAML(backend="learn2learn", **options))


def test_gbml_has_no_clipping(encoder_folder):
    with pytest.raises(ConfigError, match="clip: null only"):
        make_world(encoder_folder, dtype=torch.float32).prepared(KFO(backend="learn2learn"))
