"""Balanced training: one model, the tasks' gradients on what they share made into one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

import mtl
from mtl.config import Choice
from mtl.data.batches import Batch, cut
from mtl.data.features import Features
from mtl.errors import ConfigError
from mtl.model.memory import free_memory
from mtl.model.multitask import MultiTaskModel
from mtl.training.aggregation import Aggregation, Combined, gramian_of
from mtl.training.draws import Batches, Draws
from mtl.training.schedule import Schedule
from mtl.training.strategy import Build, Draw, StepReport
from mtl.training.weighting import TaskLoss

if TYPE_CHECKING:
    from mtl.config import ExperimentConfig
    from mtl.model.encoder import Encoder
    from mtl.model.inference import TaskData
    from mtl.training.sampler import Sampler

#: How often in the course of a training a sampler is asked whether its shares are alike.
_LOOKS = 20


@dataclass
class Balancing(mtl.Strategy):
    """What strategies that balance the tasks' gradients share.

    Args:
        aggregation: How the gradients become one.
    """

    aggregation: Choice = field(default_factory=lambda: Choice(name="upgrad"))

    def setup(self, tasks: Sequence[TaskLoss], build: Build) -> None:
        if len(tasks) < 2:
            raise ConfigError("strategy: balancing is of the gradients of several tasks; there is one. Use joint.")
        self._weights = {task.name: task.weight for task in tasks}
        self._aggregation: Aggregation = build("aggregation", self.aggregation)
        self._aggregation.setup(list(self._weights))

    def check(self, config: ExperimentConfig, sampler: Sampler) -> None:
        if self._aggregation.every_task:
            who = f"strategy.aggregation {self.aggregation.name!r} needs every task in every step"
            if not _like_shares(sampler, {name: number for number, name in enumerate(self._weights, 1)}):
                raise ConfigError(f"{who}, in equal parts: set sampler to uniform.")
            if config.batch.size < len(self._weights):
                raise ConfigError(f"{who}: set batch.size to {len(self._weights)} or more.")

    def prepare(self, model: MultiTaskModel) -> None:
        self._model = model
        self._last: list[Batch] = []

    def draws(self, data: Mapping[str, TaskData], sampler: Sampler, config: ExperimentConfig, examples: int) -> Draws:
        like = _like_shares(sampler, {name: len(task.splits["train"]) for name, task in data.items()})
        dealt = like and config.batch.size >= len(data)
        return (Dealt if dealt else Drawn)(data, sampler, config, examples)

    def balance(self, draw: Draw, jacobian: Tensor, losses: Tensor, report: StepReport) -> Combined:
        """Make one of the gradients ``[tasks, parameters]``, and report how they were to each other."""
        names, gramian = list(report.losses), gramian_of(jacobian)
        report.gradients = look_at(gramian, names)
        if not gramian.isfinite().all():  # no solver takes them; whoever trains says whose loss or gradient it is
            weights = torch.full_like(losses, torch.nan)
            return Combined(weights @ jacobian, weights)
        combined = self._aggregation.combine(jacobian, losses, gramian)
        if combined.weights is not None:
            report.weights = dict(zip(names, combined.weights.tolist(), strict=True))
        self._last = list(draw) if self._aggregation.looks_back() else []
        return combined

    def end_step(self, report: StepReport, progress: float) -> None:
        if self._last:
            with torch.no_grad():
                found = {}
                for name, own in by_task(self._last).items():
                    parts = [share * self._model.loss(name, self._model(batch)[name], batch) for batch, share in own]
                    found[name] = self._weights[name] * torch.stack(parts).sum()
            self._aggregation.look_back(torch.stack(list(found.values())))
            self._last = []

    def state_dict(self) -> dict[str, Any]:
        return {"aggregation": self._aggregation.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._aggregation.load_state_dict(state["aggregation"])


@dataclass
class Balanced(Balancing):
    """Train one model on all tasks, their gradients on the shared parameters balanced.

    A step has an equal part of its rows of each task where the sampler's shares are alike, else what is drawn for it: one
    micro-batch, or several where there are more tokens than a batch may have. One of their graphs is alive at a time. Heads
    follow the gradient of their own task's loss, what is shared and not balanced the mean of the gradients, as in joint training.

    Args:
        aggregation: How the gradients become one.
        parameters_balanced: What is balanced: ``all`` that is shared, the last N layers, or the ``adapter``.
    """

    parameters_balanced: Literal["all", "adapter"] | Annotated[int, Field(ge=1)] = "all"

    def check_encoder(self, encoder: Encoder) -> None:
        trained = encoder.shared()
        device = next(encoder.parameters()).device
        size = sum(trained[name].numel() for name in self._choose(encoder, trained))
        need, there = 4 * size * (len(self._weights) + 1), free_memory(device)
        if there is not None and need > there:
            raise ConfigError(
                f"strategy.parameters_balanced: the gradients of {len(self._weights)} tasks on {size:,} parameters take "
                f"{need / 2**30:.1f} GB, of {there / 2**30:.1f} GB that are free. Balance the last layers only "
                "(parameters_balanced: 2), an adapter, or freeze more."
            )

    def prepare(self, model: MultiTaskModel) -> None:
        super().prepare(model)
        trained = model.encoder.shared()
        balanced = self._choose(model.encoder, trained)
        self._balanced = [parameter for name, parameter in trained.items() if name in balanced]
        self._rest = [parameter for name, parameter in trained.items() if name not in balanced]
        self._size = sum(parameter.numel() for parameter in self._balanced)

    def _choose(self, encoder: Encoder, trained: Mapping[str, nn.Parameter]) -> set[str]:
        if self.parameters_balanced == "all":
            chosen = set(trained)
        elif self.parameters_balanced == "adapter":
            chosen = trained.keys() & encoder.adapter_names()
        else:
            last = {id(p) for layer in encoder.layers()[-self.parameters_balanced :] for p in layer.parameters()}
            chosen = {name for name, parameter in trained.items() if id(parameter) in last}
        if not chosen:
            raise ConfigError(
                f"strategy.parameters_balanced: {self.parameters_balanced!r}, of which no parameter is trained and shared. "
                + (
                    "Adapters of each task are its own: set per_task to false, freeze fewer layers, or take joint."
                    if encoder.per_task
                    else "Freeze fewer layers, or set encoder.adapter."
                )
            )
        return chosen

    def fill_gradients(self, model: MultiTaskModel, draw: Draw) -> StepReport:
        rows, tasks = sum(batch.rows for batch in draw), by_task(draw)
        jacobian = self._balanced[0].new_empty(len(tasks), self._size)
        report = StepReport()
        for place, (name, own) in enumerate(tasks.items()):
            head, count = model.own(name), len(self._balanced)
            others, counts_for = [*self._rest, *head], sum(batch.rows for batch, _ in own) / rows
            for number, (batch, part) in enumerate(own):
                loss = part * model.loss(name, model(batch)[name], batch)
                found = torch.autograd.grad(self._weights[name] * loss, [*self._balanced, *others], allow_unused=True)
                _flatten(found[:count], self._balanced, jacobian[place], more=number > 0)
                shares = [counts_for] * len(self._rest) + [1.0] * len(head)
                for parameter, gradient, share in zip(others, found[count:], shares, strict=True):
                    add_gradient(parameter, gradient, share)
                report.losses[name] = report.losses.get(name, 0) + loss.detach()
        self._follow(draw, jacobian, report)
        return report

    def _follow(self, draw: Draw, jacobian: Tensor, report: StepReport) -> None:
        """Let what is balanced follow one of the gradients ``[tasks, parameters]``."""
        losses = torch.stack([self._weights[name] * loss for name, loss in report.losses.items()])
        combined = self.balance(draw, jacobian, losses, report)
        for parameter, gradient in zip(self._balanced, _parted(combined.gradient, self._balanced), strict=True):
            add_gradient(parameter, gradient, 1.0)


class Drawn(Batches):
    """A micro-batch of every task that the sampler draws into a batch, where an equal part for each is not to be had."""

    def __init__(self, data: Mapping[str, TaskData], sampler: Sampler, config: ExperimentConfig, examples: int) -> None:
        mixed = config.model_copy(update={"batch": config.batch.model_copy(update={"mixed": True})})
        super().__init__(data, sampler, mixed, examples)
        self._most = config.batch.max_tokens

    def __next__(self) -> Sequence[Batch]:
        rows: dict[str, list[int]] = {}
        for batch in self.next_rows():
            for name, ids in batch.items():
                rows.setdefault(name, []).extend(ids)
        return [
            self.collate({name: part})
            for name, ids in sorted(rows.items())
            for part in _in_tokens(self._features[name], ids, self._most)
        ]


class Dealt(Batches):
    """A micro-batch of every task, each with its part of a batch's rows."""

    def __init__(self, data: Mapping[str, TaskData], sampler: Sampler, config: ExperimentConfig, examples: int) -> None:
        super().__init__(data, sampler, config, examples)
        size = config.batch.size * config.batch.accumulate // len(data)
        own = config.batch.model_copy(update={"mixed": False, "size": size, "max_tokens": sys.maxsize})
        self._schedules = {
            name: Schedule({name: data[name].splits["train"]}, sampler, own, examples, config.seed) for name in sorted(data)
        }
        self._examples, self._seen, self._most = examples, 0, config.batch.max_tokens

    def __next__(self) -> Sequence[Batch]:
        if self._seen >= self._examples:
            raise StopIteration
        rows = {name: ids for schedule in self._schedules.values() for name, ids in next(schedule).items()}
        drawn = [
            self.collate({name: part}) for name, ids in rows.items() for part in _in_tokens(self._features[name], ids, self._most)
        ]
        self._seen += sum(batch.rows for batch in drawn)
        return drawn

    def state_dict(self) -> dict[str, Any]:
        own = {name: schedule.state_dict() for name, schedule in self._schedules.items()}
        return {**super().state_dict(), "seen": self._seen, "schedules": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._seen = state["seen"]
        for name, schedule in self._schedules.items():
            schedule.load_state_dict(state["schedules"][name])


def _like_shares(sampler: Sampler, sizes: Mapping[str, int]) -> bool:
    shares = [sampler.shares(sizes, at / _LOOKS) for at in range(_LOOKS + 1)]
    return all(len(set(each.values())) == 1 for each in shares)


def _in_tokens(features: Features, rows: Sequence[int], most: int) -> Iterator[list[int]]:
    """Part a task's rows of a step into micro-batches of at most ``most`` tokens, padding counted; one, where it can be."""
    lengths, counts = features.lengths_of(np.asarray(rows)), features.counts[np.asarray(rows)]
    if int(lengths.max()) * int(counts.sum()) <= most:
        yield list(rows)
        return
    order = np.argsort(lengths, kind="stable").tolist()
    for places in cut(order, lengths, counts, size=len(rows), max_tokens=most):
        yield [rows[place] for place in places]


def by_task(draw: Draw) -> dict[str, list[tuple[Batch, float]]]:
    """Return the micro-batches of each task in a step, each with its share of the task's predicted units."""
    found: dict[str, list[Batch]] = {}
    for batch in draw:
        found.setdefault(next(iter(batch.parts)), []).append(batch)
    units = {name: [batch.parts[name].units for batch in own] for name, own in found.items()}
    return {
        name: [
            (batch, count / sum(units[name]) if sum(units[name]) else 1 / len(own))
            for batch, count in zip(own, units[name], strict=True)
        ]
        for name, own in found.items()
    }


def _flatten(gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter], row: Tensor, *, more: bool) -> None:
    """Put gradients into a row one after the other, or add them to what is there."""
    start = 0
    for gradient, parameter in zip(gradients, parameters, strict=True):
        part = row[start : start + parameter.numel()]
        if gradient is not None:
            part.add_(gradient.reshape(-1)) if more else part.copy_(gradient.reshape(-1))
        elif not more:
            part.zero_()
        start += parameter.numel()


def _parted(vector: Tensor, parameters: Sequence[nn.Parameter]) -> Iterator[Tensor]:
    parts = torch.split(vector, [parameter.numel() for parameter in parameters])
    yield from (part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True))


def add_gradient(parameter: nn.Parameter, gradient: Tensor | None, share: float) -> None:
    """Add a share of a gradient, if there is one, to a parameter's own."""
    if gradient is not None:
        gradient = gradient if share == 1 else share * gradient
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def look_at(gramian: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Return the gradients' norms, and the cosine of every two, of their products ``[tasks, tasks]``."""
    gramian = gramian.cpu()
    norms = gramian.diagonal().clamp(min=0).sqrt()
    cosines = gramian / (norms[:, None] * norms).clamp(min=1e-30)
    return {
        "tasks": list(names),
        "norms": [_rounded(norm) for norm in norms.tolist()],
        "cosines": [[_rounded(cosine) for cosine in row] for row in cosines.tolist()],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
