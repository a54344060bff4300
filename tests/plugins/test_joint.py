from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mtl.config import Choice, EncoderConfig
from mtl.data.batches import Batch, Part, collate
from mtl.data.features import featurize
from mtl.data.rows import Rows
from mtl.model.encoder import load_encoder
from mtl.model.multitask import MultiTaskModel
from mtl.task import Task
from mtl.training.weighting import TaskLoss
from mtl_plugins.dwa import DynamicWeightAverage
from mtl_plugins.joint import Joint
from mtl_plugins.single import Single
from mtl_plugins.static import Static
from mtl_plugins.uncertainty import Uncertainty
from mtl_tasks.classification import Classification
from mtl_tasks.regression import Regression
from mtl_tasks.token_classification import TokenClassification

TEXTS = ["the cat sat on the mat", "bob ran", "anna flew to paris from london", "a good dog", "very bad", "the mat is fine"]
GIVEN = {
    "mood": (Classification, {"text": TEXTS, "label": list("xyzxyz")}),
    "rating": (Regression, {"text": TEXTS, "label": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}),
    "places": (
        TokenClassification,
        {
            "tokens": [text.split() for text in TEXTS],
            "tags": [["B-place" if word in ("paris", "london", "mat") else "O" for word in text.split()] for text in TEXTS],
        },
    ),
}


@pytest.fixture
def work(encoder_folder):
    """A model for three kinds of task without dropout, its kinds and its features."""
    config = EncoderConfig(name=str(encoder_folder), max_length=32, dropout=0.0, precision="fp32")
    encoder = load_encoder(config, encoder_folder, attention="sdpa")
    kinds, features = {}, {}
    for name, (cls, columns) in GIVEN.items():
        kinds[name] = cls(Task(name=name, kind="k", data=[]))
        rows = Rows(columns, name, range(1, len(TEXTS) + 1), name)
        kinds[name].fit(rows)
        features[name] = featurize(kinds[name], rows, encoder.tokenizer)
    return MultiTaskModel(encoder, kinds, lambda name: len(name)), kinds, features


def joint(kinds, weighting=None, weights=None):
    strategy = Joint()
    about = [TaskLoss(name, (weights or {}).get(name, 1.0), kind.likelihood_factor) for name, kind in kinds.items()]
    strategy.setup(about, lambda what, choice: weighting or Static())
    return strategy


def double(batch: Batch) -> Batch:
    def columns(part: Part):
        return {key: value.double() if value.is_floating_point() else value for key, value in part.columns.items()}

    return replace(batch, parts={name: replace(part, columns=columns(part)) for name, part in batch.parts.items()})


def gradients(model, strategy, draw):
    model.zero_grad(set_to_none=True)
    for parameter in strategy.parameters():
        parameter.grad = None
    report = strategy.fill_gradients(model, draw)
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    found |= {f"weighting {place}": value.grad.clone() for place, value in enumerate(strategy.parameters())}
    return found, report


ALL = {"mood": [0, 1, 2, 3], "places": [0, 1, 2, 4, 5], "rating": [1, 2, 5]}
SPREADS = {
    "two mixed": [{"mood": [0, 1], "places": [2, 4], "rating": [5]}, {"mood": [2, 3], "places": [0, 1, 5], "rating": [1, 2]}],
    "one task each": [{"mood": ALL["mood"]}, {"places": ALL["places"]}, {"rating": ALL["rating"]}],
    "unequal": [{"mood": [3], "places": [2]}, {"rating": [1, 2, 5]}, {"places": [0, 1, 4]}, {"mood": [0, 1, 2], "places": [5]}],
}


