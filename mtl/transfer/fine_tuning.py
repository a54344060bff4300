"""Fine-tuning on a support: a head, and as much of the encoder as one likes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mtl.data.episodes import EpisodeRows, collate_rows
from mtl.errors import TrainingError
from mtl.meta.closed_form import Linear, nearest_by_cosine, prototypes
from mtl.meta.scope import Adapted, scope_of
from mtl.model.encoder import Encoder
from mtl.transfer.adaptation import Adaptation, LinearPredictor, Predictor, need_support
from mtl.transfer.space import Space, evaluating, units

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class MovedSupport:
    """An episode's support, read by an encoder of which some parameters are being moved. Dropout is off.

    Args:
        space: The target.
        episode: The episode.
        adapted: What of the encoder is moved.

    Attributes:
        parameters: Copies of what is moved, by name.
        start: What :meth:`read` gives before anything is moved.
        batch: The support's rows.
        reader: Reads them; layers below what is moved run once.
    """

    def __init__(self, space: Space, episode: EpisodeRows, adapted: Adapted) -> None:
        need_support(space, episode)
        scope = scope_of(space.encoder, adapted, layer_norms=True)
        self._space, self._episode, self._depth = space, episode, scope.depth
        self.parameters = {
            name: parameter.detach().clone().requires_grad_()
            for name, parameter in space.encoder.named_parameters()
            if name in scope.names
        }
        narrowed, _ = space.rows(episode.support, episode)
        self.batch = collate_rows(space.kind, narrowed).to(space.device)
        self.reader = space.reader_above(scope.depth)
        with evaluating(space.encoder), torch.enable_grad():
            self._states = self.reader.trunk(self.batch)
            with torch.no_grad():
                self.start = self.reader.features(self.batch, self._states)

    def read(self) -> Tensor:
        """Return the support's features, ``[rows, ..., features]``, of length 1."""
        if not self.parameters:
            return self.start
        with evaluating(self._space.encoder):
            return self.reader.features(self.batch, self._states, self.parameters)

    def predictor(self, head: Linear) -> LinearPredictor:
        """Return a layer on the features as they are now.

        Raises:
            TrainingError: If it does not answer the support with numbers; names the target and the episode.
        """
        with torch.no_grad():
            outputs = head(self.read())
        if not bool((outputs < math.inf).all()):  # −∞ is the answer for a class without a row
            raise self.diverged()
        found = {name: value.detach() for name, value in self.parameters.items()}
        return LinearPredictor(self._space, head, found, self._depth)

    def diverged(self) -> TrainingError:
        """Return the error that says that what was learned is no number."""
        support = self._episode.support
        rows = ", ".join(map(str, support[:6])) + (", …" if len(support) > 6 else "")
        return TrainingError(
            f"The adaptation to target {self._space.kind.task.name!r} has diverged on an episode of {len(support)} support rows "
            f"(numbers {rows} of its pool): it answers with no numbers. Lower its rates."
        )


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

    def check_encoder(self, encoder: Encoder) -> None:
        scope_of(encoder, self._scope())

    def adapt(self, space: Space, episode: EpisodeRows) -> Predictor:
        support = MovedSupport(space, episode, self._scope())
        outputs = space.outputs(episode)
        head = self._start(*units(support.start, space.answers(episode)), len(outputs))
        groups = [{"params": [head.weight, head.bias], "lr": self.head_rate}]
        if support.parameters:
            groups.append({"params": list(support.parameters.values()), "lr": self.rate})
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        with torch.enable_grad():
            for _ in range(self.steps):
                loss = support.reader.loss(head(self.scale * support.read()), support.batch, outputs)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
        return support.predictor(Linear(self.scale * head.weight.detach(), head.bias.detach()))

    def _start(self, features: Tensor, answers: Tensor, outputs: int) -> Linear:
        if answers.is_floating_point():
            weight = features.new_zeros(outputs, features.shape[1])
        else:
            weight = nearest_by_cosine(prototypes(features, answers, outputs), 1.0).weight
        return Linear(weight.clone().requires_grad_(), weight.new_zeros(outputs).requires_grad_())
