"""Balanced training: gradients as TorchJD's own, on tasks with different rows, with every method and after a resume."""

from __future__ import annotations

import math
import sys
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import rating_rows, sentiment_rows, splits
from saved_setup import most_saved
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import mtl
import mtl.training.loop as loop
from mtl.components import Builder
from mtl.config import Choice, EncoderConfig, validate
from mtl.data.batches import collate
from mtl.data.features import featurize
from mtl.data.rows import Rows
from mtl.data.sources import load_splits
from mtl.errors import ConfigError, MissingExtraError
from mtl.model.encoded import Encoded
from mtl.model.encoder import load_encoder
from mtl.model.inference import TaskData
from mtl.model.multitask import MultiTaskModel
from mtl.plugins import load_plugins
from mtl.training.aggregation import pieces
from mtl.training.weighting import TaskLoss
from mtl_plugins.balanced import Balanced, _like_shares
from mtl_plugins.balanced_features import BalancedFeatures
from mtl_plugins.gradnorm import GradNorm
from mtl_plugins.mean import Mean
from mtl_plugins.uniform import Uniform
from mtl_tasks.classification import Classification
from mtl_tasks.regression import Regression

torchjd = pytest.importorskip("torchjd", reason="needs the extra gradient")
needs_ecos = pytest.mark.skipif(find_spec("ecos") is None, reason="ecos has no wheel for Python 3.13")


def each(methods):
    """Parametrise by methods; one has a solver that is not there for every Python."""
    found = [pytest.param(name, marks=needs_ecos if name == "nash-mtl" else ()) for name in methods]
    return pytest.mark.parametrize("method", found)


METHODS = sorted(load_plugins().aggregations)
#: TorchJD's aggregator for each of ours, with the same options.
THEIRS = {
    "aligned-mtl": ("AlignedMTL", {}),
    "cagrad": ("CAGrad", {"c": 0.5}),
    "fairgrad": ("FairGrad", {"alpha": 1.0}),
    "graddrop": ("GradDrop", {}),
    "gradvac": ("GradVac", {}),
    "imtl-g": ("IMTLG", {}),
    "mean": ("Mean", {}),
    "mgda": ("MGDA", {}),
    "nash-mtl": ("NashMTL", {"n_tasks": 3}),
    "pcgrad": ("PCGrad", {}),
    "upgrad": ("UPGrad", {}),
}
TASKS = {
    "mood": ("classification", splits(sentiment_rows(32))),
    "rating": ("regression", splits(rating_rows(32))),
    "other": ("classification", splits([{**row, "label": row["text"][4:7]} for row in sentiment_rows(32)])),
}
#: Kinds of unlike heads, units and numbers of sequences a row.
KINDS = (
    "classification",
    "pair-classification",
    "regression",
    "token-classification",
    "multilabel",
    "ordinal",
    "ranking",
    "question-answering",
)


@pytest.fixture
def world(encoder_folder):
    """A model in float64 without dropout, and a function that makes a task's micro-batch."""
    config = EncoderConfig(name=str(encoder_folder), max_length=32, dropout=0.0)
    encoder = load_encoder(config, encoder_folder, attention="sdpa").double()
    kinds, features = {}, {}
    for name, (kind, data) in TASKS.items():
        made = load_plugins().kinds.get(kind)(mtl.Task(name=name, kind=kind, data=data), [])
        rows = load_splits(made.task, dict(made.roles), Path())["train"]
        made.fit(rows)
        kinds[name], features[name] = made, featurize(made, rows, encoder.tokenizer)
    model = MultiTaskModel(encoder, kinds, lambda name: len(name)).double().eval()  # heads have dropout

    def batch_of(*names, rows=range(8)):
        return collate(dict.fromkeys(names, rows), features, kinds)

    return model, batch_of


