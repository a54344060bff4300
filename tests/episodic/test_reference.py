"""The same experiment by learn2learn gives the same gradient."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import entity_rows, sentiment_rows, splits
from episodic_setup import error, make_world

import mtl
from mtl.errors import ConfigError
from mtl.meta.reference import load_learn2learn
from mtl_plugins.kfo import KFO
from mtl_plugins.maml import MAML


class Seen:
    """Keeps what a run learns from: of every batch its tokens and its answers."""

    def __init__(self):
        self.batches = []

    @mtl.hookimpl
    def mtl_batch_ready(self, batch):
        columns = [value.tolist() for part in batch.parts.values() for value in part.columns.values()]
        self.batches.append((batch.inputs["input_ids"].tolist(), columns))


SEEN = Seen()


@pytest.fixture
def learn2learn():
    try:
        return load_learn2learn()
    except ConfigError as fault:
        pytest.skip(str(fault))


def run_by(backend, values, strategy, monkeypatch):
    """Run an experiment and return what it learned from, the losses of its steps and its figures on the target."""
    monkeypatch.setattr(SEEN, "batches", [])
    options = {"name": strategy, "steps": 2, "rate": 0.05, "backend": backend, "clip": None}
    (run,) = mtl.Experiment.of(**values, strategy=options, plugins=[f"{__name__}:SEEN"]).run().runs
    (log,) = Path(run["folder"]).glob("models/*/log.jsonl")
    steps = [line for line in map(json.loads, log.read_text().splitlines()) if "loss" in line]
    (found,) = run["results"]["targets"].values()
    losses = [(line["step"], line["examples"], *sorted(line["loss"].items())) for line in steps]
    return SEEN.batches, losses, [line["gradient_norm"] for line in steps], found["figures"]["tone"]["inner-loop"]


@pytest.mark.parametrize("strategy", ["maml", "kfo"])
def test_a_run_by_learn2learn_has_the_same_episodes_and_the_same_results(experiment_values, learn2learn, monkeypatch, strategy):
    values = experiment_values | {
        "encoder": experiment_values["encoder"] | {"dropout": 0},
        "tasks": [
            {"name": "mood", "kind": "classification", "data": splits(sentiment_rows(64))},
            {"name": "places", "kind": "token-classification", "data": splits(entity_rows(40))},
            {"name": "tone", "kind": "classification", "data": splits(sentiment_rows(40))},
        ],
        "targets": {
            "tasks": ["tone"],
            "shots": [2],
            "overlap": "allow",
            "baselines": [],
            "adaptation": "inner-loop",
            "protocol": {"name": "domain", "draws": 4},
        },
        "episodes": {"ways": 2, "shots": 2, "queries": 2, "per_step": 2},
        "budget": {"examples_per_task": 48},  # six steps of two episodes of 8 rows
        "evaluation": {"times": 0},
    }
    ours, theirs = (run_by(backend, values, strategy, monkeypatch) for backend in ("mtl", "learn2learn"))
    assert len(ours[0]) == 6 * 2 * 2
    assert theirs[0] == ours[0]
    assert len(ours[1]) == 6
    for one, other in zip(ours[1], theirs[1], strict=True):
        assert [*one[:2], *dict(one[2:])] == [*other[:2], *dict(other[2:])]
        assert dict(other[2:]) == pytest.approx(dict(one[2:]), rel=1e-4)
    assert theirs[2] == pytest.approx(ours[2], rel=1e-3)
    assert theirs[3] == {shots: pytest.approx(figures) for shots, figures in ours[3].items()}


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
