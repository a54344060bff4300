"""Multi-label classification: any number of labels for a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

import mtl
from mtl.data.features import Columns, Features, Tokenized
from mtl.data.rows import Rows
from mtl.kind import Batch, Request
from mtl.metrics import PRECISION_RECALL_F1, ROC_AUC, Array, Metric, Outcome, sklearn_metric
from mtl.model.heads import PooledHead
from mtl.task import Frozen
from mtl_tasks.classification import label_index, learn_labels

_UNTUNED = 0.5
_RARE = 5  # rows of the validation split; with fewer, a label's own threshold is chance
_MICRO_FIRST = sorted(PRECISION_RECALL_F1, key=lambda metric: metric.name != "micro_f1")


class MultiLabelOptions(Frozen):
    """Options of multi-label classification.

    Args:
        threshold: A label is given from this probability on. ``tuned`` chooses one for each label on the validation
            split after training.
        separator: Splits a column of texts into labels; a column of lists needs none.
    """

    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["tuned"] = "tuned"
    separator: str = ","


def _best_threshold(gold: Array, scores: Array) -> float:
    """Return the score from which on F1 is largest, ½ if there is nothing to find."""
    from sklearn.metrics import precision_recall_curve

    if not gold.any():
        return _UNTUNED
    precision, recall, thresholds = precision_recall_curve(gold, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[f1[:-1].argmax()])


class MultiLabel(mtl.TaskKind):
    """Any subset of several labels, by a logistic loss on each; a unit is a label of a row."""

    roles = {"text": True, "label": True}
    metrics = (*_MICRO_FIRST, Metric("subset_accuracy", sklearn_metric("accuracy_score")), ROC_AUC)
    Options = MultiLabelOptions

    _labels: tuple[str, ...] = ()
    _trivial: tuple[str, ...] = ()
    _thresholds: tuple[float, ...] = ()

    @classmethod
    def sample(cls) -> dict[str, Any]:
        topics = {"refund": "money", "late": "time", "rude": "people"}
        found = [["refund"], ["late"], ["rude"], ["refund", "late"], ["late", "rude"], ["refund", "rude"], [], [*topics]]
        rows = [{"text": f"about {' and '.join(words) or 'you'}", "label": [topics[word] for word in words]} for words in found]
        return {"data": rows}

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    @property
    def state(self) -> dict[str, Any]:
        return {"labels": list(self._labels), "trivial": list(self._trivial), "thresholds": list(self._thresholds)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._labels, self._trivial = tuple(state["labels"]), tuple(state["trivial"])
        self._thresholds = tuple(state["thresholds"])

    def fit(self, rows: Rows) -> None:
        counts = Counter(label for index in range(len(rows)) for label in self._read(rows, index))
        self._labels = learn_labels(self.task, counts, rows.source)
        self._trivial = tuple(label for label in self._labels if 2 * counts[label] >= len(rows))
        given = self.options.threshold
        self._thresholds = (_UNTUNED if given == "tuned" else given,) * len(self._labels)

    def requests(self, rows: Rows) -> list[Request]:
        return [*rows.texts("text", max_words=self.task.max_words)]

    def targets(self, rows: Rows, tokenized: Tokenized) -> Columns:
        known = {label: number for number, label in enumerate(self._labels)}
        indicators = np.zeros((len(rows), len(known)), dtype=np.float32)
        for index in range(len(rows)):
            for label in self._read(rows, index):
                indicators[index, label_index(rows, index, label, known)] = 1
        return {"labels": indicators}

    def head(self, hidden: int) -> nn.Module:
        return PooledHead(hidden, len(self._labels))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(outputs, batch["labels"])

    def gold(self, features: Features) -> list[list[str]]:
        return [self._names(row > 0) for row in features.columns["labels"]]  # type: ignore[union-attr]

    def decode(self, outputs: Tensor, batch: Batch) -> list[list[str]]:
        thresholds = torch.tensor(self._thresholds, device=outputs.device)
        return [self._names(row) for row in (self.scores(outputs) >= thresholds).cpu().numpy()]

    def scores(self, outputs: Tensor) -> Tensor:
        return torch.sigmoid(outputs.float())

    @property
    def calibrates(self) -> bool:
        return bool(self.options.threshold == "tuned")

    def calibrate(self, features: Features, scores: Array | None) -> None:
        """Choose each label's threshold by its F1, of rare labels all together ("SCut" of Yang 2001, SIGIR)."""
        gold = np.asarray(features.columns["labels"]) > 0
        assert scores is not None
        common = _best_threshold(gold.ravel(), scores.ravel())
        self._thresholds = tuple(
            _best_threshold(gold[:, label], scores[:, label]) if gold[:, label].sum() >= _RARE else common
            for label in range(len(self._labels))
        )

    def trivial(self) -> list[str]:
        return list(self._trivial)

    def outcome(self, features: Features, predicted: Sequence[Any], scores: Array | None) -> Outcome:
        indicators = [[label in answer for label in self._labels] for answer in predicted]
        gold = np.asarray(features.columns["labels"]).astype(int)
        return Outcome(gold, np.array(indicators, dtype=int), scores, self._labels)  # type: ignore[arg-type]

    def present(
        self, answer: Any, scores: Array | None, requests: Sequence[Request], batch: Mapping[str, Array]
    ) -> dict[str, Any]:
        shown = (
            {} if scores is None else {label: round(float(score), 4) for label, score in zip(self._labels, scores, strict=True)}
        )
        return {"labels": answer, "scores": shown}

    def _names(self, chosen: Array) -> list[str]:
        return [label for label, is_chosen in zip(self._labels, chosen, strict=True) if is_chosen]

    def _read(self, rows: Rows, index: int) -> list[str]:
        value = rows["label"][index]
        if isinstance(value, str):
            value = [part.strip() for part in value.split(self.options.separator) if part.strip()]
        if not isinstance(value, list) or not all(isinstance(label, str) and label for label in value):
            raise rows.error(index, f"label is {value!r:.60}; a list of label names or a text is needed. Mend or remove the row.")
        return value
