from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl.config import EncoderConfig
from mtl.data.batches import collate
from mtl.data.features import featurize
from mtl.data.rows import Rows
from mtl.errors import PluginError
from mtl.model.encoder import load_encoder
from mtl.model.multitask import MultiTaskModel
from mtl.seeds import seed_of
from mtl.task import Task
from mtl_tasks.classification import Classification

ROWS = Rows({"text": ["the cat sat", "bob ran", "a dog"], "label": ["x", "y", "z"]}, "given", range(1, 4))


@pytest.fixture(scope="module")
def encoder(encoder_folder):
    return load_encoder(EncoderConfig(name=str(encoder_folder), max_length=32), encoder_folder, attention="sdpa")


def kind_of(name):
    kind = Classification(Task(name=name, kind="classification", data=[]))
    kind.fit(ROWS)
    return kind


def model_of(encoder, *names, seed=0):
    return MultiTaskModel(encoder, {name: kind_of(name) for name in names}, lambda name: seed_of(seed, "head", name))


def weights(model, task):
    return [value.detach().clone() for value in model.head(task).parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_head_starts_alike_alone_and_in_company(encoder):
    joint = model_of(encoder, "mood", "topic", "intent")
    turned = model_of(encoder, "intent", "topic", "mood")
    for task in ("mood", "topic", "intent"):
        alone = model_of(encoder, task)
        assert same(weights(joint, task), weights(alone, task))
        assert same(weights(joint, task), weights(turned, task))


def test_heads_of_other_tasks_and_other_seeds_start_otherwise(encoder):
    model = model_of(encoder, "mood", "topic")
    assert not same(weights(model, "mood"), weights(model, "topic"))
    assert not same(weights(model, "mood"), weights(model_of(encoder, "mood", seed=1), "mood"))


def test_making_heads_leaves_the_global_generator_alone(encoder):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    model_of(encoder, "mood", "topic")
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("name", ["helpdesk/intent", "owner.task", "type", "keys", "train", "pop", "0"])
def test_a_task_may_have_any_name_that_tasks_may_have(encoder, name):
    model = model_of(encoder, name, "other")
    features = featurize(model.kinds[name], ROWS, encoder.tokenizer)
    batch = collate({name: [0, 1]}, {name: features}, model.kinds)
    assert model(batch)[name].shape == (2, 3)
    again = model_of(encoder, name, "other", seed=1)
    again.load_state_dict(model.state_dict())
    assert same(weights(again, name), weights(model, name))


def test_names_that_differ_in_punctuation_have_heads_of_their_own(encoder):
    model = model_of(encoder, "a.b", "a/b", "a-b", "a_b")
    assert len(model.heads) == 4
    assert not same(weights(model, "a.b"), weights(model, "a/b"))


def test_only_heads_with_rows_in_the_batch_answer(encoder):
    model = model_of(encoder, "mood", "topic")
    features = featurize(model.kinds["mood"], ROWS, encoder.tokenizer)
    outputs = model(collate({"topic": [2]}, {"topic": features}, model.kinds))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {"topic": (1, 3)}


def test_parameter_groups_hold_everything_trained_once_and_spare_biases_and_norms_from_decay(encoder):
    model = model_of(encoder, "mood", "topic")
    groups = model.parameter_groups(1e-5, 1e-3, 0.01)
    listed = [id(value) for group in groups for value in group["params"]]
    assert sorted(listed) == sorted(id(value) for value in model.parameters())
    for group in groups:
        assert {value.ndim > 1 for value in group["params"]} == {group["weight_decay"] > 0}
    heads = {id(value) for value in model.heads.parameters()}
    for group in groups:
        assert {id(value) in heads for value in group["params"]} == {group["lr"] == 1e-3}


def test_a_frozen_encoder_is_in_no_group(encoder_folder):
    config = EncoderConfig(name=str(encoder_folder), max_length=32, freeze="all")
    frozen = load_encoder(config, encoder_folder, attention="sdpa")
    groups = model_of(frozen, "mood").parameter_groups(1e-5, 1e-3, 0.01)
    assert {group["lr"] for group in groups} == {1e-3}


def test_a_kind_whose_head_is_no_module_is_named(encoder):
    class Broken(Classification):
        def head(self, hidden: int) -> nn.Module:
            return 7

    kind = Broken(Task(name="t", kind="broken", data=[]))
    kind.fit(ROWS)
    with pytest.raises(PluginError, match=r"Kind 'broken': head\(\) returned int, not an nn\.Module"):
        MultiTaskModel(encoder, {"t": kind}, lambda name: 0)
