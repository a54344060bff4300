"""Balancing in one pass of all tasks: the gradients of a pass for each, at the operations of a joint step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from conftest import rating_rows, sentiment_rows, splits
from saved_setup import most_saved
from test_balanced import KINDS, assert_goes_on
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import mtl
from mtl.components import Builder
from mtl.config import Choice, EncoderConfig
from mtl.data.batches import collate, join
from mtl.data.features import featurize
from mtl.data.sources import load_splits
from mtl.model.encoder import Encoder, load_encoder
from mtl.model.multitask import MultiTaskModel
from mtl.plugins import load_plugins
from mtl.training.weighting import TaskLoss

pytest.importorskip("torchjd", reason="needs the extra gradient")


def world_of(folder, tasks, adapter=None, **options):
    """Return a model of ``tasks``, without dropout, and a function that makes a task's micro-batch."""
    config = EncoderConfig(name=str(folder), **{"max_length": 32, "dropout": 0.0, "freeze": "embeddings"} | options)
    encoder = load_encoder(config, folder, attention="sdpa")
    if adapter is not None:
        encoder.put(Builder(load_plugins())("adapter", adapter))
    kinds, features = {}, {}
    for name, (kind, data) in tasks.items():
        cls = load_plugins().kinds.get(kind)
        made = cls(mtl.Task(name=name, kind=kind, **({"data": data} if data else {"bad_rows": "drop", **cls.sample()})), [])
        made.vocabulary = encoder.tokenizer.vocabulary
        rows = load_splits(made.task, dict(made.roles), Path())["train"]
        made.fit(rows)
        kinds[name], features[name] = made, featurize(made, rows, encoder.tokenizer)
    model = MultiTaskModel(encoder, kinds, lambda name: len(name)).eval()
    for name, parameter in encoder.named_parameters():
        if name in encoder.adapter_names():  # which change nothing until they are trained
            torch.nn.init.normal_(parameter, std=0.1)

    def batch_of(name, rows=None):
        return collate({name: range(len(features[name])) if rows is None else rows}, features, kinds)

    return model, batch_of


#: Two of them read the same texts; lengths, kinds of head and numbers of rows differ.
TASKS = {
    "mood": ("classification", splits(sentiment_rows(32))),
    "stars.of": ("regression", splits(rating_rows(32))),
    "other": ("classification", splits([{**row, "label": row["text"][4:7]} for row in sentiment_rows(32)])),
    "tags": ("token-classification", None),
}


@pytest.fixture
def world(encoder_folder):
    model, batch_of = world_of(encoder_folder, TASKS)
    return model.double(), batch_of


def strategy_of(name, model, aggregation, weights=(), **options):
    strategy = Builder(load_plugins())("strategy", Choice(name=name, aggregation=aggregation, **options))
    tasks = zip(model.kinds, weights or [1.0] * len(model.kinds), strict=True)
    strategy.setup([TaskLoss(task, weight, 1.0) for task, weight in tasks], Builder(load_plugins()))
    strategy.prepare(model)
    return strategy


