"""Branching: the upper layers are each task's own."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from mtl.errors import EncoderError
from mtl.model.adapters import OwnAdapter, ends_with, exchange
from mtl.model.parts import layers_of


class Branch(nn.Module):
    """A part of a layer, and another that starts as a copy of it and runs in its place.

    Args:
        base_layer: The part that all would share; it stays as it is.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.own = copy.deepcopy(base_layer).requires_grad_(True)

    def forward(self, states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Return what the copy gives."""
        found: Tensor = self.own(states, *arguments, **options)
        return found


@dataclass
class Branching(OwnAdapter):
    """Give each task upper layers of its own on the lower ones that all share: a tree with one fork.

    The "shared-bottom" of Caruana 1997, "Multitask Learning", cut inside the encoder. Each task's layers start as those of the
    pretrained encoder and are trained whole; ``encoder.freeze`` says what becomes of the shared ones.

    Args:
        layers: How many of the upper layers are a task's own.
    """

    layers: Annotated[int, Field(ge=1)] = 2

    replaces = True

    def put(self, backbone: nn.Module) -> None:
        for name in self._named(backbone) if self.modules else self._upper(backbone):
            exchange(backbone, name, Branch)

    def merged(self, module: Any) -> nn.Module:
        base: nn.Module = module.base_layer
        base.load_state_dict(module.own.state_dict())
        return base

    def _named(self, backbone: nn.Module) -> list[str]:
        found = [name for name, module in backbone.named_modules() if module._parameters and ends_with(name, self.modules)]
        if not found:
            raise EncoderError(
                f"encoder.adapter: a {type(backbone).__name__} has no parts that end with {', '.join(self.modules)}. Name others "
                "under encoder.adapter.modules, or leave it out for the upper layers."
            )
        return found

    def _upper(self, backbone: nn.Module) -> list[str]:
        try:
            layers = layers_of(backbone)
        except EncoderError:
            raise EncoderError(
                f"encoder.adapter: the layers of a {type(backbone).__name__} are not found. Name the parts of the branches under "
                "encoder.adapter.modules."
            ) from None
        if self.layers > len(layers):
            raise EncoderError(f"encoder.adapter.layers is {self.layers}, but the encoder has {len(layers)} layers.")
        upper = {id(module) for layer in layers[len(layers) - self.layers :] for module in layer.modules()}
        return [name for name, module in backbone.named_modules() if id(module) in upper and module._parameters]
