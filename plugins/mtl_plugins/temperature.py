"""Sampling with a temperature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

import mtl


@dataclass
class Temperature(mtl.Sampler):
    """Draw tasks in proportion to ``min(rows, cap) ** (1 / temperature)``.

    Temperature-scaled mixing (Arivazhagan et al. 2019, arXiv:1907.05019, section 4.2): 1 is proportional, a large
    value uniform.

    Args:
        temperature: T.
        cap: The most rows a task is counted with.
    """

    temperature: Annotated[float, Field(gt=0)] = 2.0
    cap: Annotated[int, Field(ge=1)] | None = None

    def shares(self, sizes: Mapping[str, int], progress: float) -> dict[str, float]:
        largest = max(sizes.values())
        return {task: (min(size, self.cap or size) / largest) ** (1 / self.temperature) for task, size in sizes.items()}
