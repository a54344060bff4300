"""Balancing by the gradients on features: what goes back is the weighted joint gradient, whatever a head reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import rating_rows, splits
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import mtl
from mtl.components import Builder
from mtl.config import Choice, EncoderConfig
from mtl.data.batches import collate
from mtl.data.features import featurize
from mtl.data.sources import load_splits
from mtl.model.encoder import load_encoder
from mtl.model.multitask import MultiTaskModel
from mtl.plugins import load_plugins
from mtl.training.weighting import TaskLoss
from mtl_plugins.balanced_features import BalancedFeatures

pytest.importorskip("torchjd", reason="needs the extra gradient")

#: Heads that read the pooled vector, the states of tokens, and the encoder's own embeddings beside them.
TASKS = {
    "rating": ("regression", splits(rating_rows(32))),
    "tags": ("token-classification", None),
    "words": ("masked-language-modelling", None),
}


@pytest.fixture(params=["mean", "cls", "max"])
def world(request, encoder_folder):
    """A model in float64 in training, a part of its tokens hidden, and a draw of a batch of each task."""
    config = EncoderConfig(name=str(encoder_folder), max_length=32, dropout=0.0, pooling=request.param, token_dropout=0.3)
    encoder = load_encoder(config, encoder_folder, attention="sdpa").double()
    kinds, features = {}, {}
    for name, (kind, data) in TASKS.items():
        cls = load_plugins().kinds.get(kind)
        given = {"data": data} if data else {"bad_rows": "drop", **cls.sample()}
        made = cls(mtl.Task(name=name, kind=kind, **given), [])
        made.vocabulary = encoder.tokenizer.vocabulary
        rows = load_splits(made.task, dict(made.roles), Path())["train"]
        made.fit(rows)
        kinds[name], features[name] = made, featurize(made, rows, encoder.tokenizer)
    model = MultiTaskModel(encoder, kinds, lambda name: len(name)).double().train()
    for head in model.heads.values():
        head.eval()  # they have dropout
    return model, [collate({name: range(min(8, len(features[name])))}, features, kinds) for name in TASKS]


def test_what_goes_back_is_the_gradient_of_the_weighted_losses(world):
    model, draw = world
    strategy = BalancedFeatures(aggregation=Choice(name="mgda"))
    strategy.setup([TaskLoss(name, 1.0, 1.0) for name in TASKS], Builder(load_plugins()))
    strategy.prepare(model)
    torch.manual_seed(3)  # hides the same tokens both times
    report = strategy.fill_gradients(model, draw)
    assert len({round(weight, 3) for weight in report.weights.values()}) > 1
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    losses = {name: model.loss(name, model(batch)[name], batch) for name, batch in zip(TASKS, draw, strict=True)}
    shared = model.encoder.shared()
    weighted = torch.stack([report.weights[name] * loss for name, loss in losses.items()]).sum()
    for (name, _), gradient in zip(shared.items(), torch.autograd.grad(weighted, list(shared.values())), strict=True):
        assert_close(found[f"encoder.{name}"], gradient, rtol=1e-6, atol=1e-9)
    assert report.losses == losses


def test_a_step_costs_no_more_flops_than_a_joint_one(world):
    model, draw = world
    strategy = BalancedFeatures(aggregation=Choice(name="mgda"))
    strategy.setup([TaskLoss(name, 1.0, 1.0) for name in TASKS], Builder(load_plugins()))
    strategy.prepare(model)
    with FlopCounterMode(display=False) as joint:
        for name, batch in zip(TASKS, draw, strict=True):
            model.loss(name, model(batch)[name], batch).backward()
    with FlopCounterMode(display=False) as own:
        strategy.fill_gradients(model, draw)
    assert 0 < own.get_total_flops() <= 1.05 * joint.get_total_flops()


def test_it_has_no_options_that_it_does_not_follow(experiment_values, write_experiment, fails):
    values = experiment_values | {"strategy": {"name": "balanced-features", "parameters_balanced": 1}}
    fails("run", write_experiment(values), pieces=("balanced-features", "parameters_balanced"))


@pytest.mark.parametrize(
    ("strategy", "others", "pieces"),
    [
        ({"name": "balanced", "aggregation": "gradnorm"}, {"sampler": "proportional"}, ("gradnorm", "sampler to uniform")),
        (
            {"name": "balanced", "aggregation": "gradnorm"},
            {"sampler": "uniform", "batch": {"size": 2}},
            ("gradnorm", "batch.size to 3"),
        ),
        ({"name": "balanced-features", "aggregation": "graddrop"}, {}, ("graddrop", "no weights")),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_data_are_read(strategy, others, pieces, experiment_values, monkeypatch):
    experiment = mtl.Experiment.of(**(experiment_values | {"strategy": strategy} | others))
    monkeypatch.setattr("mtl.run.load_splits", lambda *given: pytest.fail("data were read"))
    with pytest.raises(mtl.errors.ConfigError) as refused:
        experiment.cells()
    assert all(piece in str(refused.value) for piece in pieces)


def test_frozen_encoders_have_nothing_to_balance(experiment_values, write_experiment, fails):
    values = experiment_values | {"strategy": {"name": "balanced-features", "aggregation": "mgda"}}
    values["encoder"] = values["encoder"] | {"freeze": "all"}
    fails("run", write_experiment(values), pieces=("none is trained", "Freeze fewer layers"))


def test_what_is_one_task_s_alone_follows_its_own_loss_whatever_its_weight(encoder_folder):
    """The mix of layers lies between the encoder's layers and the features that the tasks are weighed by."""
    config = EncoderConfig(name=str(encoder_folder), max_length=32, dropout=0.0, mix=True)
    encoder = load_encoder(config, encoder_folder, attention="sdpa").double()
    kinds, features = {}, {}
    for name in ("first", "another"):
        made = load_plugins().kinds.get("regression")(mtl.Task(name=name, kind="regression", data=splits(rating_rows(32))), [])
        read = load_splits(made.task, dict(made.roles), Path())["train"]
        made.fit(read)
        kinds[name], features[name] = made, featurize(made, read, encoder.tokenizer)
    model = MultiTaskModel(encoder, kinds, len).double().eval()
    draw = [collate({name: range(8)}, features, kinds) for name in kinds]
    strategy = BalancedFeatures(aggregation=Choice(name="mgda"))
    strategy.setup([TaskLoss(name, 1.0, 1.0) for name in kinds], Builder(load_plugins()))
    strategy.prepare(model)
    report = strategy.fill_gradients(model, draw)
    assert len(set(report.weights.values())) == 2
    for name, batch in zip(kinds, draw, strict=True):
        own = model.own(name)
        expected = torch.autograd.grad(model.loss(name, model(batch)[name], batch), own)
        assert_close([parameter.grad for parameter in own], list(expected), rtol=1e-9, atol=1e-12)
