"""Classification: one label for a text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mtl
from mtl.data.features import Columns, Features, Tokenized
from mtl.data.rows import Rows
from mtl.errors import DataError, did_you_mean
from mtl.kind import Batch, Request
from mtl.metrics import CLASSIFICATION, Array
from mtl.model.heads import PooledHead


def read_label(rows: Rows, index: int, role: str = "label") -> str:
    """Return a row's label as a name; whole numbers and booleans are names too.

    Raises:
        DataError: If it is missing or is not a name.
    """
    value = rows[role][index]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str | int) and str(value).strip():
        return str(value)
    found = (
        "is missing"
        if value is None or value == "" or value != value
        else f"is {value!r:.60}, which is no label (a text, a whole number or true or false)"
    )
    raise rows.error(index, f"{role} {found}. Fill it in or remove the row.")


def learn_labels(task: mtl.Task, found: Counter[str], source: str) -> tuple[str, ...]:
    """Return a task's label names: as declared, or those found in train, sorted.

    Raises:
        DataError: If there are fewer than two.
    """
    labels = task.labels or tuple(sorted(found))
    if len(labels) < 2:
        has = f"has the one label {labels[0]!r}" if labels else "has no label"
        where = "'labels'" if task.labels else source
        raise DataError(f"Task {task.name!r}: {where} {has}; there is nothing to tell apart.")
    return labels


def label_index(rows: Rows, index: int, label: str, known: Mapping[str, int]) -> int:
    """Return the number of a label.

    Raises:
        DataError: If train does not have it; names file, row and the nearest label.
    """
    if label not in known:
        advice = [did_you_mean(label, known), "If it is meant, list all labels under 'labels' in the task."]
        raise rows.error(
            index, f"label {label!r} is not among the {len(known)} labels of the task. {' '.join(filter(None, advice))}"
        )
    return known[label]


def words_of(label: str) -> str:
    """Return a label as words: ``card_not_working`` and ``CardNotWorking`` are ``card not working``."""
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"[_\-./]+", " ", label))
    return " ".join(parts.lower().split()) or label


class Classification(mtl.TaskKind):
    """One of several labels for a text, by softmax cross-entropy; a unit is a row."""

    roles = {"text": True, "label": True}
    metrics = CLASSIFICATION
    episodic = True

    _labels: tuple[str, ...] = ()
    _majority: str = ""

    @classmethod
    def sample(cls) -> dict[str, Any]:
        moods = {"good": ("fine", "great"), "bad": ("awful", "poor")}
        things = ("film", "soup", "room")
        rows = [{"text": f"the {thing} was {word}", "label": mood} for mood in moods for word in moods[mood] for thing in things]
        return {"data": rows}

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    @property
    def state(self) -> dict[str, Any]:
        return {"labels": list(self._labels), "majority": self._majority}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._labels, self._majority = tuple(state["labels"]), state["majority"]

    def fit(self, rows: Rows) -> None:
        counts = Counter(read_label(rows, index) for index in range(len(rows)))
        self._labels = learn_labels(self.task, counts, rows.source)
        self._majority = min(counts, key=lambda label: (-counts[label], label))

    def requests(self, rows: Rows) -> list[Request]:
        return [*rows.texts("text", max_words=self.task.max_words)]

    def targets(self, rows: Rows, tokenized: Tokenized) -> Columns:
        known = {label: number for number, label in enumerate(self._labels)}
        numbers = [label_index(rows, index, read_label(rows, index), known) for index in range(len(rows))]
        return {"label": np.array(numbers, dtype=np.int64)}

    def head(self, hidden: int) -> nn.Module:
        return PooledHead(hidden, len(self._labels), sequences=self.sequences)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch["label"])

    def gold(self, features: Features) -> list[str]:
        return [self._labels[number] for number in features.columns["label"]]  # type: ignore[union-attr]

    def decode(self, outputs: Tensor, batch: Batch) -> list[str]:
        return [self._labels[number] for number in outputs.argmax(-1).tolist()]

    def scores(self, outputs: Tensor) -> Tensor:
        return torch.softmax(outputs.float(), dim=-1)

    def classes_of(self, features: Features) -> list[tuple[int]]:
        return [(int(number),) for number in features.columns["label"]]  # type: ignore[union-attr]

    def outputs_of(self, classes: Sequence[int]) -> list[int]:
        return list(classes)

    def answers(self, batch: Batch) -> Tensor:
        return batch["label"]

    def name_requests(self) -> list[Request] | None:
        if self.sequences > 1:
            return None
        return [self.task.descriptions.get(label) or words_of(label) for label in self._labels]

    def trivial(self) -> str:
        return self._majority

    def present(
        self, answer: Any, scores: Array | None, requests: Sequence[Request], batch: Mapping[str, Array]
    ) -> dict[str, Any]:
        shown: dict[str, Any] = {"label": answer}
        if scores is not None:
            shown["score"] = round(float(scores.max()), 4)
        return shown
