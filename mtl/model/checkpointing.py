"""Gradient checkpointing: a layer keeps its input only, and is computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtl.errors import EncoderError
from mtl.model.precision import Precision, computing


class Recompute:
    """Computes a layer and forgets what is inside; ``backward()`` computes it again.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv:1604.06174), a layer at a time. The second time
    has what the first had, although it comes when the pass is long over: random numbers, precision and kernels, and the
    parameters that a function had put in the place of the layer's own, as inner loops do.

    Args:
        layer: The layer.
        precision: Of the pass.

    Attributes:
        again: Whether the layer is being computed again now.
    """

    def __init__(self, layer: nn.Module, precision: Precision) -> None:
        self.layer, self.precision, self.again = layer, precision, False

    def __call__(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        """Compute the layer; called by transformers in training.

        Args:
            compute: The layer's forward pass.
            arguments: Its input.

        Raises:
            EncoderError: On the way back, if that is to be differentiated again: the second derivative would be wrong.
        """
        if not torch.is_grad_enabled():
            return compute(*arguments)
        used = [
            (module, name, parameter)
            for module in self.layer.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        first = True

        def run(*inputs: Any) -> Any:
            nonlocal first
            if first:
                first = False
                return compute(*inputs)
            with self._again(used), computing(self.precision, used[0][2].device):
                return compute(*inputs)

        found = checkpoint(run, *arguments, use_reentrant=False)
        for output in found if isinstance(found, tuple) else (found,):
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(_refuse_second_order)  # type: ignore[no-untyped-call]
        return found

    @contextmanager
    def _again(self, used: Sequence[tuple[nn.Module, str, Any]]) -> Iterator[None]:
        own = [module._parameters[name] for module, name, _ in used]
        _put(used)
        self.again = True
        try:
            yield
        finally:
            self.again = False
            _put([(module, name, parameter) for (module, name, _), parameter in zip(used, own, strict=True)])


def _put(parameters: Sequence[tuple[nn.Module, str, Any]]) -> None:
    for module, name, parameter in parameters:
        module._parameters[name] = parameter


def _refuse_second_order(gradient: Tensor) -> None:
    if torch.is_grad_enabled():  # what backward() does is to be differentiated again
        raise EncoderError(
            "encoder.checkpointing: a strategy takes second derivatives through the encoder, which would be wrong, as layers "
            "that are computed again cannot be differentiated a second time. Set encoder.checkpointing to false."
        )


def recompute_layers(layers: Sequence[nn.Module], precision: Precision) -> list[Recompute]:
    """Let every layer be computed again on the way back in training.

    Raises:
        EncoderError: If the architecture's layers cannot.
    """
    found = []
    for layer in layers:
        if not hasattr(layer, "gradient_checkpointing"):
            raise EncoderError(
                f"encoder.checkpointing: transformers cannot compute a {type(layer).__name__} again on the way back. Set it to "
                "false, or use another encoder."
            )
        recompute: Any = Recompute(layer, precision)
        setattr(layer, "gradient_checkpointing", True)  # noqa: B010  # no attribute of every module
        setattr(layer, "_gradient_checkpointing_func", recompute)  # noqa: B010
        found.append(recompute)
    return found
