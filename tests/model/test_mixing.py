"""Heads that read a mix of all layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import rating_rows, sentiment_rows
from torch.testing import assert_close

import mtl
from mtl.config import EncoderConfig
from mtl.data.batches import collate
from mtl.data.features import featurize
from mtl.data.rows import Rows
from mtl.errors import ConfigError
from mtl.model.bundle import load_bundle
from mtl.model.encoder import load_encoder
from mtl.model.mixing import ScalarMix
from mtl.model.multitask import MultiTaskModel
from mtl.plugins import load_plugins
from mtl.task import Task
from mtl.transfer.adapt import adapt
from mtl_tasks.classification import Classification
from mtl_tasks.regression import Regression


def world(folder, **values):
    """A model of two tasks whose rows share no text, its features, and its kinds."""
    config = EncoderConfig(name=str(folder), max_length=32, dropout=0.0, **values)
    encoder = load_encoder(config, folder)
    kinds = {
        "mood": Classification(Task(name="mood", kind="c", data=[])),
        "rating": Regression(Task(name="rating", kind="r", data=[])),
    }
    features = {}
    for name, given in (("mood", sentiment_rows(24)), ("rating", rating_rows(24))):
        rows = Rows({key: [row[key] for row in given] for key in given[0]}, "given", range(1, len(given) + 1))
        kinds[name].fit(rows)
        features[name] = featurize(kinds[name], rows, encoder.tokenizer)
    return MultiTaskModel(encoder, kinds, lambda name: 1).eval(), features, kinds


def test_a_mix_is_the_weighted_mean_of_equation_1():
    mix = ScalarMix(3)
    layers = torch.randn(2, 4, 3, 5)
    assert_close(mix(layers.flatten(2)), layers.mean(2))
    with torch.no_grad():
        mix.scores.copy_(torch.tensor([0.0, 2.0, -1.0]))
        mix.scale.fill_(3.0)
    weights = torch.exp(mix.scores) / torch.exp(mix.scores).sum()
    assert_close(mix(layers.flatten(2)), 3 * sum(weights[layer] * layers[:, :, layer] for layer in range(3)))


def test_a_head_that_trusts_the_last_layer_alone_is_a_head_without_a_mix(encoder_folder):
    (plain, features, kinds), (mixed, _, _) = world(encoder_folder), world(encoder_folder, mix=True)
    batch = collate({"mood": range(8), "rating": range(8)}, features, kinds)
    assert not torch.allclose(mixed(batch)["mood"], plain(batch)["mood"], atol=1e-4)
    with torch.no_grad():
        for name in kinds:
            mixed.head(name).mix_of_layers.scores[-1] = 100.0
    assert_close(mixed(batch), plain(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("values", [{}, {"precision": "bf16"}, {"token_dropout": 0.3}, {"checkpointing": True}], ids=str)
def test_every_task_learns_weights_of_its_own_in_one_pass(values, encoder_folder):
    model, features, kinds = world(encoder_folder, mix=True, **values)
    seen = []
    model.train().encoder.layers()[0].register_forward_pre_hook(lambda *given: seen.append(1))
    batch = collate({"mood": range(3), "rating": range(3)}, features, kinds)  # too few to be parted by length
    outputs = model(batch)
    assert len(seen) == 1
    torch.autograd.backward(model.loss("mood", outputs["mood"], batch))
    assert model.head("mood").mix_of_layers.scores.grad.abs().sum() > 0
    assert model.head("rating").mix_of_layers.scores.grad is None
    mixes = {id(p) for p in model.head("mood").mix_of_layers.parameters()}
    assert mixes <= {id(p) for p in model.own("mood")}


def test_a_batch_that_is_parted_by_length_gives_what_its_rows_give_alone(encoder_folder):
    model, features, kinds = world(encoder_folder, mix=True)
    model.double()
    texts = ["good", "the cat sat on the mat and ran to paris from london very very fine " * 2]
    given = {"text": [f"{texts[number % 2]} {number}" for number in range(24)], "label": ["good", "bad"] * 12}
    features["mood"] = featurize(kinds["mood"], Rows(given, "given", range(24)), model.encoder.tokenizer)
    together = model(collate({"mood": range(24)}, features, kinds))["mood"]
    alone = torch.cat([model(collate({"mood": [row]}, features, kinds))["mood"] for row in range(24)])
    assert_close(together, alone, rtol=0, atol=1e-12)


def test_a_run_stores_the_weights_with_the_heads(experiment_values, tmp_path):
    experiment_values["encoder"] = {**_named(experiment_values), "mix": True}
    (run,) = mtl.Experiment.of(**{**experiment_values, "budget": {"epochs": 1}}).run().runs
    bundle = load_bundle(run["folder"])
    scores = {name: bundle.model.head(name).mix_of_layers.scores for name in bundle.tasks}
    assert all(len(found) == 3 and not torch.equal(found, torch.zeros(3)) for found in scores.values())
    texts = ["the cat is good", "bob ran to paris"]
    bundle.save(tmp_path / "again")
    assert load_bundle(tmp_path / "again").predict(texts) == bundle.predict(texts)
    with pytest.raises(ConfigError, match=r"trained with encoder\.mix, and 'new' has no weights of layers"):
        adapt(bundle, Task(name="new", kind="classification", data=[]), tmp_path / "rows.jsonl", None, load_plugins())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"strategy": "protonet", "episodes": {"ways": 2, "shots": 1, "queries": 1}},
            r"'protonet' trains no single tasks.*encoder\.mix: false",
        ),
        ({"encoder": {"cache": 0.1, "freeze": 1}}, r"encoder\.cache keeps what leaves the last frozen layer"),
        ({"targets": {"tasks": ["rating"]}}, r"a target that is not trained has none"),
    ],
    ids=["episodes", "cache", "targets"],
)
def test_what_a_mix_cannot_do_is_said_before_the_run(changes, message, experiment_values):
    encoder = {**_named(experiment_values), "mix": True, **changes.pop("encoder", {})}
    tasks = [task for task in experiment_values["tasks"] if "targets" in changes or task["kind"] == "classification"]
    with pytest.raises(ConfigError, match=message):
        mtl.Experiment.of(**{**experiment_values, "tasks": tasks, "encoder": encoder, **changes}).run()


def _named(values):
    given = values["encoder"]
    return {"name": given} if isinstance(given, str | Path) else dict(given)
