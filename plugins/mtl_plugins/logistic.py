"""Logistic regression on features: plain feature extraction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mtl.data.episodes import EpisodeRows
from mtl.meta.closed_form import Linear, Names
from mtl.transfer.adaptation import FeatureAdaptation, read_names, refuse_values
from mtl.transfer.space import Space


@dataclass
class Logistic(FeatureAdaptation):
    """Fit scikit-learn's logistic regression on features of length 1.

    Args:
        C: Inverse of the penalty.
        name_weight: How many support rows the class's written name counts for. With no support at all that is zero-shot.
    """

    of_classes: ClassVar[bool] = True

    C: Annotated[float, Field(gt=0)] = 10.0
    name_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def names(self, space: Space, episode: EpisodeRows) -> Names | None:
        return read_names(space, episode, self.name_weight)

    def fit(self, features: Tensor, answers: Tensor, outputs: int, names: Names | None) -> Linear:
        from sklearn.linear_model import LogisticRegression

        refuse_values(answers, "logistic")
        counts = features.new_ones(len(features))
        if names is not None:
            features, answers = torch.cat([features, names.vectors]), torch.cat([answers, torch.arange(outputs).to(answers)])
            counts = torch.cat([counts, counts.new_full((outputs,), names.weight)])
        present = torch.unique(answers)
        if len(present) == 1:  # nothing to tell apart
            only = features.new_full((outputs,), -torch.inf).index_fill(0, present, 0.0)
            return Linear(features.new_zeros(outputs, features.shape[1]), only)
        found = LogisticRegression(C=self.C, max_iter=200)
        found.fit(features.cpu().numpy(), answers.cpu().numpy(), counts.cpu().numpy())
        weight, bias = np.zeros((outputs, features.shape[1])), np.full(outputs, -np.inf)
        if len(found.classes_) == 2:  # one row for both: the odds of the second
            weight[found.classes_] = np.concatenate([-found.coef_, found.coef_]) / 2
            bias[found.classes_] = np.concatenate([-found.intercept_, found.intercept_]) / 2
        else:
            weight[found.classes_], bias[found.classes_] = found.coef_, found.intercept_
        return Linear(torch.from_numpy(weight).to(features), torch.from_numpy(bias).to(features))
