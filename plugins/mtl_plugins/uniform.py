"""Sampling all tasks alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mtl


@dataclass
class Uniform(mtl.Sampler):
    """Draw every task equally often, whatever its size."""

    def shares(self, sizes: Mapping[str, int], progress: float) -> dict[str, float]:
        return dict.fromkeys(sizes, 1.0)
