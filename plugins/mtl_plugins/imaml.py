"""iMAML: the meta-gradient at the end of the inner loop, whatever way led there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mtl.data.episodes import Episode
from mtl.episodic.gradient_based import BIAS, STATES, WEIGHT, GradientBased, refuse_the_way, with_gradient
from mtl.meta.implicit import Vector, conjugate_gradient
from mtl.meta.inner import Loss, Parameters, Trace
from mtl.meta.reader import Reader
from mtl.model.multitask import MultiTaskModel
from mtl.model.precision import attention_by_products


@dataclass
class IMAML(GradientBased):
    """Pull the inner loop towards its start and differentiate implicitly: (I + H/λ)⁻¹ ∇L by conjugate gradients.

    Rajeswaran et al. 2019, "Meta-Learning with Implicit Gradients" (arXiv:1909.04630), equations 3 and 6. Memory does
    not grow with the steps.

    Args:
        pull: λ, how strongly the inner loop is held near its start.
        solver_steps: Products with the Hessian an episode.
    """

    pull: Annotated[float, Field(gt=0)] = 1.0
    solver_steps: Annotated[int, Field(ge=1)] = 5

    exact: ClassVar[bool] = False

    @property
    def second_order(self) -> bool:
        return self.adapt != "head"  # of products with the Hessian

    @property
    def derivatives(self) -> str:
        return "first derivatives, and products with the Hessian where it ends"

    def prepare(self, model: MultiTaskModel) -> None:
        super().prepare(model)
        refuse_the_way(self, "imaml")

    def support_loss(self, reader: Reader, episode: Episode) -> Loss:
        """Return the support loss with λ/2 ‖θ − θ_0‖² added."""
        plain = super().support_loss(reader, episode)
        start = {name: value.detach() for name, value in self._all_of_start(reader, episode).items()}

        def loss(adapted: Parameters, shared: Parameters) -> Tensor:
            distance = torch.stack([(adapted[name] - value).pow(2).sum() for name, value in start.items()])
            return plain(adapted, shared) + self.pull / 2 * distance.sum()

        return loss

    def _all_of_start(self, reader: Reader, episode: Episode) -> Parameters:
        head = self.start(reader, episode)
        return {**self.adapted, WEIGHT: head.weight, BIAS: head.bias}

    def episode_loss(self, reader: Reader, episode: Episode) -> Tensor:
        states = self.below(reader, episode, differentiable=False)
        trace = Trace()
        *_, theta = self.unroll(reader, episode, "first", states=states, trace=trace)
        shared = {name: p.detach() for name, p in self._beside.items()} | ({} if states is None else {STATES: states})
        plain = super().support_loss(reader, episode)
        ends = {name: value.detach().requires_grad_() for name, value in theta.items()}
        value = self.query_loss(reader, episode, ends, trace)
        return self._implicit(lambda adapted: plain(adapted, shared), value, self._all_of_start(reader, episode), ends)

    def _implicit(self, plain: Callable[[Parameters], Tensor], value: Tensor, start: Parameters, ends: Parameters) -> Tensor:
        """Return a loss of the right value whose gradient by θ_0 is the implicit one."""
        names = list(start)
        gradients = torch.autograd.grad(value, [ends[name] for name in names], retain_graph=True)
        with attention_by_products():
            slope = torch.autograd.grad(plain(ends), [ends[name] for name in names], create_graph=True)

        def product(vector: Vector) -> Vector:
            turned = torch.autograd.grad(slope, [ends[name] for name in names], vector, retain_graph=True)
            return [v + h / self.pull for v, h in zip(vector, turned, strict=True)]

        solution = conjugate_gradient(product, gradients, self.solver_steps)
        # What is trained beside θ_0 takes its gradient from the queries alone, as in first-order MAML.
        carried = {name: (start[name], part.detach()) for name, part in zip(names, solution, strict=True)}
        return value + with_gradient({name: pair for name, pair in carried.items() if pair[0].requires_grad})
