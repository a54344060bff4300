"""Small targets that a random encoder can tell apart, and spaces with features given by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mtl.config import EncoderConfig
from mtl.data.episodes import EpisodeRows
from mtl.data.features import featurize, join, name_features
from mtl.data.sources import load_splits
from mtl.model.encoder import Encoder, load_encoder
from mtl.model.inference import TaskData
from mtl.plugins import load_plugins
from mtl.task import Task
from mtl.transfer.space import Space

ANIMALS = ("cat", "dog", "bob", "anna")
FILLERS = ("the", "a", "on", "is", "was", "to")
#: Other classes and other texts than the topics.
MOODS = {
    split: [{"text": f"{word} {word} {place} {n}", "label": word} for n in range(rows) for word in ("good", "bad")]
    for split, rows, place in (("train", 16, "paris"), ("validation", 4, "london"), ("test", 4, "mat"))
}


def topic_rows(count: int, labels: tuple[str, ...] = ANIMALS[:3], start: int = 0) -> list[dict[str, Any]]:
    """Rows of each label in turn; most of a text is its label, and no two are alike."""
    return [
        {"text": f"{labels[n % len(labels)]} {labels[n % len(labels)]} {FILLERS[n % 6]} {n}", "label": labels[n % len(labels)]}
        for n in range(start, start + count)
    ]


def topic_splits(train: int = 30, test: int = 12, labels: tuple[str, ...] = ANIMALS[:3]) -> dict[str, list[dict[str, Any]]]:
    """Three splits without a common text."""
    return {
        "train": topic_rows(train, labels),
        "validation": topic_rows(2 * len(labels), labels, 200),
        "test": topic_rows(test, labels, 300),
    }


def with_shared_texts() -> dict[str, list[dict[str, Any]]]:
    """Moods of which rows 3 and 4 of train have a target's texts, one written otherwise."""
    target = topic_splits()
    train = [*MOODS["train"]]
    train[2] = {"text": target["train"][0]["text"].upper(), "label": "good"}
    train[3] = {"text": "  " + target["test"][5]["text"].replace(" ", "  "), "label": "bad"}
    return {**MOODS, "train": train}


def load(encoder: Encoder, data: Any, kind: str = "classification", **values: Any) -> TaskData:
    """Load a task as a run does."""
    task = Task(**{"name": "topic", "kind": kind, "data": data, **values})
    made = load_plugins().kinds.get(kind)(task, [])
    rows = load_splits(task, dict(made.roles), Path())
    made.fit(rows["train"])
    splits = {str(split): featurize(made, found, encoder.tokenizer) for split, found in rows.items()}
    return TaskData(task.name, made, splits, name_features(made, encoder.tokenizer))


def load_tiny(folder: Path) -> Encoder:
    """Load the tiny encoder of the tests."""
    return load_encoder(EncoderConfig(name=str(folder), max_length=32), folder, attention="sdpa")


def pool_of(target: TaskData) -> Any:
    """Join a target's train and test rows."""
    return join([target.splits["train"], target.splits["test"]])


def episode_of(target: TaskData, shots: int) -> EpisodeRows:
    """The first training rows of every class, and all test rows; of kinds without classes the first rows."""
    train, count = target.splits["train"], len(target.splits["train"])
    query = tuple(range(count, count + len(target.splits["test"])))
    found = target.kind.classes_of(train)
    if found is None:
        return EpisodeRows(target.name, (), tuple(range(shots)), query)
    classes = tuple(range(len(target.kind.class_names)))
    support = [row for number in classes for row in [r for r in range(count) if number in found[r]][:shots]]
    return EpisodeRows(target.name, classes, tuple(dict.fromkeys(support)), query)


def given(space: Space, features: Tensor) -> Space:
    """Put features in the place of those that the encoder gives."""
    space.__dict__["features"] = normalize(features, dim=-1)
    return space


def apart(space: Space, *, noise: float = 0.1) -> Space:
    """Give every row of a pool its class's own direction, with some noise."""
    numbers = torch.tensor([found[0] for found in space.kind.classes_of(space.pool)])
    generator = torch.Generator().manual_seed(0)
    return given(space, torch.eye(32)[numbers] + noise * torch.randn(len(numbers), 32, generator=generator))
