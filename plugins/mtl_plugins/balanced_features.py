"""Balanced training by the gradients on the shared features: the cheap approximation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mtl.errors import ConfigError
from mtl.model.encoded import POOLING, Encoded
from mtl.model.multitask import MultiTaskModel
from mtl.training.strategy import Draw, StepReport
from mtl_plugins.balanced import Balanced, add_gradient


@dataclass
class BalancedFeatures(Balanced):
    """Weigh the tasks by their gradients on what the encoder gives, and go back through it once.

    An approximation: a task's row of the Jacobian, ``[hidden]``, is the gradient of its loss by a vector added to all its
    token states, which stands for the gradient on all shared parameters. Sener & Koltun 2018 (arXiv:1810.04650, section 3.3)
    take the gradient on common inputs' features and have an upper bound; tasks with different rows have none. A step costs a
    joint step, and no memory for a Jacobian; the tasks' graphs are alive together.
    """

    def prepare(self, model: MultiTaskModel) -> None:
        self._model, self._last = model, []
        if not self._aggregation.weighs:
            name = self.aggregation.name
            raise ConfigError(f"strategy.aggregation {name!r} gives no weights of tasks. Use the strategy balanced with it.")

    def fill_gradients(self, model: MultiTaskModel, draw: Draw) -> StepReport:
        encoder, report = model.encoder, StepReport()
        graphs, rows, losses = [], [], []
        for batch in draw:
            (name, part) = next(iter(batch.parts.items()))
            encoded = model.encode(batch)[name]
            states = encoded.states.detach().requires_grad_()
            mask = encoded.mask
            pooled = POOLING[encoder.pooling](states, mask)
            seen = Encoded(states, mask, pooled, embeddings=encoder.backbone.get_input_embeddings().weight)
            outputs = model.head(name)(seen.of(None, part.counts), part.columns)
            loss = self._weights[name] * model.loss(name, outputs, batch)
            head = [parameter for parameter in model.head(name).parameters() if parameter.requires_grad]
            gradient, *of_head = torch.autograd.grad(loss, [states, *head], allow_unused=True)
            for parameter, found in zip(head, of_head, strict=True):
                add_gradient(parameter, found, 1.0)
            graphs.append((encoded.states, gradient))
            rows.append((gradient * mask.unsqueeze(-1)).sum((0, 1)))
            losses.append(loss.detach())
            report.losses[name] = loss.detach() / self._weights[name]
        combined = self.balance(draw, torch.stack(rows), torch.stack(losses), report)
        assert combined.weights is not None
        torch.autograd.backward(
            [states for states, _ in graphs],
            [weight * gradient for weight, (_, gradient) in zip(combined.weights, graphs, strict=True)],
        )
        return report
