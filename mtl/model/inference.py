"""Running a model without training it: evaluation on a split, vectors of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from mtl.data.batches import by_length, collate
from mtl.data.features import Features
from mtl.kind import TaskKind
from mtl.metrics import Array, Outcome
from mtl.model.encoder import Encoder
from mtl.model.multitask import MultiTaskModel

_MAX_TOKENS = 16_384
_KEPT_ROWS = 128


@dataclass(frozen=True)
class TaskData:
    """One task ready for work.

    Attributes:
        name: The task.
        kind: Its kind, fitted.
        splits: Features of each split.
        names: The classes' written names, a row each, where the kind has them.
        dropped: How many bad rows of each split were left out, where the task allows it.
    """

    name: str
    kind: TaskKind
    splits: dict[str, Features]
    names: Features | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)


def device_of(module: torch.nn.Module) -> torch.device:
    """Return where a module's parameters are."""
    return next(module.parameters()).device


@torch.inference_mode()
def predict_split(model: MultiTaskModel, task: TaskData, split: str, *, size: int) -> tuple[list[Any], Array | None, float]:
    """Answer every row of a split.

    Returns:
        Answers in the order of the rows, probabilities ``[rows, labels]`` where the kind has them, and the
        mean loss per predicted unit.
    """
    features, kind = task.splits[split], task.kind
    answers: list[Any] = [None] * len(features)
    scores: Array | None = None
    loss, units = 0.0, 0
    was_training = model.training
    model.eval()
    for ids in by_length(features, size=size, max_tokens=_MAX_TOKENS):
        batch = collate({task.name: ids}, {task.name: features}, {task.name: kind}).to(device_of(model))
        part, (outputs, found) = batch.parts[task.name], model.answer(batch)[task.name]
        loss += float(model.loss(task.name, outputs, batch)) * part.units
        units += part.units
        for row, answer in zip(ids, found, strict=True):
            answers[row] = answer
        if (probabilities := kind.scores(outputs)) is not None:
            scores = np.zeros((len(features), probabilities.shape[1]), np.float32) if scores is None else scores
            scores[ids] = probabilities.float().cpu().numpy()
    model.train(was_training)
    return answers, scores, loss / max(units, 1)


def evaluate(model: MultiTaskModel, task: TaskData, split: str, *, size: int) -> dict[str, Any]:
    """Return the loss and every metric of a task on a split."""
    answers, scores, loss = predict_split(model, task, split, size=size)
    outcome = replace(task.kind.outcome(task.splits[split], answers, scores), loss=loss)
    return {"loss": loss} | measure(task.kind, outcome)


def calibrate(model: MultiTaskModel, task: TaskData, *, size: int) -> None:
    """Let a kind that has thresholds choose them on the validation split."""
    if task.kind.calibrates:
        _, scores, _ = predict_split(model, task, "validation", size=size)
        task.kind.calibrate(task.splits["validation"], scores)


def evaluate_trivial(task: TaskData, split: str) -> dict[str, Any]:
    """Return every metric of the predictor that does not look at the text."""
    values = measure(task.kind, task.kind.trivial_outcome(task.splits[split]))
    return values | {name: metric.chance for name, metric in task.kind.all_metrics.items() if metric.chance is not None}


def measure(kind: TaskKind, outcome: Outcome) -> dict[str, Any]:
    """Return every metric of a kind on an outcome."""
    return {name: metric(outcome) for name, metric in kind.all_metrics.items()}


@torch.inference_mode()
def embed(encoder: Encoder, features: Features, *, size: int, task: str | None = None) -> torch.Tensor:
    """Return the pooled vector of every row, ``[rows, hidden]``; rows of several sequences are joined, in order."""
    encoder.eval()
    width = encoder.hidden * int(features.counts[0])
    vectors = torch.empty(len(features), width, device=device_of(encoder))
    bare = _bare(features)
    for ids in by_length(features, size=size, max_tokens=_MAX_TOKENS):
        batch = collate({"": ids}, {"": bare}).to(vectors.device)
        owners = None if task is None else [task] * len(batch.inputs["attention_mask"])
        pooled = encoder(batch.inputs, owners=owners).of(batch.parts[""].index).pooled
        vectors[torch.as_tensor(ids, device=vectors.device)] = pooled.reshape(len(ids), -1)
    return vectors


@torch.no_grad()
def keep(encoder: Encoder, features: Features) -> None:
    """Run a split through the frozen layers of an encoder that keeps what leaves them."""
    bare = _bare(features)
    for ids in by_length(bare, size=_KEPT_ROWS, max_tokens=_MAX_TOKENS):
        encoder.trunk(collate({"": ids}, {"": bare}).to(device_of(encoder)).inputs, encoder.frozen_depth)


def _bare(features: Features) -> Features:
    return Features(features.tokenized, features.sequences, {}, features.rows)


def skill_of(data: Sequence[TaskData], values: dict[str, dict[str, Any]], trivial: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Put each task's primary metric on the common scale of :meth:`mtl.Metric.skill`."""
    skills = {}
    for task in data:
        metric = task.kind.primary_metric
        skills[task.name] = metric.skill(values[task.name][metric.name], trivial[task.name][metric.name])
    return skills
