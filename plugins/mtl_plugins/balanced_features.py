"""Balanced training by the gradients on the shared features: the cheap approximation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mtl.errors import ConfigError
from mtl.model.encoded import Encoded
from mtl.model.multitask import MultiTaskModel
from mtl.training.strategy import Draw, StepReport
from mtl_plugins.balanced import Balancing, add_gradient

if TYPE_CHECKING:
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
        sent, rows, losses = [], [], []
        for batch in draw:
            (name, part) = next(iter(batch.parts.items()))
            encoded = model.encode(batch)[name]
            given = [encoded.states, encoded.pooled, embeddings]
            seen = [tensor.detach().requires_grad_() for tensor in given]
            states, pooled, tied = (leaf.view_as(leaf) for leaf in seen)  # hooks on a head's inputs may not be on leaves
            view = Encoded(states, encoded.mask, pooled, counts=part.counts, embeddings=tied)
            outputs = model.head(name)(view, part.columns)
            loss = self._weights[name] * model.loss(name, outputs, batch)
            head = [parameter for parameter in model.head(name).parameters() if parameter.requires_grad]
            found = torch.autograd.grad(loss, [*seen, *head], allow_unused=True)
            for parameter, gradient in zip(head, found[len(seen) :], strict=True):
                add_gradient(parameter, gradient, 1.0)
            # A vector added to all token states is added to their pooled vector, whichever way they are pooled.
            by_states, by_pooled = found[:2]
            row = states.new_zeros(states.shape[-1])
            row = row if by_states is None else row + (by_states * encoded.mask.unsqueeze(-1)).sum((0, 1))
            rows.append(row if by_pooled is None else row + by_pooled.sum(0))
            pairs = zip(given, found[: len(given)], strict=True)
            sent.append([(tensor, own) for tensor, own in pairs if own is not None and tensor.requires_grad])
            losses.append(loss.detach())
            report.losses[name] = loss.detach() / self._weights[name]
        combined = self.balance(draw, torch.stack(rows), torch.stack(losses), report)
        assert combined.weights is not None
        tensors = [tensor for own in sent for tensor, _ in own]
        gradients = [weight * gradient for weight, own in zip(combined.weights, sent, strict=True) for _, gradient in own]
        torch.autograd.backward(tensors, gradients)
        return report
