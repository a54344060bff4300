"""Nearest prototypes: nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from mtl.data.episodes import EpisodeRows
from mtl.meta.closed_form import Linear, Names, nearest_by_cosine, nearest_by_distance, prototypes
from mtl.transfer.adaptation import FeatureAdaptation, read_names, refuse_values
from mtl.transfer.space import Space

NEAREST = {"cosine": nearest_by_cosine, "euclidean": nearest_by_distance}


@dataclass
class Prototype(FeatureAdaptation):
    """Answer with the class whose mean support vector is nearest, all vectors of length 1.

    The classifier of Snell et al. 2017, "Prototypical Networks" (arXiv:1703.05175), equations 1 and 2, on features that
    need not have been trained for it.

    Args:
        metric: ``cosine``, or squared ``euclidean`` distance.
        scale: What logits are multiplied by; answers do not depend on it, their probabilities do.
        name_weight: How many support rows the class's written name counts for. With no support at all that is zero-shot.
    """

    of_classes: ClassVar[bool] = True

    metric: Literal["cosine", "euclidean"] = "cosine"
    scale: Annotated[float, Field(gt=0)] = 10.0
    name_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def names(self, space: Space, episode: EpisodeRows) -> Names | None:
        return read_names(space, episode, self.name_weight)

    def fit(self, features: Tensor, answers: Tensor, outputs: int, names: Names | None) -> Linear:
        refuse_values(answers, "prototype")
        return NEAREST[self.metric](prototypes(features, answers, outputs, names), self.scale)
