"""Single-task training: the baseline. One model for each task, each with its share of the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtl_plugins.joint import Joint


@dataclass
class Single(Joint):
    """Train a model of its own for each task, on as many examples of it as joint training sees."""

    def groups(self, tasks: Sequence[str]) -> dict[str, list[str]]:
        return {task: [task] for task in tasks}
