"""Task embeddings: the encoder is told which task it reads for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtl.errors import ConfigError, EncoderError
from mtl.model.adapters import OwnAdapter, ends_with, exchange
from mtl.model.parts import embeddings_of


class Shifted(nn.Module):
    """A part of the encoder, and a vector that is added to what it gives.

    Args:
        base_layer: The part.
        size: Of its states.
    """

    def __init__(self, base_layer: nn.Module, size: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.shift = nn.Parameter(torch.zeros(size))

    def forward(self, states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Return ``[rows, tokens, size]``."""
        found: Tensor = self.base_layer(states, *arguments, **options) + self.shift
        return found


@dataclass
class TaskEmbedding(OwnAdapter):
    """Add a vector of the task to the embeddings of all tokens, so that one encoder knows which task it reads for.

    As languages are told apart in Conneau & Lample 2019, "Cross-lingual Language Model Pretraining" (arXiv:1901.07291,
    section 3.3). It is added behind the embeddings' last normalisation, and starts at zero.
    """

    decays = False

    def put(self, backbone: nn.Module) -> None:
        for name in self._places(backbone):
            exchange(backbone, name, _shifted)

    def merged(self, module: Any) -> nn.Module:
        base: Any = module.base_layer
        if getattr(base, "bias", None) is None:
            raise ConfigError("The embeddings end without a bias that a task's vector could be merged into. Export without.")
        with torch.no_grad():
            base.bias += module.shift
        return base  # type: ignore[no-any-return]

    def _places(self, backbone: nn.Module) -> list[str]:
        named = {name: module for name, module in backbone.named_modules() if module._parameters}
        if self.modules:
            found = [name for name in named if ends_with(name, self.modules)]
        else:
            try:
                within = {id(module) for module in embeddings_of(backbone).modules()}
            except EncoderError:
                within = set()
            found = [name for name, module in named.items() if id(module) in within][-1:]
        if not found:
            raise EncoderError(
                f"encoder.adapter: where the embeddings of a {type(backbone).__name__} end is not known. Name the part under "
                "encoder.adapter.modules; embeddings.LayerNorm is that of BERT."
            )
        return found


def _shifted(base: Any) -> nn.Module:
    size = base.weight.shape[-1 if isinstance(base, nn.Embedding) else 0]
    return Shifted(base, size).to(base.weight)