def balanced(model, method="upgrad", **options):
    strategy = Balanced(aggregation=Choice.model_validate(method), **options)
    strategy.setup([TaskLoss(name, 1.0, 1.0) for name in TASKS], Builder(load_plugins()))
    strategy.prepare(model)
    return strategy


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@each(THEIRS)
def test_gradients_are_torchjd_s_on_a_common_batch(world, method):
    from torchjd import aggregation
    from torchjd.autojac import backward, jac_to_grad

    model, batch_of = world
    shared = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
    strategy = balanced(model, method)
    combine = strategy._aggregation.combine
    strategy._aggregation.combine = lambda *given: (torch.manual_seed(1), combine(*given))[1]  # some draw at random
    strategy.fill_gradients(model, [batch_of(name) for name in TASKS])
    ours = [parameter.grad.clone() for parameter in shared]
    heads = {name: parameter.grad.clone() for name, parameter in model.heads.named_parameters()}
    model.zero_grad(set_to_none=True)
    batch = batch_of(*TASKS)
    losses = losses_of(model, batch)
    backward(list(losses), inputs=shared, retain_graph=True, parallel_chunk_size=1)
    name, options = THEIRS[method]
    torch.manual_seed(1)
    jac_to_grad(shared, getattr(aggregation, name)(**options))
    for found, parameter in zip(ours, shared, strict=True):
        assert_close(found, torch.nan_to_num(parameter.grad), rtol=1e-6, atol=1e-9)
    losses.sum().backward()
    for name, parameter in model.heads.named_parameters():
        assert_close(heads[name], parameter.grad, rtol=1e-6, atol=1e-12)


def losses_of(model, batch):
    outputs = model(batch)
    return torch.stack([model.loss(name, outputs[name], batch) for name in TASKS])


#: TorchJD's scalarization for each of ours, with the same options.
SCALARIZATIONS = {
    "famo": ("FAMO", {"shape": 3, "lr": 0.025, "weight_decay": 1e-3}),
    "geometric-mean": ("GeometricMean", {}),
    "stch": ("STCH", {"mu": 0.1}),
}


@pytest.mark.parametrize("method", SCALARIZATIONS)
def test_gradients_are_those_of_torchjd_s_function_of_the_losses_of_a_common_batch(world, method):
    from torchjd import scalarization

    model, batch_of = world
    balanced(model, method).fill_gradients(model, [batch_of(name) for name in TASKS])
    found = gradients(model)
    model.zero_grad(set_to_none=True)
    name, options = SCALARIZATIONS[method]
    getattr(scalarization, name)(**options)(losses_of(model, batch_of(*TASKS))).backward()
    for name, parameter in model.encoder.named_parameters():
        assert_close(found[f"encoder.{name}"], parameter.grad, rtol=1e-6, atol=1e-9)


def test_every_aggregation_of_torchjd_is_compared_with_torchjd_s():
    home = "mtl_plugins.torchjd_methods"
    assert {name for name in METHODS if load_plugins().aggregations.get(name).__module__ == home} <= {*THEIRS, *SCALARIZATIONS}


def test_famo_with_a_look_back_after_every_step_is_torchjd_s_over_several_steps(world):
    from torchjd.scalarization import FAMO

    model, batch_of = world
    start = {name: value.clone() for name, value in model.state_dict().items()}
    shared = dict(model.encoder.named_parameters())
    optimizer = torch.optim.SGD(shared.values(), lr=0.1)
    rows = [range(first, first + 4) for first in (0, 4, 8, 12)]
    strategy = balanced(model, {"name": "famo", "every": 1, "rate": 0.1})
    weights = []
    for own in rows:
        optimizer.zero_grad()
        report = strategy.fill_gradients(model, [batch_of(name, rows=own) for name in TASKS])
        optimizer.step()
        strategy.end_step(report, 0.5)
        weights.append(strategy._aggregation.state_dict()["logits"].softmax(0))
    ours = {name: parameter.detach().clone() for name, parameter in shared.items()}
    model.load_state_dict(start)
    famo = FAMO(3, lr=0.1)
    for own, expected in zip(rows, weights, strict=True):
        batch = batch_of(*TASKS, rows=own)
        optimizer.zero_grad()
        famo(losses_of(model, batch)).backward()
        optimizer.step()
        with torch.no_grad():
            famo.update(losses_of(model, batch))
        assert_close(expected, famo._w.detach().softmax(0), rtol=1e-6, atol=1e-6)
    assert (weights[-1] - 1 / 3).abs().max() > 0.01
    for name, parameter in shared.items():
        assert_close(ours[name], parameter.detach(), rtol=1e-6, atol=1e-7)


