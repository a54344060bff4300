"""Where the parts of a pretrained model are, whatever its architecture, and passes through some of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mtl.errors import EncoderError


class _Reached(Exception):  # noqa: N818  # not an error
    """Ends a pass at the layer where the trunk ends."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


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


def states_entering(backbone: Any, depth: int, run: Callable[[], Any]) -> Tensor:
    """Return the states that enter layer ``depth`` during a pass, which ends there.

    Args:
        backbone: The model.
        depth: Number of the layer.
        run: Makes the pass.

    Raises:
        EncoderError: If the pass does not come to that layer.
    """
    layer = layers_of(backbone)[depth]

    def stop(states: Tensor, *arguments: Any, **options: Any) -> None:
        raise _Reached(states)

    layer.forward = stop
    try:
        run()
    except _Reached as reached:
        return reached.states
    finally:
        del layer.forward
    raise EncoderError(f"Layer {depth} of a {type(backbone).__name__} was not reached; its trunk cannot be cut off.")


@contextmanager
def starting_from(backbone: Any, depth: int, states: Tensor) -> Iterator[None]:
    """Let layer ``depth`` start from ``states`` in every pass, and nothing below it be computed."""
    layers = layers_of(backbone)
    first, run = layers[depth], layers[depth].forward
    embeddings = embeddings_of(backbone)
    projection = getattr(backbone, "embeddings_project", None)  # ELECTRA's, where embeddings are smaller than states
    before = [embeddings] if projection is None else [embeddings, projection]
    try:
        for module in before:
            module.forward = lambda *arguments, **options: states
        for layer in layers[:depth]:
            layer.forward = lambda *arguments, **options: (states,)  # some take a layer's output, some the first of it
        first.forward = lambda hidden, *arguments, **options: run(states, *arguments, **options)
        yield
    finally:
        for module in (*before, *layers[:depth], first):
            module.__dict__.pop("forward", None)
