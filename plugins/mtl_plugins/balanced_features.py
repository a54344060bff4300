"""Balanced training by the gradients on the shared features: the cheap approximation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mtl.errors import ConfigError, PluginError
from mtl.model.encoded import Encoded
from mtl.model.multitask import MultiTaskModel
from mtl.training.strategy import Draw, StepReport
from mtl_plugins.balanced import Balancing, add_gradient, by_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mtl.config import ExperimentConfig
    from mtl.model.encoder import Encoder
    from mtl.training.sampler import Sampler


@dataclass
class BalancedFeatures(Balancing):
    """Weigh the tasks by their gradients on what the encoder gives, and go back through it once.

    An approximation: a task's row of the Jacobian, ``[hidden]``, is the gradient of its loss by a vector added to all its
    token states, which stands for the gradient on all shared parameters. Sener & Koltun 2018 (arXiv:1810.04650, section 3.3)
    take the gradient on common inputs' features and have an upper bound; tasks with different rows have none. A step costs a
    joint step, and no memory for a Jacobian; the tasks' graphs are alive together.
    """

    def check(self, config: ExperimentConfig, sampler: Sampler) -> None:
        super().check(config, sampler)
        if not self._aggregation.weighs:
            name = self.aggregation.name
            raise ConfigError(f"strategy.aggregation {name!r} gives no weights of tasks. Use the strategy balanced with it.")

    def check_encoder(self, encoder: Encoder) -> None:
        if not encoder.shared():
            raise ConfigError("strategy: balancing is of gradients on shared parameters; none is trained. Freeze fewer layers.")

    def fill_gradients(self, model: MultiTaskModel, draw: Draw) -> StepReport:
        embeddings, report = model.encoder.backbone.get_input_embeddings().weight, StepReport()
        shared = list(model.encoder.shared().values())
        tasks = by_task(draw)
        rows = embeddings.new_zeros(len(tasks), model.encoder.hidden)
        sent: list[list[tuple[Tensor, Tensor]]] = [[] for _ in tasks]
        each = ((place, name, batch, share) for place, (name, own) in enumerate(tasks.items()) for batch, share in own)
        for place, name, batch, share in each:
            part = batch.parts[name]
            encoded = model.encode(batch)[name]
            given = [encoded.states, encoded.pooled, embeddings]
            seen = [tensor.detach().requires_grad_() for tensor in given]
            states, pooled, tied = (leaf.view_as(leaf) for leaf in seen)  # hooks on a head's inputs may not be on leaves
            view = Encoded(states, encoded.mask, pooled, counts=part.counts, embeddings=tied)
            outputs = model.head(name)(view, part.columns)
            loss = share * self._weights[name] * model.loss(name, outputs, batch)
            own = model.own(name)
            found = torch.autograd.grad(loss, [*seen, *own], allow_unused=True)
            pairs = zip(given, found[: len(given)], strict=True)
            here = [(tensor, gradient) for tensor, gradient in pairs if gradient is not None and tensor.requires_grad]
            sent[place] += here
            self._follow(own, found[len(given) :], here)
            # A vector added to all token states is added to their pooled vector, whichever way they are pooled.
            by_states, by_pooled = found[:2]
            if by_states is not None:
                rows[place] += (by_states * encoded.mask.unsqueeze(-1)).sum((0, 1))
            if by_pooled is not None:
                rows[place] += by_pooled.sum(0)
            report.losses[name] = report.losses.get(name, 0) + loss.detach() / self._weights[name]
        losses = torch.stack([self._weights[name] * loss for name, loss in report.losses.items()])
        combined = self.balance(draw, rows, losses, report)
        if combined.weights is None:
            raise PluginError(
                f"Aggregation {self.aggregation.name!r} gave no weights, which balanced-features needs. Let combine() give "
                "them to Combined, or set weighs = False."
            )
        tensors = [tensor for of_task in sent for tensor, _ in of_task]
        gradients = [weight * gradient for weight, of_task in zip(combined.weights, sent, strict=True) for _, gradient in of_task]
        torch.autograd.backward(tensors, gradients, inputs=shared)
        return report

    @staticmethod
    def _follow(own: Sequence[nn.Parameter], found: Sequence[Tensor | None], sent: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Let what is one task's alone follow its loss unweighed: the head, and adapters and mixes inside the encoder."""
        inside = [parameter for parameter, gradient in zip(own, found, strict=True) if gradient is None]
        by_encoder: Sequence[Tensor | None] = ()
        if inside and sent:
            tensors, gradients = zip(*sent, strict=True)
            by_encoder = torch.autograd.grad(tensors, inside, gradients, retain_graph=True, allow_unused=True)
        for parameter, gradient in (*zip(own, found, strict=True), *zip(inside, by_encoder, strict=False)):
            add_gradient(parameter, gradient, 1.0)
