"""Sampling in proportion to size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

import mtl


@dataclass
class Proportional(mtl.Sampler):
    """Draw tasks in proportion to their rows, each counted with at most ``cap``.

    "Examples-proportional mixing" with its limit K (Raffel et al. 2020, arXiv:1910.10683, section 3.5.2).

    Args:
        cap: The most rows a task is counted with.
    """

    cap: Annotated[int, Field(ge=1)] | None = None

    def shares(self, sizes: Mapping[str, int], progress: float) -> dict[str, float]:
        return {task: float(min(size, self.cap or size)) for task, size in sizes.items()}