def test_tasks_with_different_rows_have_a_row_each_of_the_jacobian(world):
    model, batch_of = world
    draw = [batch_of("mood", rows=range(4)), batch_of("rating", rows=range(4, 12))]
    report = balanced(model, "mean").fill_gradients(model, draw)
    found = gradients(model)
    model.zero_grad(set_to_none=True)
    losses = [model.loss(name, model(batch)[name], batch) for name, batch in zip(("mood", "rating"), draw, strict=True)]
    (sum(losses) / 2).backward()
    for name, parameter in model.encoder.named_parameters():
        assert_close(found[f"encoder.{name}"], parameter.grad, rtol=1e-9, atol=1e-12)
    assert all(parameter.grad is None for parameter in model.head("other").parameters())
    assert not any("other" in name for name in found)
    assert report.weights == {"mood": 0.5, "rating": 0.5}


@pytest.mark.parametrize("strategy", ["balanced", "balanced-features"])
@pytest.mark.parametrize("method", ["upgrad", "stch"])
def test_a_task_in_several_micro_batches_counts_as_in_one(world, strategy, method):
    model, batch_of = world
    found = []
    for parts in ([range(8)], [range(3), range(3, 4), range(4, 8)]):
        model.zero_grad(set_to_none=True)
        made = Builder(load_plugins())("strategy", Choice(name=strategy, aggregation=method))
        made.setup([TaskLoss(name, 1.0, 1.0) for name in TASKS], Builder(load_plugins()))
        made.prepare(model)
        report = made.fill_gradients(model, [batch_of(name, rows=rows) for name in TASKS for rows in parts])
        found.append((gradients(model), report))
    (whole, said), (parted, again) = found
    assert whole.keys() == parted.keys()
    for name, gradient in whole.items():
        assert_close(parted[name], gradient, rtol=1e-6, atol=1e-9)
    assert again.losses.keys() == said.losses.keys()
    for name, loss in said.losses.items():
        assert_close(again.losses[name], loss)


@pytest.mark.parametrize(("sampler", "accumulate"), [("uniform", 4), ("proportional", 4), ("proportional", 1)])
def test_no_micro_batch_has_more_tokens_than_a_batch_may_have(sampler, accumulate, encoder_folder):
    tokenizer = load_encoder(EncoderConfig(name=str(encoder_folder), max_length=32), encoder_folder).tokenizer
    data = {}
    for name, words in (("mood", 2), ("other", 20)):
        rows = [{"text": " ".join(["the cat"] * words), "label": label} for label in ("good", "bad")] * 40
        kind = Classification(mtl.Task(name=name, kind="classification", data=rows))
        given = Rows({key: [row[key] for row in rows] for key in rows[0]}, name, range(1, len(rows) + 1), name)
        kind.fit(given)
        data[name] = TaskData(name, kind, {"train": featurize(kind, given, tokenizer)})
    batch = {"size": 16, "max_tokens": 128, "accumulate": accumulate}
    tasks = [{"name": name, "kind": "classification", "data": []} for name in data]
    config = validate({"encoder": str(encoder_folder), "tasks": tasks, "batch": batch, "budget": {"epochs": 1}}, "test")
    strategy = Balanced()
    strategy.setup([TaskLoss(name, 1.0, 1.0) for name in data], Builder(load_plugins()))
    seen = Counter()
    for draw in strategy.draws(data, Builder(load_plugins())("sampler", Choice(name=sampler)), config, 160):
        for made in draw:
            assert made.inputs["input_ids"].numel() <= 128
            seen.update(made.rows_by_task)
        if sampler == "uniform":
            rows = Counter()
            for made in draw:
                rows.update(made.rows_by_task)
            assert len(set(rows.values())) == 1  # long texts have as many rows of a step as short ones
    assert sum(seen.values()) >= 160


