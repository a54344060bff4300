"""Where the parts of a pretrained model are, whatever its architecture."""

from __future__ import annotations

from typing import Any

from torch import nn

from mtl.errors import EncoderError


def layers_of(backbone: Any) -> nn.ModuleList:
    """Return the Transformer layers, lowest first.

    Raises:
        EncoderError: If they are not found in this architecture.
    """
    count = getattr(getattr(backbone, "config", None), "num_hidden_layers", None)
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise EncoderError(f"The layers of a {type(backbone).__name__} are not found; use freeze: none, embeddings or all.")


def embeddings_of(backbone: Any) -> Any:
    """Return the module that makes states of tokens.

    Raises:
        EncoderError: If it is not found in this architecture.
    """
    found = getattr(backbone, "embeddings", None)
    if found is None:
        raise EncoderError(
            f"The embeddings of a {type(backbone).__name__} are not found, so that its trunk cannot be cut off; adapt all of it."
        )
    return found
