"""Ordinal regression: one of several grades that have an order (stars, severities, levels)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from mtl.data.features import Columns, Features, Tokenized
from mtl.data.rows import Rows
from mtl.errors import DataError
from mtl.kind import Batch, Request
from mtl.metrics import REGRESSION, Array, Metric, Outcome, sklearn_metric
from mtl.model.encoded import Encoded
from mtl.model.heads import PooledHead
from mtl_tasks.classification import label_index, read_label
from mtl_tasks.pairs import OneTextOrTwo


def _macro_mae(outcome: Outcome) -> float:
    """Return the mean over grades of the mean absolute error on their rows (Baccianella et al. 2009, ISDA, eq. 3)."""
    gold, errors = np.asarray(outcome.gold), np.abs(np.subtract(outcome.gold, outcome.predicted))
    return float(np.mean([errors[gold == grade].mean() for grade in np.unique(gold)]))


class CumulativeHead(nn.Module):
    """A score for a row, and thresholds between grades, ``[rows, grades − 1]``: log-odds of a grade up to each threshold."""

    def __init__(self, hidden: int, grades: int, sequences: int) -> None:
        super().__init__()
        self.score = PooledHead(hidden, 1, sequences=sequences)
        self.first = nn.Parameter(torch.tensor(-(grades - 2) / 2.0))
        self.steps = nn.Parameter(torch.full((grades - 2,), math.log(math.e - 1)))  # whose softplus is 1

    def forward(self, encoded: Encoded, columns: Mapping[str, Tensor]) -> Tensor:
        """Return ``θ_k − f`` for each threshold θ_k, which grow with k."""
        thresholds = self.first + torch.cat([self.steps.new_zeros(1), softplus(self.steps).cumsum(0)])
        difference: Tensor = thresholds - self.score(encoded, columns)
        return difference


class Ordinal(OneTextOrTwo):
    """A grade, by the proportional-odds model (McCullagh 1980, JRSS B 42:109, eq. 2.1); a unit is a row.

    ``P(grade ≤ k) = σ(θ_k − f)`` with one score f a row and growing thresholds θ. The answer is the median grade. Reads a
    pair where the task maps ``text_pair``.
    """

    metrics = (
        Metric("mae", sklearn_metric("mean_absolute_error"), higher_is_better=False, best=0.0),
        Metric("macro_mae", _macro_mae, higher_is_better=False, best=0.0),
        Metric("quadratic_kappa", sklearn_metric("cohen_kappa_score", weights="quadratic")),
        Metric("accuracy", sklearn_metric("accuracy_score")),
        *(metric for metric in REGRESSION if metric.name == "spearman"),
    )

    _grades: tuple[str, ...] = ()
    _median: str = ""

    @classmethod
    def sample(cls) -> dict[str, Any]:
        grades = {
            "low": ("can wait", "no hurry", "whenever"),
            "medium": ("this week", "soon", "by friday"),
            "high": ("now", "today"),
        }
        rows = [{"text": f"please do it {when}", "label": grade} for grade, words in grades.items() for when in words]
        return {"data": rows, "labels": list(grades)}

    @property
    def labels(self) -> tuple[str, ...]:
        return self._grades

    @property
    def state(self) -> dict[str, Any]:
        return {"grades": list(self._grades), "median": self._median}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._grades, self._median = tuple(state["grades"]), state["median"]

    def fit(self, rows: Rows) -> None:
        found = [read_label(rows, index) for index in range(len(rows))]
        self._grades = self.task.labels or _in_order(self.task.name, set(found), rows.source)
        if len(self._grades) < 2:
            raise DataError(f"Task {self.task.name!r}: {rows.source} has one grade, {self._grades[0]!r}; nothing can be learned.")
        known = {grade: number for number, grade in enumerate(self._grades)}
        numbers = sorted(label_index(rows, index, grade, known) for index, grade in enumerate(found))
        self._median = self._grades[numbers[(len(numbers) - 1) // 2]]

    def targets(self, rows: Rows, tokenized: Tokenized) -> Columns:
        known = {grade: number for number, grade in enumerate(self._grades)}
        numbers = [label_index(rows, index, read_label(rows, index), known) for index in range(len(rows))]
        return {"grade": np.array(numbers, dtype=np.int64)}

    def head(self, hidden: int) -> nn.Module:
        return CumulativeHead(hidden, len(self._grades), self.sequences)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return nn.functional.nll_loss(log_probabilities(outputs), batch["grade"])

    def gold(self, features: Features) -> list[str]:
        return [self._grades[number] for number in features.columns["grade"]]  # type: ignore[union-attr]

    def decode(self, outputs: Tensor, batch: Batch) -> list[str]:
        return [self._grades[number] for number in (outputs < 0).sum(1).tolist()]

    def scores(self, outputs: Tensor) -> Tensor:
        return log_probabilities(outputs.float()).exp()

    def trivial(self) -> str:
        return self._median

    def outcome(self, features: Features, predicted: Sequence[Any], scores: Array | None) -> Outcome:
        """Return the outcome with the numbers of grades, whose differences are steps."""
        known = {grade: number for number, grade in enumerate(self._grades)}
        gold, answers = ([known[grade] for grade in found] for found in (self.gold(features), predicted))
        return Outcome(gold, answers, scores, self._grades)

    def present(
        self, answer: Any, scores: Array | None, requests: Sequence[Request], batch: Mapping[str, Array]
    ) -> dict[str, Any]:
        shown: dict[str, Any] = {"grade": answer}
        if scores is not None:
            shown["scores"] = {grade: round(float(score), 4) for grade, score in zip(self._grades, scores, strict=True)}
        return shown


def log_probabilities(cumulative: Tensor) -> Tensor:
    """Return the log-probability of each grade, ``[rows, grades]``, from log-odds of a grade up to each threshold.

    With a > b: ``σ(a) − σ(b) = σ(a) · σ(−b) · (1 − exp(b − a))``, which loses no digits where both are near 0 or 1.
    """
    above, below = cumulative[:, 1:], cumulative[:, :-1]
    between = logsigmoid(above) + logsigmoid(-below) + torch.log(-torch.expm1((below - above).clamp(max=-1e-6)))
    return torch.cat([logsigmoid(cumulative[:, :1]), between, logsigmoid(-cumulative[:, -1:])], dim=1)


def _in_order(task: str, found: set[str], source: str) -> tuple[str, ...]:
    try:
        return tuple(sorted(found, key=float))
    except ValueError as error:
        listed = ", ".join(sorted(found)[:5])
        raise DataError(
            f"Task {task!r}: the grades of {source} are words ({listed}), whose order is not known. List them from lowest to "
            "highest under 'labels' in the task."
        ) from error
