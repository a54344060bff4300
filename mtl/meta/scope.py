"""Scope: which parameters of the encoder an inner loop or a fine-tuning adapts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from mtl.errors import ConfigError
from mtl.model.encoder import Encoder

#: ``head``: the encoder stays as it is; N: its last N layers; ``norms-and-biases``: LayerNorms and biases of all layers
#: (as Ben Zaken et al. 2022, BitFit, arXiv:2106.10199, with the norms); ``adapter``: those of ``encoder.adapter``;
#: ``all``: every layer.
Adapted = Literal["head", "norms-and-biases", "adapter", "all"] | Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Scope:
    """What of an encoder is adapted.

    Attributes:
        names: Names of the adapted parameters in the encoder.
        depth: The layer below which nothing is adapted: the trunk, which runs once an episode.
    """

    names: frozenset[str]
    depth: int


def scope_of(encoder: Encoder, adapted: Adapted, *, embeddings: bool = False, layer_norms: bool = False) -> Scope:
    """Find the parameters to adapt.

    Args:
        encoder: The encoder.
        adapted: What is adapted.
        embeddings: Whether embeddings are adapted along with all layers.
        layer_norms: Whether the LayerNorms of adapted layers are adapted; Antoniou et al. 2019 (MAML++,
            arXiv:1810.09502) have them trained by the outer loop alone.

    Raises:
        ConfigError: If the encoder has fewer layers, or no adapters.
    """
    layers = encoder.layers()
    count = len(layers)
    if adapted == "head":
        return Scope(frozenset(), count)
    if isinstance(adapted, int) and adapted > count:
        raise ConfigError(f"adapt: the last {adapted} layers are asked for, but the encoder has {count}.")
    depth = count - adapted if isinstance(adapted, int) else 0
    norms = {id(p) for module in encoder.modules() if _is_norm(module) for p in module.parameters(recurse=False)}
    inside = {id(parameter) for layer in layers[depth:] for parameter in layer.parameters()}
    below = {id(parameter) for layer in layers[:depth] for parameter in layer.parameters()}
    named = dict(encoder.named_parameters())
    if adapted == "adapter":
        if not (own := encoder.adapter_names()):
            raise ConfigError("adapt: adapter needs adapters in the encoder: set encoder.adapter to a method, for example lora.")
        return Scope(own, _lowest(layers, [named[name] for name in own]))
    if adapted == "norms-and-biases":
        names = {name for name, p in named.items() if id(p) in inside and (id(p) in norms or name.endswith("bias"))}
    else:
        names = {name for name, p in named.items() if id(p) in inside and (layer_norms or id(p) not in norms)}
    if adapted == "all" and embeddings:
        outside = {name for name, p in named.items() if id(p) not in inside and id(p) not in below}
        names |= {name for name in outside if layer_norms or id(named[name]) not in norms}
        return Scope(frozenset(names), -1)
    return Scope(frozenset(names), depth)


def _lowest(layers: Iterable[nn.Module], parameters: Iterable[nn.Parameter]) -> int:
    """Return the first layer that one of the parameters is of; −1 if one is of none, as in the embeddings."""
    layer_of = {id(parameter): number for number, layer in enumerate(layers) for parameter in layer.parameters()}
    return min(layer_of.get(id(parameter), -1) for parameter in parameters)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("Norm")
