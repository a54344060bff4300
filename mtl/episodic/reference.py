"""An inner loop by learn2learn, for who wants to see the same result from another hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mtl.data.batches import Batch
from mtl.data.episodes import Episode
from mtl.episodic.gradient_based import BIAS, WEIGHT, GradientBased, check_descent, out_of_bounds
from mtl.errors import ConfigError
from mtl.meta.inner import LEFT, RIGHT, Trace, clipped
from mtl.meta.reader import Reader
from mtl.meta.reference import load_learn2learn
from mtl.model.precision import attention_by_products


class _Learner(nn.Module):
    """What is wrapped: the encoder and an episode's head."""

    def __init__(self, strategy: GradientBased, reader: Reader, outputs: int) -> None:
        super().__init__()
        self.encoder = reader.encoder
        self.head = nn.Linear(reader.size, outputs).to(next(reader.encoder.parameters()))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch, strategy: GradientBased, reader: Reader, states: Tensor | None) -> Tensor:
        """Return outputs, ``[rows, ..., outputs]``."""
        encoded = self.encoder(batch.inputs, states, max(reader.trunk.depth, 0))
        part = reader.part(batch)
        features = reader.head.features(encoded.of(part.index), part.columns, unit=True)
        return linear(strategy.scale * features, self.head.weight, self.head.bias)


def check_reference(strategy: GradientBased, **more: Any) -> None:
    """Refuse what learn2learn cannot do.

    Args:
        strategy: The strategy.
        more: Options that have one possible value, beside those that have it for all.

    Raises:
        ConfigError: Naming the option, or saying how to install learn2learn.
    """
    load_learn2learn()
    common = {"head": "zeros", "rates": "fixed", "head_rate": None, "multi_step": 0.0, "dropout": False}
    for option, only in (common | more).items():
        if getattr(strategy, option) != only:
            shown = "null" if only is None else only
            raise ConfigError(f"strategy: backend learn2learn has {option}: {shown} only. Set it so, or take backend mtl.")


#: Wraps a learner: returns a clone of it, and what moves the clone by one step on a support loss.
Wrap = Callable[[GradientBased, nn.Module], tuple[Any, Callable[[Tensor], None]]]


def by_maml(strategy: GradientBased, learner: nn.Module) -> tuple[Any, Callable[[Tensor], None]]:
    """Wrap by ``learn2learn.algorithms.MAML``.

    Its ``adapt`` moves every parameter of what it wraps; its ``maml_update`` is given the gradients of the adapted ones
    alone, so that the experiment is the same.
    """
    l2l = load_learn2learn()
    exact = strategy.order != "first"
    clone = l2l.algorithms.MAML(learner, lr=strategy.rate, allow_nograd=True).clone()
    adapted = _adapted(strategy)

    def move(loss: Tensor) -> None:
        named: Mapping[str, Tensor] = dict(clone.module.named_parameters())
        chosen = [name for name in named if name in adapted]
        found = torch.autograd.grad(loss, [named[name] for name in chosen], create_graph=exact, retain_graph=True)
        by_name: dict[str, Any] = dict(zip(chosen, clipped(found, strategy.clip), strict=True))
        l2l.algorithms.maml.maml_update(clone.module, strategy.rate, [by_name.get(name) for name in named])

    return clone, move


def by_gbml(factors_of: Callable[[str], Mapping[str, Tensor]]) -> Wrap:
    """Wrap by ``learn2learn.algorithms.GBML`` with its Kronecker transforms.

    Args:
        factors_of: Gives L and R of a parameter of the encoder, under ``left:`` and ``right:``; nothing for one that is
            moved by its plain gradient.
    """

    def wrap(strategy: GradientBased, learner: nn.Module) -> tuple[Any, Callable[[Tensor], None]]:
        l2l = load_learn2learn()
        adapted = _adapted(strategy)
        names = iter([name for name, _ in learner.named_parameters()])

        def transform(parameter: Tensor) -> nn.Module | None:
            name = next(names)
            if name not in adapted:
                return _Still()
            factors = factors_of(name.removeprefix("encoder."))
            if not factors:
                return None
            made = l2l.optim.transforms.KroneckerTransform(l2l.nn.KroneckerLinear)(parameter)
            made.transform.left, made.transform.right = factors[LEFT], factors[RIGHT]
            return made  # type: ignore[no-any-return]

        first_order = strategy.order == "first"
        options = {"first_order": first_order, "allow_nograd": True, "allow_unused": True}  # a trunk is run beside it
        gbml = l2l.algorithms.GBML(learner, transform, strategy.rate, **options)
        clone = gbml.clone()
        return clone, clone.adapt

    return wrap


class _Still(nn.Module):
    """The transform of a parameter that the inner loop does not adapt."""

    def forward(self, gradient: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(gradient)


def _adapted(strategy: GradientBased) -> set[str]:
    return {f"encoder.{name}" for name in strategy.adapted} | {WEIGHT, BIAS}


def reference_loss(strategy: GradientBased, reader: Reader, episode: Episode, wrap: Wrap = by_maml) -> Tensor:
    """Return the loss on an episode's queries, ``[]``, after an inner loop on a clone by learn2learn.

    Raises:
        TrainingError: If the support loss is not finite, or grows without bound; names the episode.
    """
    clone, move = wrap(strategy, _Learner(strategy, reader, len(episode.outputs)))
    training = reader.encoder.training
    states = reader.trunk(episode.support, differentiable=strategy.order != "first")
    trace = Trace()

    def support_loss() -> Tensor:
        clone.module.encoder.train(False)
        outputs = clone(episode.support, strategy, reader, states)
        trace.losses.append((loss := reader.loss(outputs, episode.support, episode.outputs)).detach())
        return loss

    for _ in range(strategy.steps):
        with attention_by_products():
            move(support_loss())
    check_descent(trace, episode, reader, strategy)
    clone.module.encoder.train(training)
    outputs = clone(episode.query, strategy, reader, reader.trunk(episode.query))
    loss = reader.loss(outputs, episode.query, episode.outputs)
    if out_of_bounds(loss):  # the last step may have led astray
        support_loss()
        check_descent(trace, episode, reader, strategy)
    return loss
