"""Fine-tuning on a support: a head, and as much of the encoder as one likes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mtl.data.episodes import EpisodeRows, collate_rows
from mtl.meta.closed_form import Linear, nearest_by_cosine, prototypes
from mtl.meta.scope import Adapted, scope_of
from mtl.transfer.adaptation import Adaptation, LinearPredictor, Predictor, need_support
from mtl.transfer.space import Space, evaluating

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass
class FineTuning(Adaptation):
    """Train a linear head, and a part of the encoder, on the whole support by AdamW.

    The head starts from the support's prototypes (from zero for values); dropout is off.

    Args:
        steps: Steps, each on the whole support.
        rate: Learning rate of the encoder.
        head_rate: Learning rate of the head.
        weight_decay: Of what is trained, towards zero.
        scale: What features are multiplied by before the head.
    """

    steps: Count = 20
    rate: Positive = 5e-5
    head_rate: Positive = 1e-2
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    scale: Positive = 10.0

    adapted: ClassVar[Adapted] = "all"

    def _scope(self) -> Adapted:
        return self.adapted

    def adapt(self, space: Space, episode: EpisodeRows) -> Predictor:
        need_support(space, episode)
        scope = scope_of(space.encoder, self._scope(), layer_norms=True)
        outputs = space.outputs(episode)
        features, answers = space.support(episode)
        own = {
            name: parameter.detach().clone().requires_grad_()
            for name, parameter in space.encoder.named_parameters()
            if name in scope.names
        }
        head = self._start(features, answers, len(outputs))
        groups = [{"params": [head.weight, head.bias], "lr": self.head_rate}]
        if own:
            groups.append({"params": list(own.values()), "lr": self.rate})
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        narrowed, _ = space.rows(episode.support, episode)
        batch = collate_rows(space.kind, narrowed).to(space.device)
        reader = space.reader_above(scope.depth)
        with evaluating(space.encoder), torch.enable_grad():
            states = reader.trunk(batch)
            with torch.no_grad():
                fixed = reader.features(batch, states)
            for _ in range(self.steps):
                read = reader.features(batch, states, own) if own else fixed
                loss = reader.loss(head(self.scale * read), batch, outputs)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
        found = {name: value.detach() for name, value in own.items()}
        return LinearPredictor(space, Linear(self.scale * head.weight.detach(), head.bias.detach()), found, scope.depth)

    def _start(self, features: Tensor, answers: Tensor, outputs: int) -> Linear:
        if answers.is_floating_point():
            weight = features.new_zeros(outputs, features.shape[1])
        else:
            weight = nearest_by_cosine(prototypes(features, answers, outputs), 1.0).weight
        return Linear(weight.clone().requires_grad_(), weight.new_zeros(outputs).requires_grad_())
