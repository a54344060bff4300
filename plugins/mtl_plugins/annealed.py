"""Sampling that changes over the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

import mtl


@dataclass
class Annealed(mtl.Sampler):
    """Draw tasks in proportion to ``min(rows, cap) ** α``, α going from ``start`` to ``end`` over the budget.

    Stickland & Murray 2019, "BERT and PALs" (arXiv:1902.02671), section 3.4, with their α from 1 to 0.2:
    proportional first, nearly uniform at the end. It is one of the time-dependent samplers of jiant.

    Args:
        start: α at the beginning.
        end: α at the end.
        cap: The most rows a task is counted with.
    """

    start: Annotated[float, Field(ge=0)] = 1.0
    end: Annotated[float, Field(ge=0)] = 0.2
    cap: Annotated[int, Field(ge=1)] | None = None

    def shares(self, sizes: Mapping[str, int], progress: float) -> dict[str, float]:
        alpha = self.start + (self.end - self.start) * progress
        largest = max(sizes.values())
        return {task: (min(size, self.cap or size) / largest) ** alpha for task, size in sizes.items()}