@pytest.mark.parametrize("weighting", [Static, Uncertainty, DynamicWeightAverage])
@pytest.mark.parametrize("spread", SPREADS)
def test_the_gradient_of_several_batches_is_that_of_one_with_all_rows(work, spread, weighting):
    model, kinds, features = work
    model.double().eval()
    strategy = joint(kinds, weighting(), {"mood": 2.0, "places": 0.5})
    for parameter in strategy.parameters():
        parameter.data = torch.tensor(0.3, dtype=torch.float64)
    whole, expected = gradients(model, strategy, [double(collate(ALL, features, kinds))])
    parts, report = gradients(model, strategy, [double(collate(rows, features, kinds)) for rows in SPREADS[spread]])
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        assert_close(parts[name], gradient, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    for task, loss in expected.losses.items():
        assert_close(report.losses[task], loss, rtol=0, atol=1e-10)


class _Scaled(nn.Module):
    """A stand-in for a model: the loss of a task is a known number times one shared parameter."""

    def __init__(self, **losses):
        super().__init__()
        self.shared = nn.Parameter(torch.tensor(1.0))
        self.values = losses

    def forward(self, batch):
        return dict.fromkeys(batch.parts)

    def loss(self, task, outputs, batch):
        return self.values[task] * self.shared


def test_a_task_counts_by_its_rows_and_its_weight_not_by_its_units():
    model = _Scaled(a=5.0, b=7.0)
    strategy = Joint()
    strategy.setup([TaskLoss("a", 2.0, 1.0), TaskLoss("b", 1.0, 1.0)], lambda what, choice: Static())
    batch = Batch({}, {"a": Part(None, {}, rows=3, units=3), "b": Part(None, {}, rows=1, units=100)})
    report = strategy.fill_gradients(model, [batch])
    # 3/4 · 2 · 5 + 1/4 · 1 · 7
    assert model.shared.grad.item() == pytest.approx(9.25)
    assert {task: loss.item() for task, loss in report.losses.items()} == {"a": 5.0, "b": 7.0}
    assert report.weights == {"a": 2.0, "b": 1.0}


def test_rows_without_units_change_nothing():
    model = _Scaled(a=5.0, b=7.0)
    strategy = Joint()
    strategy.setup([TaskLoss("a", 1.0, 1.0), TaskLoss("b", 1.0, 1.0)], lambda what, choice: Static())
    strategy.fill_gradients(model, [Batch({}, {"a": Part(None, {}, rows=1, units=1), "b": Part(None, {}, rows=1, units=0)})])
    # 1/2 · 5, and the share 0 of b.
    assert model.shared.grad.item() == pytest.approx(2.5)


@pytest.mark.parametrize("weighting", [Static, Uncertainty])
def test_a_task_that_is_absent_from_a_step_is_left_as_it_was(work, weighting):
    model, kinds, features = work
    strategy = joint(kinds, weighting())
    torch.manual_seed(0)
    groups = model.parameter_groups(1e-3, 1e-2, 0.1)
    if extra := list(strategy.parameters()):
        groups.append({"params": extra, "lr": 1e-2, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups)
    # A first step with all tasks fills AdamW's moments, which would move weights on without any gradient.
    strategy.fill_gradients(model, [collate(ALL, features, kinds)])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    extra_before = [value.detach().clone() for value in strategy.parameters()]
    strategy.fill_gradients(model, [collate({"mood": [0, 1], "rating": [2]}, features, kinds)])
    assert all(value.grad is None for value in model.head("places").parameters())
    assert all(value.grad is not None for value in model.head("mood").parameters())
    optimizer.step()
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) is name.startswith("heads.places"), name
    order = list(kinds)
    for task, value, old in zip(order, strategy.parameters(), extra_before, strict=False):
        assert torch.equal(value, old) is (task == "places"), task


def test_every_batch_is_one_encoder_pass_however_many_tasks_it_holds(work):
    model, kinds, features = work
    strategy, calls = joint(kinds), []
    model.encoder.backbone.register_forward_hook(lambda module, args, output: calls.append(output.last_hidden_state.shape[0]))
    draw = [collate(rows, features, kinds) for rows in (ALL, {"mood": [0]}, {"mood": [1], "rating": [1]})]
    strategy.fill_gradients(model, draw)
    # All rows are of 6 texts; the last batch has one text for two tasks.
    assert calls == [6, 1, 1]


def test_joint_training_lowers_every_loss(work):
    model, kinds, features = work
    torch.manual_seed(0)
    strategy = joint(kinds)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch, seen = collate(dict.fromkeys(kinds, range(len(TEXTS))), features, kinds), []
    for _ in range(30):
        report = strategy.fill_gradients(model, [batch])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        assert not any(loss.requires_grad for loss in report.losses.values())
        seen.append(report.losses)
    for name in kinds:
        assert seen[-1][name] < 0.5 * seen[0][name], name


def test_joint_trains_one_model_and_single_one_for_each_task():
    assert Joint().groups(["a", "b"]) == {"joint": ["a", "b"]}
    assert Single().groups(["a", "b"]) == {"a": ["a"], "b": ["b"]}


def test_joint_builds_the_weighting_it_is_told_and_keeps_its_state():
    asked = []

    def build(what, choice):
        asked.append((what, choice.name))
        return Uncertainty()

    strategy, again = (Joint(weighting=Choice(name="uncertainty")) for _ in range(2))
    for one in (strategy, again):
        one.setup([TaskLoss("a", 1.0, 1.0)], build)
    assert asked == [("weighting", "uncertainty")] * 2
    (parameter,) = strategy.parameters()
    parameter.data.fill_(0.4)
    again.load_state_dict(strategy.state_dict())
    assert [value.item() for value in again.parameters()] == [pytest.approx(0.4)]
