"""Sampler: how often each task is drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping


class Sampler(ABC):
    """Gives each task's share of the examples. Write one as a dataclass; its fields are its options."""

    @abstractmethod
    def shares(self, sizes: Mapping[str, int], progress: float) -> dict[str, float]:
        """Return a share for every task, of any common scale.

        Args:
            sizes: Training rows of each task.
            progress: How much of the budget has been used, from 0 to 1.
        """
