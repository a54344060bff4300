"""The ``compare`` section: which cells a grid has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mtl.errors import ConfigError, did_you_mean

#: Values of axes: where a cell is.
Point = dict[str, Any]
#: The axis that named cells make up.
NAMED = "cell"
#: Characters of a value in a label.
_LONGEST = 50


#: The axis of held-out targets.
ROTATION = "targets.tasks"


class CompareConfig(BaseModel):
    """A grid. A key that is not in this table is an axis: a key of the experiment, with dots for inner keys, and its values.

    Every combination of the axes is a cell, and a cell is a run.

    Args:
        cells: Named cells, each a mapping of keys to values. Every combination of the axes is run with each of them.
        include: Cells beside the combinations, each a mapping of keys to values.
        exclude: Combinations to be left out, each a mapping of axes to values; axes that are not in it may have any.
        matched: What the cells are to have used alike: ``examples`` of each task, ``passes`` of sequences through the
            encoder in training, or ``seconds`` of training.
        tolerance: Share of the budget by which a cell may differ before it is flagged.
        baseline: The cells that all others are compared with, by their label in the tables. Default: ``none`` for transfer
            and ``single`` for tasks that are trained.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, tuple[Any, ...]] = Field(init=False)
    cells: dict[str, dict[str, Any]] = {}
    include: tuple[dict[str, Any], ...] = ()
    exclude: tuple[dict[str, Any], ...] = ()
    matched: Literal["examples", "passes", "seconds"] = "examples"
    tolerance: Annotated[float, Field(ge=0)] = 0.1
    baseline: str | None = None

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The axes and their values."""
        return dict(self.__pydantic_extra__)

    def __bool__(self) -> bool:
        """Whether there is more than the experiment itself."""
        return bool(self.axes or self.cells or self.include)

    def points(self) -> list[tuple[Point, dict[str, Any]]]:
        """Return each cell's place on the axes, and the keys that make it what it is.

        Raises:
            ConfigError: If an axis has no values, a named cell sets an axis, or an exclusion fits no cell.
        """
        axes = self.axes
        for axis, values in axes.items():
            if not values:
                raise ConfigError(f"compare: axis {axis!r} has no values.")
        for name, settings in self.cells.items():
            if both := sorted(set(settings) & set(axes)):
                raise ConfigError(f"compare.cells.{name}: {both[0]!r} is an axis as well. Set it in one of the two places.")
        found: list[tuple[Point, dict[str, Any]]] = []
        for values in product(*axes.values()) if axes or self.cells or not self.include else ():
            point = dict(zip(axes, values, strict=True))
            named = {name: (point | {NAMED: name}, point | settings) for name, settings in self.cells.items()}
            found += named.values() if named else [(point, point)]
        kept = self._without_excluded(found)
        return [*kept, *((dict(settings), settings) for settings in self.include)]

    def _without_excluded(self, found: list[tuple[Point, dict[str, Any]]]) -> list[tuple[Point, dict[str, Any]]]:
        out: set[int] = set()
        for number, excluded in enumerate(self.exclude):
            fitting = {place for place, (point, settings) in enumerate(found) if _fits(excluded, settings | point)}
            if not fitting:
                known = dict.fromkeys(key for point, settings in found for key in settings | point)
                raise ConfigError(f"compare.exclude.{number}: no cell is at {_plain(excluded)}.{_unknown(excluded, known)}")
            out |= fitting
        return [each for place, each in enumerate(found) if place not in out]


def is_asked(axis: str) -> bool:
    """Tell whether an axis says what methods are asked, such as a split or the held-out targets, and not what they are."""
    return axis.startswith("define.") or axis == ROTATION


def asked_of(point: Mapping[str, Any]) -> list[str]:
    """Name what a point is asked, a text for each axis that says it."""
    return [f"{axis.rpartition('.')[2]} {_value(value)}" for axis, value in point.items() if is_asked(axis)]


def label_of(point: Mapping[str, Any]) -> str:
    """Name what a point is apart from its seed and what it is asked: cells of one label are one method."""
    shown = (_value(value) for axis, value in point.items() if axis != "seed" and not is_asked(axis))
    return ", ".join(map(_shortened, shown))


def _shortened(text: str) -> str:
    """Cut what is too long for the head of a column; the hash keeps two that begin alike apart."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 6]}… {hashlib.sha256(text.encode()).hexdigest()[:4]}"


def _value(value: Any) -> str:
    """Write a value for people: a choice as its name, with its options in brackets."""
    if isinstance(value, Mapping):
        options = ", ".join(f"{key}={_value(item)}" for key, item in value.items() if key != "name")
        return f"{value.get('name', '')} ({options})".strip() if options else str(value.get("name", ""))
    return " ".join(map(_value, value)) if isinstance(value, list | tuple) else str(value)


def _fits(excluded: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    return all(key in settings and settings[key] == value for key, value in excluded.items())


def _plain(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_value(value)}" for key, value in settings.items()) or "{}"


def _unknown(excluded: Mapping[str, Any], known: Iterable[str]) -> str:
    known = list(known)
    wrong = next((key for key in excluded if key not in known), None)
    if wrong is None:
        return ""
    return " " + " ".join(
        filter(None, [f"There is no axis {wrong!r}.", did_you_mean(wrong, known), f"Axes: {', '.join(known)}."])
    )