def test_the_second_look_of_famo_is_counted(experiment_values):
    values = {
        **experiment_values,
        "sampler": "uniform",
        "tasks": [{**experiment_values["tasks"][0], "name": name} for name in ("one", "two")],
    }
    passes = {}
    for every in (1, 1000):
        strategy = {"name": "balanced", "aggregation": {"name": "famo", "every": every}}
        results = mtl.Experiment.of(**{**values, "name": f"every-{every}", "strategy": strategy}).run().runs[0]["results"]
        [model] = results["models"].values()
        passes[every] = model["passes"]
    assert passes[1] == pytest.approx(2 * passes[1000], rel=0.1)


FIXED = """
import mtl

class Fixed(mtl.Sampler):
    def shares(self, sizes, progress):
        return {"one": 1.0, "two": 1.0}

@mtl.hookimpl
def mtl_register_samplers(register):
    register("fixed", Fixed)
"""


def test_a_sampler_of_fixed_shares_serves_single_and_balanced_training(experiment_values, tmp_path):
    plugin = tmp_path / "fixed.py"
    plugin.write_text(FIXED)
    tasks = [{**experiment_values["tasks"][0], "name": name} for name in ("one", "two")]
    for strategy in ("single", "balanced"):
        values = {**experiment_values, "tasks": tasks, "sampler": "fixed", "strategy": strategy, "name": strategy}
        results = mtl.Experiment.of(**values, plugins=[str(plugin)]).run().runs[0]["results"]
        assert set(results["tasks"]) == {"one", "two"}


def test_a_sampler_that_is_uniform_at_both_ends_alone_is_not_taken_for_uniform():
    class Bump(mtl.Sampler):
        def shares(self, sizes, progress):
            return {name: 1.0 + (place and 0.2 < progress < 0.8) for place, name in enumerate(sizes)}

    assert not _like_shares(Bump(), {"one": 1, "two": 2})
    assert _like_shares(Uniform(), {"one": 1, "two": 2})


def test_norms_and_cosines_are_reported(world):
    model, batch_of = world
    report = balanced(model).fill_gradients(model, [batch_of(name) for name in TASKS])
    shared = list(model.encoder.parameters())
    rows = []
    for name in TASKS:
        batch = batch_of(name)
        found = torch.autograd.grad(model.loss(name, model(batch)[name], batch), shared)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    assert report.gradients["tasks"] == list(TASKS)
    assert report.gradients["norms"] == pytest.approx([float(row.norm()) for row in rows], rel=1e-3)
    cosine = torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0)
    assert report.gradients["cosines"][0][1] == pytest.approx(float(cosine), rel=1e-3)


def test_only_the_last_layers_are_balanced_and_the_rest_follows_the_mean(world):
    model, batch_of = world
    draw = [batch_of(name) for name in TASKS]
    balanced(model, "mgda", parameters_balanced=1).fill_gradients(model, draw)
    found = gradients(model)
    model.zero_grad(set_to_none=True)
    balanced(model, "mean").fill_gradients(model, draw)
    mean = gradients(model)
    last = {name for name in found if ".layer.1." in name}
    assert last
    for name in found:
        if name.endswith("key.bias"):  # moves all scores of a softmax alike: its gradient is 0
            continue
        same = torch.allclose(found[name], mean[name], rtol=1e-9)
        assert same == (name not in last)


@pytest.fixture(scope="module")
def eight(encoder_folder):
    """A model of eight tasks of eight kinds on their sample rows, without dropout, and a batch of each."""
    config = EncoderConfig(name=str(encoder_folder), max_length=32, dropout=0.0)
    encoder = load_encoder(config, encoder_folder, attention="sdpa")
    encoder.freeze("embeddings")  # they are most of so small an encoder, and in none of a pass's products
    kinds, features = {}, {}
    for kind in KINDS:
        cls = load_plugins().kinds.get(kind)
        made = cls(mtl.Task(name=kind, kind=kind, **{"bad_rows": "drop", **cls.sample()}), [])
        made.vocabulary = encoder.tokenizer.vocabulary
        rows = load_splits(made.task, dict(made.roles), Path())["train"]
        made.fit(rows)
        kinds[kind], features[kind] = made, featurize(made, rows, encoder.tokenizer)
    model = MultiTaskModel(encoder, kinds, lambda name: len(name)).eval()
    return model, [collate({name: range(len(features[name]))}, features, kinds) for name in KINDS]


