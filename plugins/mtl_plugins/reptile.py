"""Reptile: the start moves towards where the inner loop ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mtl.data.episodes import Episode
from mtl.episodic.gradient_based import BIAS, WEIGHT, GradientBased, refuse_the_way, with_gradient
from mtl.errors import ConfigError
from mtl.meta.inner import Trace
from mtl.meta.reader import Reader
from mtl.model.multitask import MultiTaskModel


@dataclass
class Reptile(GradientBased):
    """Take θ_0 − θ_K as the gradient; the optimiser of the loop makes a step of it.

    Nichol et al. 2018, "On First-Order Meta-Learning Algorithms" (arXiv:1803.02999), algorithm 2. The inner loop
    learns from the support; the queries only say how well.
    """

    exact: ClassVar[bool] = False

    def prepare(self, model: MultiTaskModel) -> None:
        super().prepare(model)
        refuse_the_way(self, "reptile")
        if not self.adapted and self.head == "zeros":
            raise ConfigError(
                "strategy 'reptile' learns where the inner loop starts, and with adapt: head that is a head of zeros in every "
                "episode: nothing is left to learn. Set adapt to what is to be learned, such as all, or head to learned."
            )

    def episode_loss(self, reader: Reader, episode: Episode) -> Tensor:
        trace = Trace()
        *_, end = self.unroll(reader, episode, "first", trace=trace)
        with torch.no_grad():
            value = self.query_loss(reader, episode, end, trace)
        head = self.start(reader, episode)
        start = {**self.adapted, WEIGHT: head.weight, BIAS: head.bias}
        return value + with_gradient({name: (start[name], (start[name] - end[name]).detach()) for name in start})
