"""An inner loop by learn2learn, for who wants to see the same result from another hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mtl.data.batches import Batch
from mtl.data.episodes import Episode
from mtl.episodic.gradient_based import BIAS, WEIGHT, GradientBased
from mtl.errors import ConfigError
from mtl.meta.inner import clipped, double_backward
from mtl.meta.reader import Reader
from mtl.meta.reference import load_learn2learn


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


def check_reference(strategy: GradientBased) -> None:
    """Refuse what learn2learn's MAML cannot do.

    Raises:
        ConfigError: Naming the option, or saying how to install learn2learn.
    """
    load_learn2learn()
    for option, only in (("head", "zeros"), ("rates", "fixed"), ("multi_step", 0.0), ("dropout", False)):
        if getattr(strategy, option) != only:
            raise ConfigError(f"strategy: backend learn2learn has {option}: {only} only. Set it so, or take backend mtl.")


def reference_loss(strategy: GradientBased, reader: Reader, episode: Episode) -> Tensor:
    """Return the loss on an episode's queries, ``[]``, after an inner loop on a clone by ``learn2learn.algorithms.MAML``.

    learn2learn's ``adapt`` moves every parameter of what it wraps; its ``maml_update`` is given the gradients of the
    adapted ones alone, so that the experiment is the same.
    """
    l2l = load_learn2learn()
    exact = strategy.order != "first"
    clone = l2l.algorithms.MAML(_Learner(strategy, reader, len(episode.outputs)), lr=strategy.rate, allow_nograd=True).clone()
    adapted = {f"encoder.{name}" for name in strategy.adapted} | {WEIGHT, BIAS}
    training = reader.encoder.training
    states = reader.trunk(episode.support, differentiable=exact)
    for _ in range(strategy.steps):
        clone.module.encoder.train(False)
        with double_backward():
            loss = reader.loss(clone(episode.support, strategy, reader, states), episode.support, episode.outputs)
        named: Mapping[str, Tensor] = dict(clone.module.named_parameters())
        chosen = [name for name in named if name in adapted]
        found = torch.autograd.grad(loss, [named[name] for name in chosen], create_graph=exact, retain_graph=True)
        by_name: dict[str, Any] = dict(zip(chosen, clipped(found, strategy.clip), strict=True))
        l2l.algorithms.maml.maml_update(clone.module, strategy.rate, [by_name.get(name) for name in named])
    clone.module.encoder.train(training)
    outputs = clone(episode.query, strategy, reader, reader.trunk(episode.query))
    return reader.loss(outputs, episode.query, episode.outputs)