def joint_step(model, batches):
    for batch in batches:
        (name,) = batch.parts
        model.loss(name, model(batch)[name], batch).backward()
    model.zero_grad(set_to_none=True)


@pytest.fixture(scope="module")
def joint_flops(eight):
    """How many floating point operations a joint step takes."""
    with FlopCounterMode(display=False) as counter:
        joint_step(*eight)
    return counter.get_total_flops()


def eight_balanced(model, method):
    strategy = Balanced(aggregation=Choice(name=method))
    strategy.setup([TaskLoss(name, 1.0, 1.0) for name in KINDS], Builder(load_plugins()))
    strategy.prepare(model)
    return strategy


def flops_of(strategy, model, draw, steps=1):
    with FlopCounterMode(display=False) as counter:
        for _ in range(steps):
            model.zero_grad(set_to_none=True)
            strategy.end_step(strategy.fill_gradients(model, draw), 0.5)
    return counter.get_total_flops() / steps


@each([name for name in METHODS if name != "famo"])  # which goes over its rows twice
def test_a_balanced_step_of_eight_kinds_costs_no_more_flops_than_a_joint_one(eight, joint_flops, method):
    model, batches = eight
    assert flops_of(eight_balanced(model, method), model, batches) / joint_flops <= 1.05


def test_the_second_look_of_famo_adds_a_twentieth_at_most(eight):
    model, batches = eight
    famo, mean = (flops_of(eight_balanced(model, method), model, batches, steps=8) for method in ("famo", "mean"))
    assert 1.03 <= famo / mean <= 1.05  # a forward pass, a third of a step, in one of eight


def test_the_activations_of_one_task_are_alive_at_a_time(eight):
    model, batches = eight
    most = [most_saved(lambda batch=batch: joint_step(model, [batch])) for batch in batches]
    strategy = eight_balanced(model, "pcgrad")
    assert most_saved(lambda: strategy.fill_gradients(model, batches)) == max(most)
    assert most_saved(lambda: sum(model.loss(n, model(b)[n], b) for b in batches for n in b.parts).backward()) > 3 * max(most)


@pytest.mark.parametrize(
    ("sampler", "size", "alike"),
    [("uniform", 12, True), ("uniform", 2, False), ("proportional", 12, False)],
    ids=["like shares", "no room for all", "unlike shares"],
)
def test_like_shares_are_an_equal_part_of_every_step(sampler, size, alike, encoder_folder, tmp_path, monkeypatch):
    seen = []
    fill = Balanced.fill_gradients
    monkeypatch.setattr(
        Balanced, "fill_gradients", lambda self, model, draw: seen.append([b.rows for b in draw]) or fill(self, model, draw)
    )
    tasks = [{"name": name, "kind": kind, "data": data} for name, (kind, data) in TASKS.items()]
    tasks[0]["max_rows"] = {"train": 8}
    mtl.Experiment.of(
        name="parts",
        encoder={"name": str(encoder_folder), "max_length": 32},
        tasks=tasks,
        strategy={"name": "balanced", "aggregation": "mean"},
        sampler=sampler,
        budget={"epochs": 1},
        batch={"size": size},
        evaluation={"times": 1},
        threads=1,
        output=str(tmp_path),
    ).run()
    assert len(seen) > 1
    assert all(rows == [4, 4, 4] for rows in seen) is alike


AFTER_A_STOP = [
    *(pytest.param(name, "uniform", marks=needs_ecos if name == "nash-mtl" else ()) for name in METHODS),
    ("upgrad", "proportional"),
    pytest.param({"name": "famo", "every": 2}, "uniform", id="famo-every-2"),
    pytest.param({"name": "nash-mtl", "every": 2}, "uniform", marks=needs_ecos, id="nash-mtl-every-2"),
]


