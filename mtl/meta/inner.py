"""The inner loop: gradient descent on a support as a differentiable function of where it starts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states

from mtl.model.precision import attention_by_products

#: Named tensors; a name says what it is for.
Parameters = dict[str, Tensor]
#: The loss on a support, ``[]``, as a pure function of the adapted parameters and of all else it depends on.
Loss = Callable[[Parameters, Parameters], Tensor]
#: How the gradient of a step is taken: see :func:`unroll`.
Order = Literal["first", "store", "recompute"]

#: Prefixes of what an update rule has learned for an adapted parameter: its rate, and factors of its gradient.
RATE, LEFT, RIGHT = "rate:", "left:", "right:"


@dataclass
class Trace:
    """What an inner loop went through.

    Attributes:
        losses: Support loss before every step, ``[]`` each, detached.
    """

    losses: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Descent:
    """How a step of the inner loop goes.

    Attributes:
        rate: The inner learning rate of parameters without a learned ``rate:``.
        clip: Largest norm of the inner gradient; ``None`` for no clipping.
        own: Fixed rates of parameters that do not have the common one.
    """

    rate: float
    clip: float | None = None
    own: Mapping[str, float] = field(default_factory=dict)

    def rate_of(self, name: str) -> float:
        """Return the fixed rate of a parameter."""
        return self.own.get(name, self.rate)

    def __call__(self, loss: Loss, adapted: Parameters, shared: Parameters, differentiable: bool) -> tuple[Parameters, Tensor]:
        """Make one step of gradient descent.

        Args:
            loss: The support loss.
            adapted: What is moved.
            shared: What the loss depends on beside that, and what the update rule has learned: ``rate:NAME`` is the rate
                of an adapted parameter, ``left:NAME`` and ``right:NAME`` are factors of its gradient.
            differentiable: Whether the step's gradient is to be differentiated again.

        Returns:
            The moved parameters, and the loss before the step, detached.
        """
        seen = shared if differentiable else {name: value.detach() for name, value in shared.items()}
        with attention_by_products() if differentiable else nullcontext():
            value = loss(adapted, seen)
            gradients = torch.autograd.grad(value, list(adapted.values()), create_graph=differentiable)
        gradients = clipped(gradients, self.clip)
        moved = {
            name: parameter - shared.get(RATE + name, self.rate_of(name)) * transformed(gradient, shared, name)
            for (name, parameter), gradient in zip(adapted.items(), gradients, strict=True)
        }
        return moved, value.detach()


def clipped(gradients: Sequence[Tensor], norm: float | None) -> tuple[Tensor, ...]:
    """Return gradients scaled down to a norm of at most ``norm`` all together, differentiably."""
    if norm is None:
        return tuple(gradients)
    found = torch.stack([gradient.pow(2).sum() for gradient in gradients]).sum().clamp(min=1e-24).sqrt()
    scale = (norm / found).clamp(max=1.0)
    return tuple(gradient * scale for gradient in gradients)


def transformed(gradient: Tensor, shared: Parameters, name: str) -> Tensor:
    """Return LᵀL G RᵀR for the gradient G of a parameter with learned factors L and R; G where it has none.

    Arnold et al. 2021, "When MAML Can Adapt Fast and How to Assist When It Cannot" (arXiv:1910.13603): a transform of
    the whole gradient whose matrix is a Kronecker product, and positive semi-definite.

    Args:
        gradient: G, ``[n, m]`` or ``[n]``.
        shared: May have ``left:NAME``, L, ``[n, n]``, and ``right:NAME``, R, ``[m, m]``.
        name: NAME.
    """
    left, right = shared.get(LEFT + name), shared.get(RIGHT + name)
    if left is not None:
        gradient = left.T @ (left @ gradient)
    return gradient if right is None else (gradient @ right.T) @ right


def unroll(
    loss: Loss,
    start: Parameters,
    shared_at: Callable[[int], Parameters],
    descent: Descent,
    steps: int,
    order: Order,
    trace: Trace | None = None,
    moved_first: Collection[str] | None = None,
) -> Iterator[Parameters]:
    """Yield the adapted parameters after each of ``steps`` steps, differentiable by plain ``backward()``.

    Args:
        loss: The support loss θ, shared → ``[]``.
        start: θ_0.
        shared_at: What step k depends on beside θ_k; see :class:`Descent`.
        descent: How a step goes.
        steps: K.
        order: ``first``: θ_k's derivative by θ_0 is taken as the identity (FOMAML; Finn et al. 2017,
            arXiv:1703.03400, section 5.2). ``store``: exact, the graph of all steps is kept. ``recompute``: exact,
            only every θ_k is kept, and ``backward()`` makes each step again to send λ = ∂L/∂θ_{k+1} back through it,
            λ ← λ − α·H(θ_k)λ, one step's graph alive at a time.
        trace: Is told the losses.
        moved_first: What the first step moves, where the gradient of all else is 0 whatever θ_0 is: it need not be computed
            then, nor differentiated. Default: everything.

    Raises:
        RuntimeError: If the loss does not depend on an adapted parameter.
    """
    trace = trace if trace is not None else Trace()
    adapted = start
    if order != "recompute":  # a start may be made of another, as a head of prototypes is: a step's gradient is by each alone
        adapted = {name: value.view_as(value) for name, value in start.items()}
    for step in range(steps):
        moving = adapted if step or moved_first is None else {name: adapted[name] for name in moved_first}
        held = {name: value for name, value in adapted.items() if name not in moving}
        shared = {**shared_at(step), **held}
        if order == "recompute":
            moved = _recomputed(_holding(loss, held), moving, shared, descent, trace)
        else:
            moved, value = descent(_holding(loss, held), moving, shared, differentiable=order == "store")
            trace.losses.append(value)
        # What was held has gone into what moved, and is a view of its own from here on.
        adapted = {name: moved[name] if name in moved else value.view_as(value) for name, value in adapted.items()}
        yield adapted


def _holding(loss: Loss, held: Collection[str]) -> Loss:
    """Return a loss as a function of fewer adapted parameters; those that are held are among the shared."""
    if not held:
        return loss
    return lambda moving, shared: loss({**{name: shared[name] for name in held}, **moving}, shared)


def _recomputed(loss: Loss, adapted: Parameters, shared: Parameters, descent: Descent, trace: Trace) -> Parameters:
    names = (tuple(adapted), tuple(shared))
    step = _Step(loss, descent, names, trace)
    moved = _Recompute.apply(  # type: ignore[no-untyped-call]
        step, *adapted.values(), *shared.values()
    )
    return dict(zip(adapted, moved, strict=True))


@dataclass
class _Step:
    """A step of the inner loop as a pure function of a flat list of tensors."""

    loss: Loss
    descent: Descent
    names: tuple[tuple[str, ...], tuple[str, ...]]
    trace: Trace

    def __call__(self, tensors: list[Tensor], differentiable: bool) -> tuple[list[Tensor], Tensor]:
        count = len(self.names[0])
        adapted = dict(zip(self.names[0], tensors[:count], strict=True))
        shared = dict(zip(self.names[1], tensors[count:], strict=True))
        moved, value = self.descent(self.loss, adapted, shared, differentiable)
        return list(moved.values()), value


class _Recompute(torch.autograd.Function):
    """One inner step that keeps its inputs only, and makes its graph again when it is differentiated."""

    @staticmethod
    def forward(ctx: Any, step: _Step, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.step = step
        ctx.random = torch.get_rng_state(), *get_device_states(tensors[0])
        ctx.save_for_backward(*tensors)
        count = len(step.names[0])
        inputs = [tensor.detach().requires_grad_(place < count) for place, tensor in enumerate(tensors)]
        with torch.enable_grad():
            moved, value = step(inputs, differentiable=False)
        step.trace.losses.append(value)
        return tuple(tensor.detach() for tensor in moved)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        inputs = [tensor.detach() for tensor in ctx.saved_tensors]
        count = len(ctx.step.names[0])
        for place, tensor in enumerate(inputs):
            tensor.requires_grad_(needed[place] or place < count)
        state, devices, states = ctx.random
        with torch.random.fork_rng(devices), torch.enable_grad():
            torch.set_rng_state(state)  # the dropout of the first time, if there was any
            set_device_states(devices, states)
            moved, _ = ctx.step(inputs, differentiable=True)
            wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
            found = iter(torch.autograd.grad(moved, wanted, gradients, allow_unused=True))
        return (None, *(next(found) if need else None for need in needed))


def split(parameters: Mapping[str, Tensor], names: set[str]) -> tuple[Parameters, Parameters]:
    """Part the parameters that are adapted from those that are not but are trained by the outer loop."""
    adapted = {name: value for name, value in parameters.items() if name in names}
    shared = {name: value for name, value in parameters.items() if name not in names and value.requires_grad}
    return adapted, shared
