"""Matching: attention over the support."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

import mtl
from mtl.data.episodes import EpisodeRows
from mtl.meta.closed_form import matching
from mtl.transfer.adaptation import Predictor, need_support
from mtl.transfer.space import Space


@dataclass
class Matching(mtl.Adaptation):
    """Answer as the support rows that are nearest by cosine do (Vinyals et al. 2016, arXiv:1606.04080, equation 1).

    Args:
        scale: Of the cosines; the larger, the more the nearest row alone decides.
    """

    scale: Annotated[float, Field(gt=0)] = 10.0

    def adapt(self, space: Space, episode: EpisodeRows) -> Predictor:
        need_support(space, episode)
        features, answers = space.support(episode)
        outputs = len(space.outputs(episode))

        def predict(rows: Sequence[int]) -> Tensor:
            return matching(features, answers, outputs, space.features[list(rows)], self.scale)

        return predict