@pytest.mark.parametrize(("method", "sampler"), AFTER_A_STOP)
def test_training_goes_on_with_the_same_bits_after_a_stop(method, sampler, encoder_folder, tmp_path, monkeypatch):
    assert_goes_on({"name": "balanced", "aggregation": method}, sampler, encoder_folder, tmp_path, monkeypatch)


def assert_goes_on(strategy, sampler, encoder_folder, tmp_path, monkeypatch):
    def experiment(folder):
        tasks = [{"name": name, "kind": kind, "data": data} for name, (kind, data) in TASKS.items()]
        tasks[0]["max_rows"] = {"train": 8}
        return mtl.Experiment.of(
            name="balanced",
            encoder={"name": str(encoder_folder), "max_length": 32, "freeze": "embeddings"},
            tasks=tasks,
            strategy=strategy,
            sampler=sampler,
            budget={"epochs": 4},
            batch={"size": 12},
            optimizer={"learning_rate": 1e-3},
            evaluation={"times": 1},
            checkpoint={"every_seconds": 0},
            threads=1,
            output=str(folder),
        )

    whole = experiment(tmp_path / "whole").run()
    step = loop.Trainer._step

    def stopping(trainer, draw):
        if trainer.progress.step == 5:
            raise KeyboardInterrupt
        step(trainer, draw)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            experiment(tmp_path / "stopped").run()
    again = experiment(tmp_path / "stopped").run()
    kept = [sorted(finished.folder.glob("models/joint/**/*.safetensors")) for finished in (whole, again)]
    assert [path.read_bytes() for path in kept[0]] == [path.read_bytes() for path in kept[1]]
    assert whole.runs[0]["results"] == again.runs[0]["results"]
    log = [line for line in (whole.folder / "models/joint/log.jsonl").read_text().splitlines() if '"gradients"' in line]
    assert len(log) == whole.runs[0]["results"]["models"]["joint"]["steps"]


def test_the_cheap_approximation_weighs_by_the_gradient_on_a_vector_added_to_all_token_states(world):
    model, batch_of = world
    draw = [batch_of(name) for name in TASKS]
    strategy = BalancedFeatures(aggregation=Choice(name="mgda"))
    strategy.setup([TaskLoss(name, 1.0, 1.0) for name in TASKS], Builder(load_plugins()))
    strategy.prepare(model)
    report = strategy.fill_gradients(model, draw)
    found = gradients(model)
    model.zero_grad(set_to_none=True)
    losses = [model.loss(name, model(batch)[name], batch) for name, batch in zip(TASKS, draw, strict=True)]
    torch.stack([report.weights[name] * loss for name, loss in zip(TASKS, losses, strict=True)]).sum().backward()
    for name, parameter in model.encoder.named_parameters():
        assert_close(found[f"encoder.{name}"], parameter.grad, rtol=1e-6, atol=1e-9)
    # The pooled vector is a mean of token states: a vector added to all of these is added to it.
    batch, shift = draw[0], torch.zeros(32, dtype=torch.float64, requires_grad=True)
    encoded = model.encoder(batch.inputs)
    moved = Encoded(encoded.states + shift, encoded.mask, encoded.pooled + shift)
    outputs = model.head("mood")(moved.of(batch.parts["mood"].index), batch.parts["mood"].columns)
    (row,) = torch.autograd.grad(model.loss("mood", outputs, batch), shift)
    assert report.gradients["norms"][0] == pytest.approx(float(row.norm()), rel=1e-3)


def test_the_cheap_approximation_needs_weights(experiment_values, write_experiment, fails):
    values = experiment_values | {"strategy": {"name": "balanced-features", "aggregation": "graddrop"}}
    fails("run", write_experiment(values), pieces=("'graddrop'", "no weights", "balanced"))


def test_the_cheap_approximation_trains(experiment_values):
    values = experiment_values | {"strategy": {"name": "balanced-features", "aggregation": "pcgrad"}}
    results = mtl.Experiment.of(**values).run().runs[0]["results"]
    assert set(results["tasks"]) == {"mood", "rating", "places"}


