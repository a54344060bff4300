"""A gradient for each task: layers write what their parameters get of each task's sequences into its row of the Jacobian."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mtl.errors import EncoderError

#: The tasks of a pass: the row of each, and where its sequences are.
Runs = list[tuple[int, slice]]


class GradientRows:
    """The Jacobian of several tasks' losses from passes that they are in together, filled by the encoder's layers.

    Autograd makes one gradient of all sequences of a pass. No sequence meets another inside an encoder, so a task's gradient on
    a layer's weight is the product of its own part of what enters the layer and of what comes back to it (of single examples:
    Goodfellow 2015, arXiv:1510.01799). Linear layers and layer normalisations write it where it is wanted: with the operations
    that one gradient of all takes, and without a copy.

    Args:
        encoder: The :class:`mtl.model.encoder.Encoder`.
        parameters: Those of a row, in order.

    Attributes:
        alone: The names of parameters whose layers cannot write their gradients.
    """

    def __init__(self, encoder: Any, parameters: Sequence[nn.Parameter]) -> None:
        self._encoder, self._parameters = encoder, list(parameters)
        self._ids = {id(parameter): None for parameter in parameters}  # in order
        self._layers = [layer for layer in encoder.modules() if self._can(layer)]
        theirs = {id(parameter) for layer in self._layers for parameter in layer.parameters(recurse=False)}
        self.alone = [name for name, own in encoder.named_parameters() if id(own) in self._ids.keys() - theirs]

    def _can(self, layer: nn.Module) -> bool:
        """Say whether a layer knows how to write the gradients of all in it that is trained."""
        trained = [id(parameter) for parameter in layer.parameters(recurse=False) if parameter.requires_grad]
        own = type(layer) in _COMPUTED and "forward" not in vars(layer)
        return own and bool(trained) and all(key in self._ids for key in trained)

    @contextmanager
    def filling(self, tasks: Sequence[str], scales: Sequence[float]) -> Iterator[Tensor]:
        """Give a Jacobian ``[tasks, parameters]``, and let layers write into it what comes back in this while.

        Args:
            tasks: A row for each, by the names that :meth:`route` is given.
            scales: What each row is multiplied by as it is written.
        """
        sizes = [parameter.numel() for parameter in self._parameters]
        jacobian = self._parameters[0].new_empty(len(tasks), sum(sizes))
        #: Row → parameter → where its gradient is to be; and those that have been written to.
        self._places = [
            {key: part.view_as(own) for key, own, part in zip(self._ids, self._parameters, row.split(sizes), strict=True)}
            for row in jacobian
        ]
        self._written: list[set[int]] = [set() for _ in tasks]
        self._rows, self._scales = {name: row for row, name in enumerate(tasks)}, scales
        self._encoder.parted = self
        for layer in self._layers:
            layer.forward = partial(self._compute, layer)
        try:
            yield jacobian
            for places, written in zip(self._places, self._written, strict=True):
                for key in places.keys() - written:
                    places[key].zero_()
        finally:
            self._encoder.parted, self._places = None, []  # the Jacobian is not kept here
            for layer in self._layers:
                del layer.forward

    def route(self, owners: Sequence[str], sequences: int) -> None:
        """Be told whose the sequences of the next pass are.

        Args:
            owners: The task of each, those of a task side by side.
            sequences: How many there are; nothing comes back to those without an owner.
        """
        self._runs: Runs = []
        self._sequences, start = sequences, 0
        for task, group in groupby(owners):
            end = start + len(list(group))
            self._runs.append((self._rows[task], slice(start, end)))
            start = end

    def put(self, row: int, parameter: Tensor | None, gradient: Tensor) -> None:
        """Add to a parameter's gradient in a row, where the row has one."""
        if (place := self._places[row].get(id(parameter))) is None:
            return
        if self._again(row, parameter):
            place.add_(gradient, alpha=self._scales[row])
        else:
            place.copy_(gradient).mul_(self._scales[row])  # in this order: gradients may be in bfloat16

    def put_product(self, row: int, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Add ``left @ right`` to a parameter's gradient in a row, where the row has one."""
        if (place := self._places[row].get(id(parameter))) is None:
            return
        if left.dtype is place.dtype:
            torch.addmm(place, left, right, beta=self._again(row, parameter), alpha=self._scales[row], out=place)
        else:
            self.put(row, parameter, left @ right)

    def _again(self, row: int, parameter: Tensor | None) -> bool:
        """Say whether a parameter's gradient in a row has been written to; from now on it has."""
        again = id(parameter) in self._written[row]
        self._written[row].add(id(parameter))
        return again

    def _compute(self, layer: nn.Module, inputs: Tensor) -> Tensor:
        parted = inputs.dim() == 3 and len(inputs) == self._sequences
        if not (parted or self._encoder.recomputing):  # on the way back whose sequences they are is known
            raise EncoderError(
                f"strategy balanced-at-once: a {type(layer).__name__} of this encoder takes {list(inputs.shape)} for "
                f"{self._sequences} sequences, so that its gradients cannot be parted by task. Use balanced."
            )
        compute: Any = _COMPUTED[type(layer)]
        found: Tensor = compute.apply(inputs, layer.weight, layer.bias, layer, self, self._runs)
        return found


class _Linear(torch.autograd.Function):
    """A linear layer whose parameters' gradients are made for each task."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Linear, rows: GradientRows, runs: Runs
    ) -> Tensor:
        if torch.is_autocast_enabled(inputs.device.type):
            dtype = torch.get_autocast_dtype(inputs.device.type)
            inputs, weight, bias = inputs.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        ctx.save_for_backward(inputs, weight if ctx.needs_input_grad[0] else None)
        ctx.of = layer, rows, runs
        return nn.functional.linear(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        layer, rows, runs = ctx.of
        for row, own in runs:
            back = gradient[own].flatten(0, -2)
            rows.put_product(row, layer.weight, back.T, inputs[own].flatten(0, -2))
            rows.put(row, layer.bias, back.sum(0))
        return None if weight is None else gradient @ weight, None, None, None, None, None


class _LayerNorm(torch.autograd.Function):
    """A layer normalisation (Ba et al. 2016, arXiv:1607.06450) whose parameters' gradients are made for each task."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.LayerNorm, rows: GradientRows, runs: Runs
    ) -> Tensor:
        if inputs.is_cuda and torch.is_autocast_enabled("cuda"):
            inputs = inputs.float()  # as autocast does there
        found, *moments = torch.native_layer_norm(inputs, layer.normalized_shape, weight, bias, layer.eps)
        ctx.save_for_backward(inputs, *moments)
        ctx.of = layer, rows, runs
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, *moments = ctx.saved_tensors
        layer, rows, runs = ctx.of
        found = torch.zeros_like(inputs)
        for row, own in runs:
            found[own], by_weight, by_bias = torch.ops.aten.native_layer_norm_backward(
                gradient[own],
                inputs[own],
                layer.normalized_shape,
                *(moment[own] for moment in moments),
                layer.weight,
                layer.bias,
                [True, True, layer.bias is not None],
            )
            rows.put(row, layer.weight, by_weight)
            rows.put(row, layer.bias, by_bias)
        return found, None, None, None, None, None


#: Kind of layer → how it is computed where it helps.
_COMPUTED: dict[type[nn.Module], type[torch.autograd.Function]] = {nn.Linear: _Linear, nn.LayerNorm: _LayerNorm}
