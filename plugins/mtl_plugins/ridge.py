"""Ridge regression on features, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from mtl.meta.closed_form import Linear, Names, as_targets, ridge
from mtl.transfer.adaptation import FeatureAdaptation


@dataclass
class Ridge(FeatureAdaptation):
    """Fit ±1 for classes, or values, by ridge regression on features of length 1.

    Args:
        penalty: λ; see :func:`mtl.meta.closed_form.ridge`.
        scale: What the outputs of classes are multiplied by; answers do not depend on it, their probabilities do.
    """

    penalty: Annotated[float, Field(gt=0)] = 1.0
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def fit(self, features: Tensor, answers: Tensor, outputs: int, names: Names | None) -> Linear:
        head = ridge(features, as_targets(answers, outputs, features.dtype), self.penalty)
        return head if answers.is_floating_point() else Linear(self.scale * head.weight, self.scale * head.bias)