def test_gradnorm_by_hand():
    method = GradNorm(alpha=1.0, rate=0.1)
    method.setup(["a", "b"])
    jacobian = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    combined = method.combine(jacobian, torch.tensor([2.0, 4.0]), jacobian @ jacobian.T)
    assert_close(combined.gradient, torch.tensor([1.5, 0.5]))
    # Lengths 3 and 1, their mean 2; no task is behind. Weights 1 − 0.1 · 3 and 1 + 0.1 · 1, brought to a mean of 1.
    assert_close(combined.weights, torch.tensor([0.5, 0.5]))
    assert_close(method._weights, torch.tensor([0.7, 1.1]) / 0.9)
    second = method.combine(jacobian, torch.tensor([1.0, 4.0]), jacobian @ jacobian.T)
    assert_close(second.weights, torch.tensor([0.7, 1.1]) / 1.8)
    # Relative losses 0.5 and 1, by their mean 2/3 and 4/3; lengths 2.333 and 1.222, their mean 1.778.
    lengths = torch.tensor([0.7 * 3, 1.1]) / 0.9
    target = lengths.mean() * torch.tensor([2 / 3, 4 / 3])
    moved = torch.tensor([0.7, 1.1]) / 0.9 - 0.1 * torch.sign(lengths - target) * torch.tensor([3.0, 1.0])
    assert_close(method._weights, moved * 2 / moved.sum())


def test_the_mean_weighs_every_task_alike():
    combined = Mean().combine(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.ones(2), torch.eye(2))
    assert combined.gradient.tolist() == [1.0, 2.0]


def test_graddrop_keeps_one_sign_and_the_order_of_the_parameters(monkeypatch):
    monkeypatch.setattr("mtl_plugins.graddrop.pieces", partial(pieces, parameters=3))
    method = load_plugins().aggregations.get("graddrop")()
    method.setup(["a", "b", "c"])
    torch.manual_seed(0)
    jacobian = torch.tensor([[1.0, -2, 3, 0, 5, -6, 7], [1, -1, 0, 0, -5, 6, -7], [1, -1, 0, 0, -1, 1, 0]])
    seen = torch.stack([method.combine(jacobian, torch.ones(3), jacobian @ jacobian.T).gradient for _ in range(200)])
    assert [sorted(set(column.tolist())) for column in seen.T] == [[3], [-4], [3], [0], [-6, 5], [-6, 7], [-7, 7]]
    assert float((seen[:, 4] > 0).float().mean()) == pytest.approx(5 / 11, abs=0.15)  # its purity


def test_famo_looks_at_the_losses_after_every_so_many_steps(world):
    model, batch_of = world
    strategy = balanced(model, "upgrad")
    strategy.aggregation = Choice(name="famo", every=3)
    strategy.setup([TaskLoss(name, 1.0, 1.0) for name in TASKS], Builder(load_plugins()))
    told = []
    strategy._aggregation.look_back = told.append
    for step in range(1, 8):
        strategy.end_step(strategy.fill_gradients(model, [batch_of(name) for name in TASKS]), 0.5)
        assert len(told) == step // 3


@each(["nash-mtl", "gradvac", "famo", "gradnorm"])
def test_a_method_that_needs_every_task_says_so(method, experiment_values, write_experiment, fails):
    values = experiment_values | {"strategy": {"name": "balanced", "aggregation": method}}
    fails("run", write_experiment(values), pieces=(f"{method!r}", "every task", "sampler to uniform"))
    values |= {"sampler": "uniform", "batch": {"size": 2}}
    fails("run", write_experiment(values), pieces=(f"{method!r}", "batch.size to 3"))


BAD = {
    "an unknown method": ({"aggregation": "upgrd"}, ("aggregation", "'upgrd'", "'upgrad'")),
    "an option that is none": ({"aggregation": {"name": "cagrad", "cc": 1}}, ("'cagrad'", "'cc'")),
    "no such layers": ({"parameters_balanced": 0}, ("parameters_balanced",)),
    "no adapters": ({"parameters_balanced": "adapter"}, ("parameters_balanced", "encoder.adapter")),
}


@pytest.mark.parametrize(("options", "pieces"), BAD.values(), ids=BAD)
def test_a_wrong_option_is_named(options, pieces, experiment_values, write_experiment, fails):
    fails("run", write_experiment(experiment_values | {"strategy": {"name": "balanced", **options}}), pieces=pieces)


