"""Prefix tuning: learned keys and values before those of the text."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mtl.errors import EncoderError
from mtl.model.adapters import Adapter, ends_with, exchange

_INITIAL_STD = 0.02
#: How attentions of transformers are given the keys and values of what came before; see :class:`_Before`.
_ROOM = "past_key_values"


class _Before:
    """Stands where an attention of transformers looks for the keys and values of earlier tokens."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def update(self, keys: Tensor, values: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        """Return keys and values, each ``[rows, heads, tokens, size]``, with the prefix's before them."""
        return _prepended(self.keys, keys), _prepended(self.values, values)


def _prepended(own: Tensor, states: Tensor) -> Tensor:
    rows, heads, _, size = states.shape
    first = own.to(states.dtype).view(-1, heads, size).transpose(0, 1).expand(rows, -1, -1, -1)
    return torch.cat([first, states], 2)


class Prefixed(nn.Module):
    """An attention, and keys and values that all tokens attend to beside one another.

    Args:
        base_layer: The attention.
        length: How many there are.
    """

    def __init__(self, base_layer: Any, length: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.keys = nn.Parameter(torch.empty(length, base_layer.all_head_size).normal_(std=_INITIAL_STD))
        self.values = nn.Parameter(torch.empty(length, base_layer.all_head_size).normal_(std=_INITIAL_STD))

    def forward(self, states: Tensor, *arguments: Any, attention_mask: Tensor | None = None, **options: Any) -> Any:
        """Return what the attention gives. The mask is ``[rows, 1, 1 or tokens, tokens]``, true or 0 for what is seen."""
        if attention_mask is not None:
            seen = 1 if attention_mask.dtype is torch.bool else 0
            attention_mask = nn.functional.pad(attention_mask, (len(self.keys), 0), value=seen)
        options[_ROOM] = _Before(self.keys, self.values)
        return self.base_layer(states, *arguments, attention_mask=attention_mask, **options)


@dataclass
class PrefixTuning(Adapter):
    """Put learned keys and values before those of the text, in the attention of every layer.

    Li & Liang 2021, "Prefix-Tuning" (arXiv:2101.00190, equation 3), but trained directly, without a network that makes the
    prefix, as Liu et al. 2022 do ("P-Tuning v2", arXiv:2110.07602). It changes what the encoder gives from the start, and
    cannot be merged.

    Args:
        length: How many of each a layer has.
    """

    length: Annotated[int, Field(ge=1, le=1024)] = 10

    def put(self, backbone: nn.Module) -> None:
        found = [name for name, module in backbone.named_modules() if _is_attention(module)]
        found = [name for name in found if not self.modules or ends_with(name, self.modules)]
        if not found:
            raise EncoderError(
                f"encoder.adapter: no attention of a {type(backbone).__name__} that takes a prefix is found. BERT, RoBERTa and "
                "ELECTRA have it at attention.self; name it so under encoder.adapter.modules, or use lora."
            )
        for name in found:
            exchange(backbone, name, lambda base: Prefixed(base, self.length).to(next(base.parameters())))


def _is_attention(module: nn.Module) -> bool:
    return hasattr(module, "all_head_size") and _ROOM in inspect.signature(module.forward).parameters
