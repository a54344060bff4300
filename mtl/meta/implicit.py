"""Solving for an implicit gradient: conjugate gradients on products with the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Vector = list[Tensor]


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two lists of tensors, ``[]``."""
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum()


def conjugate_gradient(
    product: Callable[[Vector], Vector], target: Sequence[Tensor], steps: int, tolerance: float = 1e-10
) -> Vector:
    """Return x with A x = target for a symmetric positive definite A (Hestenes & Stiefel 1952).

    Args:
        product: x → A x.
        target: The right side, a list of tensors.
        steps: Products at most.
        tolerance: Of the squared residual beside that of the start.
    """
    x = [torch.zeros_like(part) for part in target]
    residual = [part.clone() for part in target]
    direction = residual
    squared = start = dot(residual, residual)
    for step in range(steps):
        if float(squared) <= tolerance * float(start):
            break
        along = product(direction)
        curvature = dot(direction, along)
        if float(curvature) <= 0:
            # Not positive definite in this direction: what has been found so far is the answer; at first, the target.
            return x if step else [part.clone() for part in target]
        length = squared / curvature
        x = [a + length * d for a, d in zip(x, direction, strict=True)]
        residual = [r - length * p for r, p in zip(residual, along, strict=True)]
        before, squared = squared, dot(residual, residual)
        direction = [r + squared / before * d for r, d in zip(residual, direction, strict=True)]
    return x