@each(METHODS)
def test_a_loss_that_is_not_finite_is_left_for_the_loop_to_name(world, method, monkeypatch):
    model, batch_of = world
    made, loss = balanced(model, method), model.loss
    monkeypatch.setattr(model, "loss", lambda name, *of: loss(name, *of) * (math.nan if name == "rating" else 1.0))
    report = made.fill_gradients(model, [batch_of(name) for name in TASKS])
    made.end_step(report, 0.5)
    assert [name for name, value in report.losses.items() if not value.isfinite()] == ["rating"]
    trained = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
    assert not torch.nn.utils.get_total_norm([parameter.grad for parameter in trained]).isfinite()


@pytest.mark.parametrize(
    ("strategy", "method"), [("balanced", "graddrop"), ("balanced", "cagrad"), ("balanced-features", "cagrad")]
)
def test_a_loss_that_is_not_finite_ends_the_run(strategy, method, experiment_values, write_experiment, fails, monkeypatch):
    monkeypatch.setattr(Regression, "loss", lambda self, outputs, batch: outputs.sum() * math.nan)
    values = experiment_values | {"strategy": {"name": strategy, "aggregation": method}}
    fails("run", write_experiment(values), pieces=("The loss of task 'rating' is nan",))


def test_one_task_cannot_be_balanced(experiment_values, write_experiment, fails):
    values = experiment_values | {"strategy": "balanced", "sources": ["mood"]}
    fails("run", write_experiment(values), pieces=("balancing", "there is one", "joint"))


def test_gradients_that_do_not_fit_into_memory_are_refused_before_any_data_are_read(experiment_values, monkeypatch):
    monkeypatch.setattr("mtl_plugins.balanced.free_memory", lambda device: 1000)
    monkeypatch.setattr("mtl.run.load_splits", lambda *given: pytest.fail("data were read"))
    with pytest.raises(ConfigError, match=r"parameters_balanced: the gradients of 3 tasks .* last layers"):
        mtl.Experiment.of(**experiment_values | {"strategy": "balanced"}).run()


def test_without_the_extra_the_message_says_how_to_get_it(world, monkeypatch):
    model, _ = world
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mtl\[gradient\]'"):
        balanced(model, "mgda")


@pytest.mark.parametrize(
    ("python", "lacks", "error", "says"),
    [
        ((3, 12), "ecos", MissingExtraError, r"what TorchJD's NashMTL solves with.* pip install 'mtl\[gradient\]'"),
        ((3, 13), "ecos", ConfigError, r"nash-mtl .*'ecos', .* no wheel for Python 3\.13\. Take another .* Python 3\.12"),
        ((3, 13), "cvxpy", MissingExtraError, r"pip install 'mtl\[gradient\]'"),
        ((3, 13), "torchjd", MissingExtraError, r"'torchjd' is needed .* pip install 'mtl\[gradient\]'"),
    ],
)
def test_nash_mtl_without_its_solver_says_what_helps_on_this_python(monkeypatch, python, lacks, error, says):
    monkeypatch.setattr("mtl_plugins.torchjd_methods.version_info", python)
    for name in {"ecos", lacks, f"{lacks}.aggregation"}:  # later Pythons have no ecos, whatever else is there
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(error, match=says):
        load_plugins().aggregations.get("nash-mtl")().setup(["a", "b"])


def test_imtl_l_brings_all_scaled_losses_to_one():
    weighting = load_plugins().weightings.get("imtl-l")()
    weighting.setup([TaskLoss("a", 1.0, 1.0)])
    (scale,) = weighting.parameters()
    weighting.weigh("a", torch.tensor(4.0)).backward()
    assert_close(scale.grad, torch.tensor(3.0))  # exp(0) · 4 − 1
    scale.data.fill_(-math.log(4.0)), scale.grad.zero_()
    weighting.weigh("a", torch.tensor(4.0)).backward()
    assert_close(scale.grad, torch.tensor(0.0), atol=1e-6, rtol=0)
    assert weighting.weights()["a"] == pytest.approx(0.25)
