"""Checks of strategies: on two small tasks, with a tiny encoder."""

from __future__ import annotations

import math
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mtl.components import Builder
from mtl.config import Choice, EncoderConfig, validate
from mtl.data.features import featurize, name_features
from mtl.data.rows import Rows
from mtl.errors import ConfigError
from mtl.model.encoder import load_encoder
from mtl.model.inference import TaskData
from mtl.model.multitask import MultiTaskModel
from mtl.model.state import load_state, save_state
from mtl.plugins import Plugins
from mtl.task import Task
from mtl.testing.contract import Broken, Checks
from mtl.testing.encoder import tiny_encoder, words_of
from mtl.training.strategy import Strategy
from mtl.training.weighting import TaskLoss

_STEPS, _RATE = 30, 3e-4
_TOPICS = {"cat": "pets", "dog": "pets", "bread": "food", "soup": "food"}
_TEXTS = [f"the {word} is {mood} {number}" for number in range(6) for word in _TOPICS for mood in ("good", "bad")]
_LABELS = {
    "topic": [_TOPICS[text.split()[1]] for text in _TEXTS],
    "mood": [text.split()[3] for text in _TEXTS],
}


class Bench:
    """A strategy with two tasks on the same texts.

    Args:
        name: Of the strategy.
        plugins: That bring it.
    """

    def __init__(self, name: str, plugins: Plugins) -> None:
        self.name, self.plugins, self.build = name, plugins, Builder(plugins)
        self.place = tempfile.TemporaryDirectory(prefix="mtl-check-")
        self.folder = Path(self.place.name)
        values = {
            "encoder": str(self.folder / "encoder"),
            "tasks": [],
            "budget": {"epochs": 1},
            "episodes": {"ways": 2, "shots": 2, "queries": 2},
            "strategy": name,
        }
        listed = [{"name": task, "kind": "classification", "data": []} for task in _LABELS]
        self.config = validate({**values, "tasks": listed, "base": str(self.folder)}, "check")

    @cached_property
    def _encoder(self) -> EncoderConfig:
        tiny_encoder(self.folder / "encoder", words_of(_TEXTS))
        return EncoderConfig(name=str(self.folder / "encoder"), max_length=32)

    def encoder(self) -> Any:
        """Return a fresh copy of the tiny encoder, with the attention that second derivatives need."""
        return load_encoder(self._encoder, self._encoder.name, attention="eager")

    @cached_property
    def data(self) -> dict[str, TaskData]:
        """The two tasks."""
        tokenizer = self.encoder().tokenizer
        data = {}
        for name, labels in _LABELS.items():
            kind = self.plugins.kinds.get("classification")(Task(name=name, kind="classification", data=[]), ())
            kind.vocabulary = tokenizer.vocabulary
            rows = Rows({"text": _TEXTS, "label": labels}, "texts of the check", range(1, len(_TEXTS) + 1), name)
            kind.fit(rows)
            data[name] = TaskData(name, kind, {"train": featurize(kind, rows, tokenizer)}, name_features(kind, tokenizer))
        return data

    def start(self, names: list[str] | None = None) -> tuple[Strategy, MultiTaskModel, Any]:
        """Return the strategy ready to train a fresh model of both tasks, and draws of the named ones."""
        torch.manual_seed(0)
        strategy: Strategy = self.build("strategy", Choice(name=self.name))
        strategy.setup([TaskLoss(name, 1.0, 1.0) for name in self.data], self.build)
        model = MultiTaskModel(self._accepted(strategy), {name: task.kind for name, task in self.data.items()}, lambda name: 0)
        strategy.prepare(model.train())
        chosen = {name: task for name, task in self.data.items() if names is None or name in names}
        return strategy, model, strategy.draws(chosen, self.build("sampler", Choice(name="uniform")), self.config, 10_000)

    def _accepted(self, strategy: Strategy) -> Any:
        """Return an encoder that a strategy does not refuse: all of it is trained, or all but its embeddings."""
        encoder = self.encoder()
        try:
            strategy.check_encoder(encoder)
        except ConfigError:
            encoder.freeze("embeddings")
            strategy.check_encoder(encoder)
        return encoder

    def optimizer(self, strategy: Strategy, model: MultiTaskModel) -> torch.optim.Optimizer:
        """Return an optimiser of everything that is trained."""
        return torch.optim.Adam([*model.parameters(), *strategy.parameters()], lr=_RATE)


def checks_of_strategy(name: str, plugins: Plugins) -> Checks:
    """Return the checks of a strategy."""
    bench = Bench(name, plugins)
    strategy: Strategy = bench.build("strategy", Choice(name=name))
    if not strategy.trains:
        return [("can be set up", lambda: None)]
    checks: list[Any] = [
        ("makes a step", lambda: _step(bench)),
        ("is deterministic under a seed", lambda: _deterministic(bench)),
        ("the loss falls when it learns from one draw again and again", lambda: _falls(bench)),
        ("its state survives saving and loading", lambda: _state(bench)),
    ]
    if strategy.trains_heads:
        checks.insert(1, ("a head without rows in a draw keeps no gradient", lambda: _absent(bench)))
    return checks


def _step(bench: Bench) -> None:
    strategy, model, draws = bench.start()
    report = strategy.fill_gradients(model, next(draws))
    if not report.losses:
        raise Broken("fill_gradients() reports no loss. Return a StepReport with the loss of each task in the draw.")
    for task, loss in report.losses.items():
        if not torch.isfinite(torch.as_tensor(loss)).all():
            raise Broken(f"The loss of task {task!r} is {float(loss)}.")
    if not any(parameter.grad is not None and parameter.grad.any() for parameter in model.encoder.parameters()):
        raise Broken("The encoder has no gradient after fill_gradients(). Add to .grad; the loop steps the optimiser.")


def _absent(bench: Bench) -> None:
    strategy, model, draws = bench.start(["topic"])
    strategy.fill_gradients(model, next(draws))
    if any(parameter.grad is not None for parameter in model.head("mood").parameters()):
        raise Broken("The head of a task that is not in the draw has one, so that AdamW would move it. Leave its .grad at None.")


def _losses(bench: Bench, steps: int) -> list[float]:
    strategy, model, draws = bench.start()
    optimizer, draw, losses = bench.optimizer(strategy, model), next(draws), []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad(set_to_none=True)
        report = strategy.fill_gradients(model, draw)
        optimizer.step()
        strategy.end_step(report, (step + 1) / steps)
        losses.append(sum(float(loss) for loss in report.losses.values()))
    return losses


def _deterministic(bench: Bench) -> None:
    first, again = _losses(bench, 3), _losses(bench, 3)
    if first != again and not any(map(math.isnan, [*first, *again])):
        raise Broken(f"With one seed the losses are {first} and then {again}. Draw from torch's generator alone.")


def _falls(bench: Bench) -> None:
    losses = _losses(bench, _STEPS)
    if not losses[-1] < losses[0]:
        raise Broken(
            f"It is {losses[0]:.4g} at first and {losses[-1]:.4g} after {_STEPS} steps. Has the gradient the right sign?"
        )


def _state(bench: Bench) -> None:
    strategy, model, draws = bench.start()
    strategy.fill_gradients(model, next(draws))
    save_state(bench.folder / "state.safetensors", strategy.state_dict())
    fresh, _, _ = bench.start()
    fresh.load_state_dict(load_state(bench.folder / "state.safetensors"))
