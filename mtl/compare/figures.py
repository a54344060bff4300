"""What was asked, and what each method answered: the figures that statistics are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mtl.compare.bootstrap import Nested
from mtl.compare.columns import Column, Draw
from mtl.metrics import number

#: Figures of one question by what chance was: a figure for each episode, or the one of the test split.
Figures = dict[Draw, list[float]]


@dataclass(frozen=True)
class Question:
    """One thing that every method is asked.

    Attributes:
        task: The task or target.
        shots: Support rows a class; ``None`` for a task that was trained.
        metric: Its primary metric.
        higher_is_better: The metric's direction.
    """

    task: str
    shots: int | None
    metric: str
    higher_is_better: bool

    @property
    def name(self) -> str:
        """The question in words."""
        return self.task if self.shots is None else f"{self.task}, {in_shots(self.shots)}"


def in_shots(count: int | str) -> str:
    """Return ``1 shot`` or ``5 shots``."""
    return f"{count} shot{'' if str(count) == '1' else 's'}"


@dataclass(frozen=True)
class Method:
    """What was tried: the runs of a column, or one model of them with one adaptation.

    Attributes:
        label: In the tables.
        column: The label of its column.
        strategy: What trained it.
        group: The model, where a run has several; else empty.
        adaptation: How targets were learned; empty for tasks that were trained.
        figures: Of each question.
        transductive: Whether the queries of an episode were answered together.
        told: What a reader must know of the adaptation.
        planned: Draws of chance that there are to be.
        planned_for: The same for questions that only some of them are asked.
    """

    label: str
    column: str
    strategy: str
    group: str = ""
    adaptation: str = ""
    transductive: bool = False
    told: tuple[str, ...] = ()
    figures: dict[Question, Figures] = field(default_factory=dict)
    planned: int = 0
    planned_for: dict[Question, int] = field(default_factory=dict)

    def goes_by(self, name: str | None) -> bool:
        """Say whether ``name`` is this method's label, or that of its column where that has one model."""
        return name == self.label or (name == self.column and not self.group)


def of_tasks(columns: Sequence[Column]) -> list[Method]:
    """Return what each column has of the tasks that were trained: one figure a run."""
    methods = []
    for column in columns:
        method = Method(column.label, column.label, _strategy(column), planned=column.planned or len(column.runs))
        for draw, run in zip(column.draws, column.runs, strict=True):
            for name, about in run["tasks"].items():
                question = Question(name, None, about["metric"], about["higher_is_better"])
                method.figures.setdefault(question, {})[draw] = [number(about["value"])]
        if method.figures:
            methods.append(method)
    return [_without_undefined(method) for method in methods]


def of_targets(columns: Sequence[Column]) -> list[Method]:
    """Return what each column's models have of the targets, by each adaptation: a figure an episode."""
    found: dict[str, Method] = {}
    for column in columns:
        several = len({label for run in column.runs for label in _adaptations(run)}) > 1
        planned = column.planned or len(column.runs)
        for place, run in enumerate(column.runs):
            for group, about in run["targets"].items():
                model = group if len(run["targets"]) > 1 else ""
                for target, by_adaptation in about["figures"].items():
                    for adaptation, by_shots in by_adaptation.items():
                        label = f"{column.label}: {model}" if model else column.label
                        label = f"{label}, {adaptation}" if several else label
                        together = adaptation in about.get("transductive", ())
                        told = tuple(told_of(about, adaptation))
                        start = Method(label, column.label, run["strategy"], model, adaptation, together, told, planned=planned)
                        method = found.setdefault(label, start)
                        for shots, figures in by_shots.items():
                            up = about.get("higher_is_better", {}).get(target, True)
                            question = Question(target, int(shots), about["metric"][target], up)
                            draw = column.draw_of(place, target)
                            method.figures.setdefault(question, {})[draw] = [number(value) for value in figures]
                            method.planned_for[question] = column.planned_for(target)
    return [_without_undefined(method) for method in found.values()]


def told_of(about: Mapping[str, Any], adaptation: str) -> list[str]:
    """Return what a reader must know of an adaptation: options that its label does not tell, and whether it is transductive.

    Args:
        about: A run's transfer, as it has written it.
        adaptation: Its label.
    """
    options = {key: value for key, value in about.get("chosen", {}).get(adaptation, {}).items() if key != "name"}
    hidden = [f"{key} {value}" for key, value in options.items() if f"{key}={value}" not in adaptation]
    notes = [f"{adaptation}: {', '.join(hidden)}."] if hidden else []
    if adaptation in about.get("transductive", ()):
        notes.append(
            f"{adaptation} is transductive: the queries of an episode are answered together. Compare it with such methods alone."
        )
    return notes


def questions_of(methods: Sequence[Method]) -> list[Question]:
    """Return every question that a method was asked, in order."""
    return list(dict.fromkeys(question for method in methods for question in method.figures))


def nested(figures: Mapping[Draw, list[float]]) -> Nested:
    """Return figures as lists of episodes, in lists of seeds, in a list of what is defined, such as splits."""
    by_defined: dict[str, list[Any]] = {}
    for (defined, _), values in sorted(figures.items()):
        by_defined.setdefault(defined, []).append(values)
    return list(by_defined.values())


def paired(figures: Mapping[Draw, list[float]], base: Mapping[Draw, list[float]]) -> tuple[Nested, Nested] | None:
    """Return the figures of the same draws of both; ``None`` if there are none."""
    both = [draw for draw in figures if draw in base and len(figures[draw]) == len(base[draw])]
    if not both:
        return None
    return nested({draw: figures[draw] for draw in both}), nested({draw: base[draw] for draw in both})


def _strategy(column: Column) -> str:
    return str(column.runs[0]["strategy"]) if column.runs else ""


def _adaptations(run: Mapping[str, Any]) -> list[str]:
    return [label for about in run["targets"].values() for by_label in about["figures"].values() for label in by_label]


def _without_undefined(method: Method) -> Method:
    """Leave out draws without a figure that is defined, such as a correlation with a constant."""
    kept = {
        question: {draw: values for draw, values in figures.items() if not all(map(math.isnan, values))}
        for question, figures in method.figures.items()
    }
    figures = {question: found for question, found in kept.items() if found}
    return replace(method, figures=figures)
