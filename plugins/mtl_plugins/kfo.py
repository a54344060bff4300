"""KFO: the gradients of the inner loop are transformed by learned Kronecker products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mtl.data.episodes import Episode
from mtl.episodic.gradient_based import GradientBased, module_key
from mtl.episodic.reference import by_gbml, check_reference, reference_loss
from mtl.meta.inner import LEFT, RIGHT, Parameters
from mtl.meta.reader import Reader
from mtl.meta.scope import Adapted
from mtl.model.multitask import MultiTaskModel


@dataclass
class KFO(GradientBased):
    """MAML with a learned transform of each matrix's gradient, G → LᵀL G RᵀR; L and R start as the identity.

    Arnold et al. 2021, "When MAML Can Adapt Fast and How to Assist When It Cannot" (arXiv:1910.13603), section 4;
    learn2learn's GBML with Kronecker transforms. Vectors, and the head, whose number of classes may change, are moved by
    their plain gradient. L and R of an ``[n, m]`` matrix hold n² + m² numbers, so that by default the last two layers are
    adapted.

    Args:
        backend: ``mtl``, or ``learn2learn`` for the same by learn2learn's GBML; slower, with the same result.
    """

    adapt: Adapted = 2
    backend: Literal["mtl", "learn2learn"] = "mtl"

    def prepare(self, model: MultiTaskModel) -> None:
        super().prepare(model)
        if self.backend == "learn2learn":
            check_reference(self, clip=None)
        for name, parameter in self.adapted.items():
            if parameter.ndim == 2:
                for prefix, size in zip((LEFT, RIGHT), parameter.shape, strict=True):
                    self._learned[prefix + module_key(name)] = nn.Parameter(torch.eye(size, device=parameter.device))

    def factors(self, name: str) -> Parameters:
        """Return L and R of an adapted parameter; nothing if it is moved by its plain gradient."""
        keys = [prefix + module_key(name) for prefix in (LEFT, RIGHT)]
        return {key.partition(":")[0] + ":": self._learned[key] for key in keys if key in self._learned}

    def rule_at(self, step: int) -> Parameters:
        own = {prefix + name: factor for name in self.adapted for prefix, factor in self.factors(name).items()}
        return super().rule_at(step) | own

    def episode_loss(self, reader: Reader, episode: Episode) -> Tensor:
        if self.backend == "learn2learn":
            return reference_loss(self, reader, episode, by_gbml(self.factors))
        return super().episode_loss(reader, episode)
