"""A training in episodes that is stopped and started again gives the same weights to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from episodic_setup import place_columns, topic_columns

from mtl.components import Builder
from mtl.config import validate
from mtl.data.features import featurize
from mtl.data.sources import load_splits
from mtl.model.encoder import load_encoder
from mtl.model.inference import TaskData
from mtl.model.multitask import MultiTaskModel
from mtl.plugins import load_plugins
from mtl.training.loop import Trainer
from mtl.training.weighting import TaskLoss


class Stopper:
    """Raises after a step."""

    def __init__(self, stop_at):
        self.stop_at = stop_at
        self.steps = []

    def batch_ready(self, draw):
        pass

    def step_end(self, step, examples, report):
        self.steps.append(step)
        if step == self.stop_at:
            raise KeyboardInterrupt(f"stopped after step {step}")

    def evaluation_end(self, step, metrics):
        pass


def rows_of(columns):
    return {"train": [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]}


def make_trainer(encoder_folder, folder, strategy, stop_at=None):
    """Six steps of two episodes of two ways, a shot and two queries: 12 rows a step. The encoder has its dropout."""
    config = validate(
        {
            "encoder": {"name": str(encoder_folder), "max_length": 32},
            "tasks": [
                {"name": "topic", "kind": "classification", "data": rows_of(topic_columns())},
                {"name": "places", "kind": "token-classification", "data": rows_of(place_columns())},
            ],
            "strategy": strategy,
            "episodes": {"ways": 2, "shots": 1, "queries": 2, "per_step": 2},
            "budget": {"examples_per_task": 36},
            "evaluation": {"times": 0},
            "optimizer": {"learning_rate": 1e-3, "head_learning_rate": 1e-2},
            "checkpoint": {"every_seconds": 0},
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
    return Trainer(
        model, data, strategy, build("sampler", config.sampler), 72, config, folder, Stopper(stop_at), lambda *_: ({}, {})
    )


def state_of(trainer):
    learned = {f"learned {name}": value for name, value in trainer.strategy.state_dict()["learned"].items()}
    return {**trainer.model.state_dict(), **learned}


@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "maml", "rates": "layer-step", "steps": 2, "dropout": True, "first_order_until": 0.4, "multi_step": 0.7},
        {"name": "meta-sgd", "rates": "element", "adapt": 1, "steps": 2, "head": "learned", "memory": "store"},
        {"name": "protonet"},
        {"name": "r2d2"},
    ],
    ids=lambda strategy: strategy["name"],
)
def test_a_training_that_is_stopped_twice_gives_the_same_bits(encoder_folder, tmp_path, strategy):
    whole = make_trainer(encoder_folder, tmp_path / "whole", strategy)
    before = {name: value.clone() for name, value in state_of(whole).items()}
    assert whole.train().step == 6
    # Steps are saved after they are told of, so that the step of the stop is made again.
    for stop, steps in ((2, [1, 2]), (4, [2, 3, 4])):
        stopped = make_trainer(encoder_folder, tmp_path / "stopped", strategy, stop)
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {stop}"):
            stopped.train()
        assert stopped.watcher.steps == steps
    last = make_trainer(encoder_folder, tmp_path / "stopped", strategy)
    assert last.train().step == 6
    assert last.watcher.steps == [4, 5, 6]
    found, expected = state_of(last), state_of(whole)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    moved = {name for name, value in expected.items() if not torch.equal(value, before[name])}
    assert any(name.startswith("encoder.") for name in moved)
    # A bias of all keys alike changes no attention: it has no gradient, and its rate none.
    assert {name for name in expected if name.startswith("learned ") and not name.endswith("key/bias")} <= moved
    logs = [(folder / "log.jsonl").read_text() for folder in (tmp_path / "whole", tmp_path / "stopped")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["step"] for line in logs[0].splitlines()] == [1, 2, 3, 4, 5, 6]
