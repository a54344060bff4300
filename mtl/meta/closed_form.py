"""Heads in closed form: what a support says, without a step of training.

Features are of length 1. All but matching give a linear layer ``x → weight · x + bias``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot


@dataclass(frozen=True)
class Linear:
    """A linear layer on features.

    Attributes:
        weight: ``[outputs, features]``.
        bias: ``[outputs]``.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return ``[..., outputs]``."""
        return torch.nn.functional.linear(features, self.weight, self.bias)


@dataclass(frozen=True)
class Names:
    """The classes' written names, read as support rows of a certain weight.

    Attributes:
        vectors: ``[ways, features]``, of length 1.
        weight: How many support rows a name counts for.
    """

    vectors: Tensor
    weight: float


def known(features: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Return features ``[units, features]`` and answers ``[units]`` of what has an answer."""
    if answers.is_floating_point():
        return features, answers
    return features[answers >= 0], answers[answers >= 0]


def prototypes(features: Tensor, answers: Tensor, ways: int, names: Names | None = None) -> Tensor:
    """Return each class's mean vector, ``[ways, features]``; a class without any row or name has zeros.

    Snell et al. 2017, "Prototypical Networks" (arXiv:1703.05175), equation 1.

    Args:
        features: ``[units, features]``.
        answers: Classes from 0, ``[units]``.
        ways: How many classes.
        names: Added as support rows.
    """
    return class_means(features, one_hot(answers, ways).to(features.dtype), names)


def class_means(features: Tensor, shares: Tensor, names: Names | None = None) -> Tensor:
    """Return each class's mean vector, a unit counting for a class by its share, ``[ways, features]``.

    Args:
        features: ``[units, features]``.
        shares: How much each unit is of each class, ``[units, ways]``.
        names: Added as support rows.
    """
    sums, counts = shares.T @ features, shares.sum(0)
    if names is not None:
        sums, counts = sums + names.weight * names.vectors, counts + names.weight
    return sums / counts.clamp(min=1e-12).unsqueeze(-1)


def unknown(means: Tensor) -> Tensor:
    """Return which classes had no row or name to make a mean of, ``[ways]``; as the type of an entity that no support row has."""
    return ~means.detach().any(-1)


def nearest_by_cosine(means: Tensor, scale: Tensor | float) -> Linear:
    """Return the layer ``scale · cos(x, mean)``; from a class that is :func:`unknown` all is as far as can be, a cosine of −1."""
    return Linear(scale * normalize(means, dim=-1), -scale * unknown(means).to(means.dtype))


def nearest_by_distance(means: Tensor, scale: Tensor | float) -> Linear:
    """Return the layer ``−scale · ‖x − mean‖²``, without the term that all classes share (Snell et al. 2017, equation 8).

    From a class that is :func:`unknown` all is as far as can be: for x of length 1 and a mean of at most that a distance of 2.
    """
    return Linear(2 * scale * means, -scale * (means.pow(2).sum(-1) + 3 * unknown(means).to(means.dtype)))


def ridge(features: Tensor, targets: Tensor, penalty: Tensor | float) -> Linear:
    """Return the layer that solves min ‖Xw + b − Y‖² + penalty · (‖w‖² + b²) in closed form.

    Bertinetto et al. 2019, "Meta-learning with differentiable closed-form solvers" (R2D2, arXiv:1805.08136), equation
    7: W = Xᵀ(XXᵀ + λI)⁻¹Y, with I of the size of the support or of the features, whichever is smaller.

    Args:
        features: X, ``[units, features]``.
        targets: Y, ``[units, outputs]``.
        penalty: λ.
    """
    x = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    if len(x) <= x.shape[1]:
        gram = x @ x.T
        solution = x.T @ torch.linalg.solve(gram + penalty * torch.eye(len(x), dtype=x.dtype, device=x.device), targets)
    else:
        gram = x.T @ x
        solution = torch.linalg.solve(gram + penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device), x.T @ targets)
    return Linear(solution[:-1].T, solution[-1])


def as_targets(answers: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
    """Return what a regression fits, ``[units, outputs]``: values, or ±1 for classes."""
    if answers.is_floating_point():
        return answers.to(dtype).unsqueeze(-1)
    return 2 * one_hot(answers, outputs).to(dtype) - 1


def matching(features: Tensor, answers: Tensor, outputs: int, queries: Tensor, scale: Tensor | float) -> Tensor:
    """Return log probabilities (or values) of queries by attention over the support, ``[..., outputs]``.

    Vinyals et al. 2016, "Matching Networks" (arXiv:1606.04080), equation 1, with the softmax of ``scale`` times the
    cosine as the kernel.
    """
    attention = torch.softmax(scale * queries @ features.T, dim=-1)
    if answers.is_floating_point():
        return attention @ answers.to(features.dtype).unsqueeze(-1)
    return torch.log((attention @ one_hot(answers, outputs).to(features.dtype)).clamp(min=1e-12))
