"""The runs of a grid, put together: what differs in chance alone is one column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mtl.axes import ROTATION, is_asked, label_of

#: A run's results, as it has written them.
Results = Mapping[str, Any]
#: What chance was: the values of what is defined, such as a split, and the seed.
Draw = tuple[str, int]


@dataclass(frozen=True)
class Column:
    """Runs that differ in their seed, and in what is defined, alone.

    Attributes:
        label: Their point on the other axes.
        runs: Their results.
        draws: What chance was in each.
        planned: How many there are to be; fewer are there if some have failed or have not run.
        plain: What chance was in each apart from which targets were held out.
        rotations: The held-out targets of each that is to be, where these are an axis.
    """

    label: str
    runs: list[Results]
    draws: list[Draw] = field(default_factory=list)
    planned: int = 0
    plain: list[Draw] = field(default_factory=list)
    rotations: list[tuple[str, ...]] = field(default_factory=list)

    def planned_for(self, target: str) -> int:
        """Return how many runs are to be asked a target."""
        asked = sum(target in rotation for rotation in self.rotations)
        return asked if self.rotations else self.planned or len(self.runs)

    def draw_of(self, place: int, target: str) -> Draw:
        """Return what chance was when a run was asked a target.

        Which rotation it was is a draw only for targets of several.
        """
        several = len({rotation for rotation in self.rotations if target in rotation}) != 1
        return self.draws[place] if several else self.plain[place]

    def values(self, task: str) -> list[float]:
        """Return the task's primary metric of each run that has it."""
        found = [run["tasks"][task]["value"] for run in self.runs if task in run["tasks"]]
        return [math.nan if value is None else value for value in found]


def columns_of(points: Sequence[Mapping[str, Any]], results: Sequence[Results | None]) -> list[Column]:
    """Group the runs of a comparison by everything but the seed and what is defined, in the order of the axes.

    Args:
        points: Where each run is on the axes.
        results: What each has given; ``None`` if there is nothing yet.
    """
    groups: dict[str, Column] = {}
    planned: dict[str, int] = {}
    for point, run in zip(points, results, strict=True):
        label = label_of(point) or (str(run["strategy"]) if run else "")
        planned[label] = planned.get(label, 0) + 1
        column = groups.setdefault(label, Column(label, []))
        asked = {axis: value for axis, value in point.items() if is_asked(axis)}
        rotation = asked.pop(ROTATION, None)
        if rotation is not None:
            column.rotations.append(tuple(rotation))
        if run is not None:
            seed, defined = int(run.get("seed", 0)), [str(value) for value in asked.values()]
            column.runs.append(run)
            column.plain.append((", ".join(defined), seed))
            column.draws.append((", ".join([*defined, *([] if rotation is None else [" ".join(rotation)])]), seed))
    return [replace(column, planned=planned[column.label]) for column in groups.values()]
