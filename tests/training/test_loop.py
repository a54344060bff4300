"""The loop: rates, evaluation, early stopping, the log, and losses that are not finite."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import rating_rows, sentiment_rows, splits
from torch.testing import assert_close

import mtl.training.loop as loop
from mtl.components import Builder
from mtl.config import OptimizerConfig, validate
from mtl.data.features import featurize
from mtl.data.sources import load_splits
from mtl.errors import TrainingError
from mtl.model.encoder import load_encoder
from mtl.model.inference import TaskData
from mtl.model.multitask import MultiTaskModel
from mtl.plugins import load_plugins
from mtl.training.loop import Trainer, aggregate, rate_factor
from mtl.training.weighting import TaskLoss

TASKS = [
    {"name": "mood", "kind": "classification", "data": splits(sentiment_rows(32))},
    {"name": "rating", "kind": "regression", "data": splits(rating_rows(32)), "weight": 0.5, "metric": "mae"},
]


class Watcher:
    """Keeps the weights of every step."""

    def __init__(self) -> None:
        self.weights: dict[int, torch.Tensor] = {}
        self.model: MultiTaskModel

    def batch_ready(self, draw):
        pass

    def step_end(self, step, examples, report):
        self.weights[step] = next(self.model.encoder.layers().parameters()).detach().clone()

    def evaluation_end(self, step, metrics):
        pass


def make_trainer(encoder_folder, folder, **changes):
    """Two tasks of 16 training rows in batches of 8; an epoch is 4 steps."""
    config = validate(
        {
            "encoder": {"name": str(encoder_folder), "max_length": 32},
            "tasks": TASKS,
            "batch": {"size": 8},
            "budget": {"epochs": 2},
            **changes,
        },
        "test",
    )
    torch.manual_seed(0)
    plugins = load_plugins()
    encoder = load_encoder(config.encoder, encoder_folder, attention="sdpa")
    data = {}
    for task in config.tasks:
        kind = plugins.kinds.get(task.kind)(task, [])
        rows = load_splits(task, dict(kind.roles), Path())
        kind.fit(rows["train"])
        data[task.name] = TaskData(task.name, kind, {s: featurize(kind, rows[s], encoder.tokenizer) for s in rows})
    build = Builder(plugins)
    strategy = build("strategy", config.strategy)
    strategy.setup([TaskLoss(name, one.kind.task.weight, one.kind.likelihood_factor) for name, one in data.items()], build)
    model = MultiTaskModel(encoder, {name: one.kind for name, one in data.items()}, lambda name: 0)
    watcher = Watcher()
    watcher.model = model
    examples = config.budget.examples({name: len(one.splits["train"]) for name, one in data.items()})
    return Trainer(
        model, data, strategy, build("sampler", config.sampler), examples, config, folder, watcher, None, config.budget.limits(1)
    )


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("schedule", "warmup", "progress", "expected"),
    [
        ("linear", 0.1, 0.0, 0.0),
        ("linear", 0.1, 0.05, 0.5),  # half of the warm-up
        ("linear", 0.1, 0.1, 1.0),
        ("linear", 0.1, 0.55, 0.5),  # 1 − (0.55 − 0.1) / 0.9
        ("linear", 0.1, 1.0, 0.0),
        ("linear", 0.0, 0.0, 1.0),
        ("linear", 0.0, 0.75, 0.25),
        ("cosine", 0.0, 1 / 3, 0.75),  # ½ (1 + cos 60°)
        ("cosine", 0.1, 0.55, 0.5),  # ½ (1 + cos 90°)
        ("cosine", 0.0, 1.0, 0.0),
        ("constant", 0.2, 0.1, 0.5),
        ("constant", 0.2, 0.9, 1.0),
        ("constant", 1.0, 0.25, 0.25),
        ("linear", 0.0, 1.2, 0.0),  # never below 0
    ],
)
def test_the_rate_by_hand(schedule, warmup, progress, expected):
    assert rate_factor(OptimizerConfig(schedule=schedule, warmup=warmup), progress) == pytest.approx(expected, abs=1e-12)


def test_skills_are_aggregated_by_hand():
    skills = {"a": 0.2, "b": -0.4, "c": 0.8}
    assert aggregate(skills, "mean") == pytest.approx(0.2)  # (0.2 − 0.4 + 0.8) / 3
    assert aggregate(skills, "worst") == -0.4
    assert aggregate(skills, "c") == 0.8
    assert aggregate({"a": 0.5, "b": 0.1}, "c") == pytest.approx(0.3)  # a model that does not train c


def test_every_step_is_logged_with_losses_weights_and_the_rate_of_its_middle(encoder_folder, tmp_path):
    trainer = make_trainer(encoder_folder, tmp_path, evaluation={"times": 0}, optimizer={"warmup": 0.0})
    progress = trainer.train()
    steps = read_log(tmp_path)
    assert progress.step == len(steps) == 8  # 2 epochs of 32 rows in batches of 8
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [line["examples"] for line in steps] == [8, 16, 24, 32, 40, 48, 56, 64]
    assert [line["rate"] for line in steps] == pytest.approx([1 - (8 * n + 4) / 64 for n in range(8)])
    for line in steps:
        assert line["weight"] == {"mood": 1.0, "rating": 0.5}
        assert set(line["loss"]) <= {"mood", "rating"}
        assert all(math.isfinite(loss) for loss in line["loss"].values())
        assert line["gradient_norm"] > 0
    assert {name for line in steps for name in line["loss"]} == {"mood", "rating"}


EPISODES = {"ways": 2, "shots": 2, "queries": 1}
#: An episode has 4 rows of support and 2 of query; with 2 steps the support is read twice.
PASSES = [
    ({"strategy": "joint"}, 1),
    ({"strategy": "protonet"}, 1),
    ({"strategy": {"name": "fomaml", "steps": 2, "adapt": "all"}}, (2 * 4 + 2) / 6),
    # One of two layers is adapted: what is below it is read once.
    ({"strategy": {"name": "fomaml", "steps": 2, "adapt": 1}}, (0.5 * (4 + 2) + 0.5 * (2 * 4 + 2)) / 6),
    ({"strategy": {"name": "anil", "steps": 2}}, 1),
]


@pytest.mark.parametrize(("values", "passes"), PASSES)
def test_passes_through_the_encoder_by_hand(encoder_folder, tmp_path, values, passes):
    rows = [{"text": f"{word} {number}", "label": word} for number in range(16) for word in ("good", "bad")]
    task = {"name": "mood", "kind": "classification", "data": splits(rows)}
    trainer = make_trainer(encoder_folder, tmp_path, **values, tasks=[task], episodes=EPISODES, evaluation={"times": 0})
    progress = trainer.train()
    assert progress.passes == pytest.approx(passes * progress.examples)


def test_training_ends_where_the_passes_are_used_up_and_rates_fall_by_them(encoder_folder, tmp_path):
    rows = [{"text": f"{word} {number}", "label": word} for number in range(16) for word in ("good", "bad")]
    task = {"name": "mood", "kind": "classification", "data": splits(rows)}
    settings = {"evaluation": {"times": 2}, "optimizer": {"warmup": 0.0}, "budget": {"epochs": 100, "passes": 40}}
    trainer = make_trainer(encoder_folder, tmp_path, tasks=[task], **settings)
    progress = trainer.train()
    # 8 rows a step, a sequence each: 40 sequences are 5 steps, and the evaluations are after 24 and 40.
    assert (progress.step, progress.passes, progress.examples) == (5, 40, 40)
    log = read_log(tmp_path)
    assert [line["step"] for line in log if "skill" in line] == [3, 5]
    assert [line["rate"] for line in log if "rate" in line] == pytest.approx([1 - 4 / 1600, 0.8, 0.6, 0.4, 0.2])


def test_training_ends_where_the_seconds_are_used_up(encoder_folder, tmp_path):
    progress = make_trainer(encoder_folder, tmp_path, budget={"epochs": 1000, "seconds": 1e-3}, evaluation={"times": 1}).train()
    assert (progress.step, progress.evaluations) == (1, 1)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("clip", [0.25, 1e6])
def test_what_the_optimizer_learns_from_is_clipped(encoder_folder, tmp_path, fused, clip):
    trainer = make_trainer(
        encoder_folder, tmp_path, evaluation={"times": 0}, budget={"examples_per_task": 4}, optimizer={"clip": clip}
    )
    groups = [{"params": group["params"], "lr": group["lr"]} for group in trainer.optimizer.param_groups]
    trainer.optimizer = torch.optim.AdamW(groups, betas=(0.5, 0.5), fused=fused)
    trainer.train()
    (line,) = read_log(tmp_path)
    halves = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    assert line["gradient_norm"] > 0.25
    assert 2 * float(torch.nn.utils.get_total_norm(halves)) == pytest.approx(min(clip, line["gradient_norm"]), rel=1e-5)


def test_without_clipping_no_norm_is_measured(encoder_folder, tmp_path):
    make_trainer(encoder_folder, tmp_path, evaluation={"times": 0}, optimizer={"clip": None}).train()
    assert not [line for line in read_log(tmp_path) if "gradient_norm" in line]


def test_evaluations_are_logged_with_every_task_s_skill(encoder_folder, tmp_path):
    make_trainer(encoder_folder, tmp_path, evaluation={"times": 4}).train()
    evaluations = [line for line in read_log(tmp_path) if "skill" in line]
    assert [line["step"] for line in evaluations] == [2, 4, 6, 8]
    for line in evaluations:
        assert set(line["skill"]) == {"mood", "rating"}
        assert line["score"] == pytest.approx(sum(line["skill"].values()) / 2)
        # Half of the eight validation rows are of each mood, so trivial accuracy is ½ and skill 2 · accuracy − 1.
        assert line["skill"]["mood"] == pytest.approx(2 * line["validation"]["mood"]["accuracy"] - 1)


def test_no_evaluation_keeps_the_last_weights(encoder_folder, tmp_path):
    trainer = make_trainer(encoder_folder, tmp_path, evaluation={"times": 0})
    trainer.train()
    assert not (tmp_path / "best.safetensors").exists()
    assert_close(next(trainer.model.encoder.layers().parameters()), trainer.watcher.weights[8], rtol=0, atol=0)


#: Validation skills of the four evaluations, at steps 2, 4, 6 and 8.
MOOD = [0.1, 0.2, 0.9, 0.3]
RATING = [0.4, 0.8, 0.0, 0.1]


@pytest.mark.parametrize(
    ("how", "patience", "best", "last"),
    [
        ("mean", None, 4, 8),  # means 0.25, 0.5, 0.45, 0.2
        ("mean", 1, 4, 6),
        ("mean", 2, 4, 8),
        ("worst", None, 4, 8),  # worst 0.1, 0.2, 0.0, 0.1
        ("mood", 1, 6, 8),
        ("rating", 1, 4, 6),
        ("rating", 2, 4, 8),
    ],
)
def test_training_stops_and_keeps_the_best_weights(encoder_folder, tmp_path, monkeypatch, how, patience, best, last):
    figures = {"mood": iter(MOOD), "rating": iter(RATING)}
    monkeypatch.setattr(loop, "evaluate", lambda model, task, split, size: {"skill": next(figures[task.name])})
    monkeypatch.setattr(loop, "skill_of", lambda data, values, trivial: {name: one["skill"] for name, one in values.items()})
    trainer = make_trainer(encoder_folder, tmp_path, evaluation={"times": 4, "aggregate": how, "patience": patience})
    progress = trainer.train()
    assert (progress.best_step, progress.step) == (best, last)
    assert progress.stopped == (patience is not None and last - best == 2 * patience)
    assert_close(next(trainer.model.encoder.layers().parameters()), trainer.watcher.weights[best], rtol=0, atol=0)
    assert not torch.equal(trainer.watcher.weights[best], trainer.watcher.weights[last])


def test_a_figure_as_good_as_the_best_is_not_better(encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: {})
    monkeypatch.setattr(loop, "skill_of", lambda *_: {"mood": 0.5, "rating": 0.5})
    progress = make_trainer(encoder_folder, tmp_path, evaluation={"times": 4}).train()
    assert progress.best_step == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_the_task_s_name(encoder_folder, tmp_path, monkeypatch, value):
    trainer = make_trainer(encoder_folder, tmp_path, evaluation={"times": 0})
    kind = trainer.data["rating"].kind
    monkeypatch.setattr(kind, "loss", lambda outputs, batch: outputs.sum() * 0 + value)
    with pytest.raises(TrainingError, match=rf"The loss of task 'rating' is {value} at step \d\. Lower optimizer\.learning_rate"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoints/*"))


def test_a_gradient_that_is_not_finite_stops_the_training(encoder_folder, tmp_path, monkeypatch):
    trainer = make_trainer(encoder_folder, tmp_path, evaluation={"times": 0})
    # √0 is 0, and its slope is infinite.
    monkeypatch.setattr(trainer.data["rating"].kind, "loss", lambda outputs, batch: (outputs.sum() * 0).sqrt())
    monkeypatch.setattr(trainer.data["mood"].kind, "loss", lambda outputs, batch: (outputs.sum() * 0).sqrt())
    with pytest.raises(TrainingError, match=r"The gradient of '(mood|rating)' is not finite at step 1\."):
        trainer.train()


def test_a_weight_that_is_not_finite_is_named_and_not_the_learning_rate(encoder_folder, tmp_path, monkeypatch):
    trainer = make_trainer(encoder_folder, tmp_path, evaluation={"times": 0})
    monkeypatch.setattr(type(trainer.strategy._weighting), "weights", lambda self: {"mood": 1.0, "rating": math.nan})
    with pytest.raises(TrainingError, match=r"The weight of task 'rating' is nan at step 1, .*Look at the weighting"):
        trainer.train()


def test_frozen_weights_stay_and_the_others_do_not(encoder_folder, tmp_path):
    trainer = make_trainer(
        encoder_folder, tmp_path, encoder={"name": str(encoder_folder), "max_length": 32, "freeze": 1}, evaluation={"times": 0}
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in moved if "embeddings" in name or "layer.0." in name]
    assert [name for name in moved if "layer.1." in name]
    assert {name.split(".")[1] for name in moved if name.startswith("heads")} == {"mood", "rating"}


def test_what_a_strategy_has_learned_is_handed_on_as_it_was_at_the_best_weights(encoder_folder, tmp_path, monkeypatch):
    figures = {"mood": iter(MOOD), "rating": iter(RATING)}
    monkeypatch.setattr(loop, "evaluate", lambda model, task, split, size: {"skill": next(figures[task.name])})
    monkeypatch.setattr(loop, "skill_of", lambda data, values, trivial: {name: one["skill"] for name, one in values.items()})
    trainer = make_trainer(encoder_folder, tmp_path, evaluation={"times": 4})
    monkeypatch.setattr(trainer.strategy, "state_dict", lambda: {"learned": trainer.progress.step})
    handed_on = []
    monkeypatch.setattr(trainer.strategy, "load_state_dict", handed_on.append)
    assert (trainer.train().best_step, handed_on) == (4, [{"learned": 4}])
