"""Backend: where the cells of a grid are run. The engines are joblib's."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager


class Backend(ABC):
    """Sends cells to processes. Write one as a dataclass; its fields are its options.

    The processes need the same ``mtl`` and plugins, and must reach the same folders by the same paths.
    """

    @abstractmethod
    def connect(self, jobs: int | None, threads: int) -> AbstractContextManager[None]:
        """Return a context in which ``joblib.Parallel`` sends its work here.

        Args:
            jobs: Cells at a time; ``None`` for as many as fit.
            threads: Threads of a cell.

        Raises:
            GridError: If what is to do the work cannot be reached.
        """


def jobs_that_fit(threads: int) -> int:
    """Return how many cells fit on this machine's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)
