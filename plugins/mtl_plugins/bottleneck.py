"""Bottleneck adapters: a small network behind each half of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from mtl.errors import EncoderError
from mtl.model.adapters import Adapter, ends_with, exchange

#: The last projections of a layer's two halves in the common architectures, by the ends of their names.
_PROJECTIONS = (
    *("attention.output.dense", "output.dense"),  # BERT, RoBERTa, ELECTRA, DeBERTa
    *("attention.attn.o",),  # MPNet
    *("attention.out_lin", "ffn.lin2"),  # DistilBERT
    *("attention.dense", "ffn_output"),  # ALBERT
    *("attn.Wo", "mlp.Wo"),  # ModernBERT
)
_INITIAL_STD = 1e-2


class Bottleneck(nn.Module):
    """A projection, and a network with a narrow middle whose output is added to what the projection gives.

    Args:
        base_layer: The projection.
        size: Of its output.
        rank: Of the middle.
    """

    def __init__(self, base_layer: nn.Module, size: int, rank: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.down, self.up = nn.Linear(size, rank), nn.Linear(rank, size)
        nn.init.trunc_normal_(self.down.weight, std=_INITIAL_STD, a=-2 * _INITIAL_STD, b=2 * _INITIAL_STD)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Return ``[rows, tokens, size]``."""
        found: Tensor = self.base_layer(states, *arguments, **options)
        adapted: Tensor = found + self.up(nn.functional.gelu(self.down(found)))
        return adapted


@dataclass
class BottleneckAdapter(Adapter):
    """Put a small network behind the attention and behind the feed-forward part of each layer, before the residual is added.

    Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP" (arXiv:1902.00751, section 2.1). It differs in two
    things: what leads back starts at zero, so that nothing is changed at first, and the layer's dropout comes after it. It cannot
    be merged.

    Args:
        rank: Size of the network's middle.
    """

    rank: Annotated[int, Field(ge=1, le=4096)] = 32

    def put(self, backbone: nn.Module) -> None:
        ends = self.modules or _PROJECTIONS
        found = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear) and ends_with(name, ends)]
        if not found:
            raise EncoderError(
                f"encoder.adapter: where a bottleneck goes in a {type(backbone).__name__} is not known. Name the last "
                f"projections of its layers under encoder.adapter.modules; {', '.join(ends[:2])} are those of BERT."
            )
        for name in found:
            exchange(backbone, name, lambda base: Bottleneck(base, base.out_features, self.rank).to(base.weight))
