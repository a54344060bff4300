"""The same experiment by learn2learn gives the same gradient."""

from __future__ import annotations

import sys

import pytest
import torch
from episodic_setup import error, make_world

from mtl.errors import ConfigError
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


def test_the_error_says_how_to_install_learn2learn(encoder_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    with pytest.raises(ConfigError, match="make learn2learn"):
        make_world(encoder_folder).prepared(MAML(backend="learn2learn"))


@pytest.mark.parametrize("options", [{"head": "learned"}, {"rates": "layer"}, {"multi_step": 0.5}, {"dropout": True}], ids=str)
def test_what_learn2learn_cannot_do_is_refused(encoder_folder, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_world(encoder_folder, dtype=torch.float32).prepared(MAML(backend="learn2learn", **options))
