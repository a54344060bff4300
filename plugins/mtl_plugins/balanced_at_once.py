"""Balanced training with all tasks in one pass, whose gradients the encoder's layers part by task."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch

from mtl.data.batches import Batch, join
from mtl.errors import ConfigError, EncoderError
from mtl.model.gradient_rows import GradientRows
from mtl.model.multitask import MultiTaskModel, head_key
from mtl.training.draws import Draws
from mtl.training.strategy import Draw, StepReport
from mtl_plugins.balanced import Balanced, add_gradient, by_task

if TYPE_CHECKING:
    from mtl.config import ExperimentConfig
    from mtl.model.encoder import Encoder
    from mtl.model.inference import TaskData
    from mtl.training.sampler import Sampler


@dataclass
class BalancedAtOnce(Balanced):
    """Do what ``balanced`` does in one pass of all tasks: sooner, with the activations of them all alive, as in joint training.

    The gradients are those of ``balanced``. A linear layer or a layer normalisation makes the gradient of each task by itself
    from its part of the pass (see :class:`mtl.model.gradient_rows.GradientRows`); other layers cannot, and an encoder that has
    some to be balanced is refused: embeddings have to be frozen, or not balanced.

    Args:
        aggregation: How the gradients become one.
        parameters_balanced: What is balanced: ``all`` that is shared, the last N layers, or the ``adapter``.
    """

    def check(self, config: ExperimentConfig, sampler: Sampler) -> None:
        super().check(config, sampler)
        if config.encoder.compile:
            raise ConfigError(
                "strategy balanced-at-once: a compiled encoder cannot part gradients by task. Set encoder.compile to false, or "
                "use balanced."
            )

    def check_encoder(self, encoder: Encoder) -> None:
        super().check_encoder(encoder)
        if encoder.per_task:
            raise ConfigError(
                "strategy balanced-at-once: it cannot train adapters of each task. Set per_task to false, or use balanced."
            )
        trained = encoder.shared()
        chosen = self._choose(encoder, trained)
        alone = GradientRows(encoder, [parameter for name, parameter in trained.items() if name in chosen]).alone
        if alone:
            raise ConfigError(
                f"strategy balanced-at-once: the gradients on {alone[0]} cannot be parted by task; those of linear layers and "
                "layer normalisations can. Set encoder.freeze to embeddings, balance the last layers only "
                "(parameters_balanced: 2), or use balanced."
            )

    def prepare(self, model: MultiTaskModel) -> None:
        super().prepare(model)
        self._gradients = GradientRows(model.encoder, self._balanced)
        self._most = sys.maxsize

    def draws(self, data: Mapping[str, TaskData], sampler: Sampler, config: ExperimentConfig, examples: int) -> Draws:
        self._most = config.batch.max_tokens
        return super().draws(data, sampler, config, examples)

    def fill_gradients(self, model: MultiTaskModel, draw: Draw) -> StepReport:
        rows, tasks = sum(batch.rows for batch in draw), by_task(draw)
        # What is not balanced has the mean of the gradients, so that each task's loss has its share; its own are without it.
        shares = {name: sum(batch.rows for batch, _ in own) / rows for name, own in tasks.items()}
        report = StepReport()
        with self._gradients.filling([head_key(name) for name in tasks], [1 / share for share in shares.values()]) as jacobian:
            for members in _passes(tasks, self._most):
                batch = join([batch for _, batch, _ in members])
                outputs = model(batch)
                losses = {name: part * model.loss(name, outputs[name], batch) for name, _, part in members}
                total = torch.stack([shares[name] * self._weights[name] * loss for name, loss in losses.items()]).sum()
                others = [(parameter, 1.0) for parameter in self._rest]
                others += [(parameter, 1 / shares[name]) for name in losses for parameter in model.own(name)]
                asked = [*self._balanced, *(parameter for parameter, _ in others)]
                found = torch.autograd.grad(total, asked, allow_unused=True)
                if any(gradient is not None for gradient in found[: len(self._balanced)]):
                    raise EncoderError(
                        "strategy balanced-at-once: weights of the encoder's layers are read by others too, such as a head, and "
                        "their gradients cannot be parted by task. Use balanced."
                    )
                for (parameter, scale), gradient in zip(others, found[len(self._balanced) :], strict=True):
                    add_gradient(parameter, gradient, scale)
                for name, loss in losses.items():
                    report.losses[name] = report.losses.get(name, 0) + loss.detach()
        self._follow(draw, jacobian, report)
        return report


def _passes(tasks: Mapping[str, Sequence[tuple[Batch, float]]], most: int) -> Iterator[list[tuple[str, Batch, float]]]:
    """Yield what goes through the encoder together: micro-batches of different tasks, as far as the tokens of a batch allow."""
    members: list[tuple[str, Batch, float]] = []
    for round_of_all in zip_longest(*([(name, *each) for each in own] for name, own in tasks.items())):
        for member in filter(None, round_of_all):
            if members and _tokens([*members, member]) > most:
                yield members
                members = []
            members.append(member)
        yield members
        members = []


def _tokens(members: Sequence[tuple[str, Batch, float]]) -> int:
    """Return how many tokens micro-batches have together, padded to the longest sequence."""
    shapes = [batch.inputs["attention_mask"].shape for _, batch, _ in members]
    return sum(rows for rows, _ in shapes) * max(tokens for _, tokens in shapes)
