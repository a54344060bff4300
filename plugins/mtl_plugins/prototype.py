"""Nearest prototypes: nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

import mtl
from mtl.transfer.adaptation import Predictor


@dataclass
class Prototype(mtl.Adaptation):
    """Answer with the class whose mean support vector is nearest by cosine, all vectors of length 1.

    The classifier of Snell et al. 2017, "Prototypical Networks" (arXiv:1703.05175), equation 1, on features that
    need not have been trained for it.
    """

    def adapt(self, vectors: Tensor, answers: Sequence[str]) -> Predictor:
        labels = sorted(set(answers))
        classes = torch.tensor([labels.index(answer) for answer in answers], device=vectors.device)
        sums = vectors.new_zeros(len(labels), vectors.shape[1]).index_add_(0, classes, normalize(vectors, dim=-1))
        prototypes = normalize(sums, dim=-1)

        def predict(queries: Tensor) -> list[str]:
            nearest = (normalize(queries, dim=-1) @ prototypes.T).argmax(-1)
            return [labels[number] for number in nearest.tolist()]

        return predict
