"""Regression: a number for a text or a pair of texts (ratings, similarity)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import model_validator
from torch import Tensor, nn

from mtl.data.features import Columns, Features, Tokenized
from mtl.data.rows import Rows
from mtl.errors import DataError
from mtl.kind import Batch, Request
from mtl.metrics import REGRESSION, Array
from mtl.model.heads import PooledHead
from mtl_tasks.pairs import OneTextOrTwo, PairOptions


class RegressionOptions(PairOptions):
    """Options of regression.

    Args:
        low: Predictions are not below it.
        high: Predictions are not above it.
    """

    low: float = -math.inf
    high: float = math.inf

    @model_validator(mode="after")
    def _check_bounds(self) -> RegressionOptions:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high (found {self.low:g} and {self.high:g})")
        return self


class Regression(OneTextOrTwo):
    """A number, by squared error on targets with mean 0 and variance 1, so that its loss is of the size of others.

    Reads a pair where the task maps ``text_pair``. A unit is a row.
    """

    metrics = REGRESSION
    Options = RegressionOptions
    likelihood_factor = 0.5
    episodic = True

    _mean: float = 0.0
    _sd: float = 1.0

    @classmethod
    def sample(cls) -> dict[str, Any]:
        return {"data": [{"text": f"{'very ' * number}good", "label": float(number)} for number in range(8)]}

    @property
    def state(self) -> dict[str, Any]:
        return {"mean": self._mean, "sd": self._sd}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._mean, self._sd = state["mean"], state["sd"]

    def fit(self, rows: Rows) -> None:
        values = self._read(rows)
        self._mean, self._sd = float(values.mean()), float(values.std())
        if self._sd == 0:
            raise DataError(f"Task {self.task.name!r}: every target of {rows.source} is {self._mean}; there is nothing to learn.")

    def targets(self, rows: Rows, tokenized: Tokenized) -> Columns:
        values = self._read(rows)
        return {"label": ((values - self._mean) / self._sd).astype(np.float32), "value": values}

    def head(self, hidden: int) -> nn.Module:
        return PooledHead(hidden, 1, sequences=self.sequences)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return nn.functional.mse_loss(outputs.squeeze(-1), batch["label"])

    def gold(self, features: Features) -> list[float]:
        return [float(value) for value in features.columns["value"]]  # type: ignore[union-attr]

    def decode(self, outputs: Tensor, batch: Batch) -> list[float]:
        values = outputs.squeeze(-1).double() * self._sd + self._mean
        return [float(value) for value in values.clamp(self.options.low, self.options.high).tolist()]

    def classes_of(self, features: Features) -> None:
        return None

    def outputs_of(self, classes: Sequence[int]) -> list[int]:
        return [0]

    def answers(self, batch: Batch) -> Tensor:
        return batch["label"]

    def trivial(self) -> float:
        return self._mean

    def present(
        self, answer: Any, scores: Array | None, requests: Sequence[Request], batch: Mapping[str, Array]
    ) -> dict[str, Any]:
        return {"value": round(answer, 4)}

    def _read(self, rows: Rows) -> Array:
        for index, value in enumerate(rows["label"]):
            if isinstance(value, bool) or not isinstance(value, int | float):
                found = "missing" if value is None else f"{value!r:.60} ({type(value).__name__})"
                raise rows.error(index, f"label is {found}; regression needs a number. Mend or remove the row.")
            if not math.isfinite(value):
                raise rows.error(index, f"label is {value}; regression needs a finite number. Mend or remove the row.")
        return np.asarray(rows["label"], dtype=np.float64)