def step(name, model, draw, aggregation="upgrad", **options):
    """Return the gradients of a step by parameter, and its report."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    report = strategy_of(name, model, aggregation, **options).fill_gradients(model, draw)
    return {key: own.grad.clone() for key, own in model.named_parameters() if own.grad is not None}, report


def assert_alike(model, draw, rtol=1e-9, **options):
    (apart, said), (at_once, again) = (step(name, model, draw, **options) for name in ("balanced", "balanced-at-once"))
    assert at_once.keys() == apart.keys()
    for name, gradient in apart.items():
        assert_close(at_once[name], gradient, rtol=rtol, atol=rtol * float(gradient.abs().max()) + 1e-12)
    assert list(again.losses) == list(said.losses)
    assert_close(again.losses, said.losses, rtol=rtol, atol=0)
    assert again.gradients["norms"] == pytest.approx(said.gradients["norms"], rel=1e-3)


@pytest.mark.parametrize("aggregation", ["mean", "upgrad", "graddrop"])
def test_gradients_are_those_of_a_pass_for_each_task(world, aggregation):
    model, batch_of = world
    draw = [batch_of("mood", range(6)), batch_of("stars.of", range(3)), batch_of("other", range(4, 9)), batch_of("tags")]
    assert_alike(model, draw, aggregation=aggregation, weights=(1.0, 2.0, 0.5, 1.0))


def test_a_text_that_several_tasks_have_is_there_for_each(world):
    model, batch_of = world
    assert_alike(model, [batch_of(name, range(4)) for name in ("mood", "other")])


def test_a_task_in_several_micro_batches_counts_as_in_one(world):
    model, batch_of = world
    parts = [batch_of("mood", range(3)), batch_of("stars.of", range(5)), batch_of("mood", range(3, 8)), batch_of("mood", [9])]
    whole = [batch_of("mood", [*range(8), 9]), batch_of("stars.of", range(5))]
    found = [step("balanced-at-once", model, draw)[0] for draw in (parts, whole)]
    for name, gradient in found[1].items():
        assert_close(found[0][name], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("balanced", [1, "adapter"])
def test_what_is_not_balanced_follows_the_mean(balanced, encoder_folder):
    adapter = Choice(name="bottleneck") if balanced == "adapter" else None
    model, batch_of = world_of(encoder_folder, TASKS, adapter, freeze="none")
    model.double()
    draw = [batch_of("mood", range(6)), batch_of("stars.of", range(3)), batch_of("tags")]
    assert_alike(model, draw, parameters_balanced=balanced)
    assert any("embeddings" in name for name in step("balanced-at-once", model, draw, parameters_balanced=balanced)[0])


def test_the_gradients_of_a_layer_that_is_used_several_times_add_up(world):
    model, batch_of = world
    config = transformers.AlbertConfig(
        vocab_size=model.encoder.backbone.config.vocab_size,
        embedding_size=16,
        hidden_size=model.encoder.hidden,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
    )
    model.encoder.backbone = transformers.AlbertModel(config, add_pooling_layer=False).double().eval()
    model.encoder.freeze("embeddings")
    assert_alike(model, [batch_of("mood", range(6)), batch_of("stars.of", range(3)), batch_of("tags")])


@pytest.mark.parametrize("cost", [10**6, 1], ids=["whole", "in groups"])
@pytest.mark.parametrize("options", [{"checkpointing": True}, {"mix": True}, {"pooling": "max"}])
def test_gradients_are_alike_however_the_encoder_is_run(options, cost, encoder_folder, monkeypatch):
    model, batch_of = world_of(encoder_folder, TASKS, **options)
    model.double().encoder.train()
    monkeypatch.setattr(Encoder, "cost_of_a_pass", lambda encoder, mask: cost)
    calls = []
    hook = model.encoder.backbone.register_forward_pre_hook(lambda *_: calls.append(1))
    draw = [batch_of("mood", range(6)), batch_of("stars.of", range(3)), batch_of("tags")]
    step("balanced-at-once", model, draw)
    hook.remove()
    assert (len(calls) > 1) == (cost == 1)
    assert_alike(model, draw)


def test_gradients_in_bfloat16_are_as_near_to_those_in_float32_as_of_a_pass_for_each(encoder_folder):
    found = {}
    for precision in ("fp32", "bf16"):
        model, batch_of = world_of(encoder_folder, TASKS, precision=precision)
        draw = [batch_of("mood", range(5)), batch_of("stars.of", range(3)), batch_of("tags")]
        for name in ("balanced", "balanced-at-once"):
            gradients = step(name, model, draw, "mean")[0]
            found[precision, name] = torch.cat([own.flatten() for key, own in gradients.items() if key.startswith("encoder")])
    exact = found["fp32", "balanced"]
    apart, at_once = ((found["bf16", name] - exact).norm() for name in ("balanced", "balanced-at-once"))
    assert 0 < at_once < 1.5 * apart
    assert apart < 0.05 * exact.norm()


def test_all_tasks_are_in_one_pass_as_far_as_the_tokens_of_a_batch_allow(world, monkeypatch):
    model, batch_of = world
    monkeypatch.setattr("mtl.model.encoded._groups", lambda mask, cost: None)  # no further parts
    draw = [batch_of("mood", range(6)), batch_of("stars.of", range(6)), batch_of("other", range(6))]
    shapes = []
    hook = model.encoder.backbone.register_forward_pre_hook(
        lambda module, given, named: shapes.append(named["attention_mask"].shape), with_kwargs=True
    )
    strategy = strategy_of("balanced-at-once", model, "upgrad")
    strategy.fill_gradients(model, draw)
    assert [rows for rows, _ in shapes] == [18]
    longest = max(batch.inputs["attention_mask"].shape[1] for batch in draw)
    strategy._most = 12 * longest
    shapes.clear()
    strategy.fill_gradients(model, draw)
    hook.remove()
    assert [rows for rows, _ in shapes] == [12, 6]


@pytest.fixture(scope="module")
def eight(encoder_folder):
    model, batch_of = world_of(encoder_folder, {kind: (kind, None) for kind in KINDS})
    return model, [batch_of(name) for name in KINDS]


def test_a_step_of_eight_kinds_costs_no_more_flops_than_a_joint_one(eight):
    model, draw = eight
    with FlopCounterMode(display=False) as joint:
        strategy = Builder(load_plugins())("strategy", Choice(name="joint"))
        strategy.setup([TaskLoss(name, 1.0, 1.0) for name in KINDS], Builder(load_plugins()))
        strategy.fill_gradients(model, [join(draw)])
    with FlopCounterMode(display=False) as own:
        step("balanced-at-once", model, draw)
    assert 0.9 < own.get_total_flops() / joint.get_total_flops() <= 1.05


def test_its_activations_are_those_of_a_joint_step(eight):
    model, draw = eight
    joint = most_saved(
        lambda: sum(model.loss(name, model(batch)[name], batch) for batch in draw for name in batch.parts).backward()
    )
    strategy = strategy_of("balanced-at-once", model, "upgrad")
    assert most_saved(lambda: strategy.fill_gradients(model, draw)) <= 1.05 * joint


@pytest.mark.parametrize("aggregation", ["upgrad", "famo"])
def test_training_goes_on_with_the_same_bits_after_a_stop(aggregation, encoder_folder, tmp_path, monkeypatch):
    strategy = {"name": "balanced-at-once", "aggregation": aggregation}
    assert_goes_on(strategy, "uniform", encoder_folder, tmp_path, monkeypatch)


def values_of(experiment_values, **encoder):
    return experiment_values | {
        "strategy": {"name": "balanced-at-once", "aggregation": "mean"},
        "encoder": experiment_values["encoder"] | encoder,
    }


def test_trained_embeddings_are_refused(experiment_values, write_experiment, fails):
    path = write_experiment(values_of(experiment_values, freeze="none"))
    fails("run", path, pieces=("balanced-at-once", "embeddings", "encoder.freeze to embeddings", "use balanced"))


def test_adapters_of_each_task_are_refused(experiment_values, write_experiment, fails):
    adapter = {"name": "bottleneck", "per_task": True}
    path = write_experiment(values_of(experiment_values, freeze="embeddings", adapter=adapter))
    fails("run", path, pieces=("balanced-at-once", "per_task to false"))


def test_a_compiled_encoder_is_refused(experiment_values, write_experiment, fails):
    path = write_experiment(values_of(experiment_values, freeze="embeddings", compile=True))
    fails("run", path, pieces=("balanced-at-once", "encoder.compile to false"))


def test_a_head_that_reads_weights_of_layers_is_refused(world):
    model, batch_of = world
    weight = model.encoder.layers()[0].attention.self.query.weight
    loss = model.loss
    model.loss = lambda *given: loss(*given) + weight.sum()
    with pytest.raises(mtl.errors.EncoderError, match="cannot be parted by task"):
        step("balanced-at-once", model, [batch_of("mood", range(4)), batch_of("stars.of", range(4))])
    assert model.encoder.parted is None
    assert "forward" not in vars(model.encoder.layers()[0].attention.self.query)
