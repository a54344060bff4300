"""MAML: an initialisation from which a few steps of gradient descent learn a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mtl.data.episodes import Episode
from mtl.episodic.gradient_based import GradientBased
from mtl.episodic.reference import check_reference, reference_loss
from mtl.meta.reader import Reader
from mtl.model.multitask import MultiTaskModel


@dataclass
class MAML(GradientBased):
    """Differentiate through the inner loop, second derivatives and all.

    Finn et al. 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks" (arXiv:1703.03400), algorithm
    1. The options of MAML++ (Antoniou et al. 2019, "How to train your MAML", arXiv:1810.09502) are ``rates:
    layer-step``, ``multi_step``, ``first_order_until`` and, by default, LayerNorms that only the outer loop trains.

    Args:
        backend: ``mtl``, or ``learn2learn`` for the same by learn2learn's MAML; slower, with the same result.
    """

    backend: Literal["mtl", "learn2learn"] = "mtl"

    def prepare(self, model: MultiTaskModel) -> None:
        super().prepare(model)
        if self.backend == "learn2learn":
            check_reference(self)

    def episode_loss(self, reader: Reader, episode: Episode) -> Tensor:
        if self.backend == "learn2learn":
            return reference_loss(self, reader, episode)
        return super().episode_loss(reader, episode)
