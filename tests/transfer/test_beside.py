"""Two encoders beside each other: cosines are the mean of theirs, and the untouched one stays so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import sentiment_rows, splits
from torch.nn.functional import normalize
from torch.testing import assert_close
from toys import episode_of, load, load_tiny, pool_of, topic_splits

import mtl
from mtl.components import Builder
from mtl.config import validate
from mtl.model.bundle import load_bundle
from mtl.plugins import load_plugins
from mtl.transfer.beside import BesideUntouched
from mtl.transfer.measure import transfer
from mtl.transfer.space import Space
from mtl.transfer.stage import Stage
from mtl_plugins.bottleneck import BottleneckAdapter
from mtl_plugins.full import FullFineTuning
from mtl_plugins.prototype import Prototype


@pytest.fixture
def pair(encoder_folder):
    """A trained encoder, whose weights have moved, and the untouched one."""
    trained, untouched = load_tiny(encoder_folder), load_tiny(encoder_folder)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in trained.parameters():
            parameter += 0.2 * parameter.std() * torch.randn_like(parameter)
    return trained, untouched


def test_a_cosine_is_the_mean_of_both_encoders(pair):
    target = load(pair[0], topic_splits())
    own, other, both = (Space(encoder, target, pool_of(target)).features for encoder in (*pair, BesideUntouched(*pair)))
    assert both.shape[1] == own.shape[1] + other.shape[1]
    assert_close(both @ both.T, (own @ own.T + other @ other.T) / 2, rtol=1e-4, atol=1e-5)


def test_words_are_read_by_both(pair):
    encoder, batch = (
        BesideUntouched(*pair),
        {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4).long()},
    )
    one, two = pair[0].eval()(batch), pair[1].eval()(batch)
    expected = torch.cat([normalize(one.states, dim=-1), normalize(two.states, dim=-1)], dim=-1)
    assert_close(encoder.eval()(batch).states, expected, rtol=1e-4, atol=1e-5)


def test_adapting_moves_the_trained_encoder_alone(pair):
    encoder = BesideUntouched(*pair)
    target = load(encoder, topic_splits())
    before = {name: value.clone() for name, value in pair[1].state_dict().items()}
    predictor = FullFineTuning(rate=1e-3).adapt(Space(encoder, target, pool_of(target)), episode_of(target, 2))
    assert predictor.parameters
    assert all(name.startswith("backbone.") for name in predictor.parameters)
    assert_close(dict(pair[1].state_dict()), before, rtol=0, atol=0)


def test_adapters_of_the_trained_encoder_are_there_too(pair):
    pair[0].put(BottleneckAdapter(rank=2))
    assert BesideUntouched(*pair).adapter_names() == pair[0].adapter_names() != frozenset()


@pytest.fixture
def values(encoder_folder, tmp_path):
    return {
        "name": "beside",
        "encoder": {"name": str(encoder_folder), "max_length": 32},
        "tasks": [
            {"name": "mood", "kind": "classification", "data": splits(sentiment_rows(32))},
            {"name": "topic", "kind": "classification", "data": topic_splits()},
        ],
        "targets": {"tasks": ["topic"], "shots": [2], "baselines": [], "overlap": "drop", "beside_untouched": True},
        "episodes": {"ways": 2, "shots": 2, "queries": 2},
        "budget": {"examples_per_task": 32},
        "evaluation": {"times": 1},
        "threads": 1,
        "output": str(tmp_path / "runs"),
    }


def test_a_run_reads_its_targets_by_both_and_keeps_the_trained_one(values, encoder_folder):
    values["optimizer"] = {"learning_rate": 1e-2}
    (run,) = mtl.Experiment.of(**values, strategy="joint").run().runs
    folder = Path(run["folder"])
    trained = load_bundle(folder / "models/joint").model.encoder
    target = load(trained, topic_splits())
    stage = Stage(validate(values, "test"), Builder(load_plugins()), folder.parent / "manifests")
    stage.prepare([target], [])
    space = Space(BesideUntouched(trained, load_tiny(encoder_folder)), target, stage.targets[0].pool)
    expected, _ = transfer(space, stage.targets[0].manifest, Prototype())
    assert run["results"]["targets"]["joint"]["figures"]["topic"]["prototype"] == expected
    alone, _ = transfer(Space(trained, target, stage.targets[0].pool), stage.targets[0].manifest, Prototype())
    assert alone != expected


def test_the_untouched_encoder_itself_is_read_once(values):
    (run,) = mtl.Experiment.of(**values, strategy="none").run().runs
    plain = {**values, "targets": {**values["targets"], "beside_untouched": False}}
    (other,) = mtl.Experiment.of(**plain, strategy="none").run().runs
    assert run["results"]["targets"]["none"]["figures"] == other["results"]["targets"]["none"]["figures"]


def test_an_inner_loop_that_was_practised_with_one_encoder_is_refused(values, write_experiment, fails):
    values["targets"] |= {"adaptation": "inner-loop"}
    file = write_experiment({**values, "strategy": "fomaml"})
    fails("run", file, pieces=("targets.beside_untouched", "of the encoder that it trained", "prototype, ridge or logistic"))
