"""Which tasks help which: gradients that point the same way, and what each source has done for each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtl.compare.bootstrap import Estimate, differences, estimate
from mtl.compare.figures import Method, Question, paired, questions_of


@dataclass(frozen=True)
class Matrix:
    """Figures of pairs of tasks.

    Attributes:
        title: What they are.
        rows: Names of the rows.
        columns: Names of the columns.
        values: ``[rows, columns]``; NaN where there is none.
        suggestion: Which rows to keep, and why; a suggestion, not a finding.
    """

    title: str
    rows: list[str]
    columns: list[str]
    values: list[list[float]]
    suggestion: str


def gradient_cosines(looks: Sequence[Mapping[str, Any]]) -> Matrix | None:
    """Return the mean cosine of the gradients of every two tasks over training.

    Args:
        looks: What the plugin ``mtl_plugins.affinity`` has written: tasks and cosines ``[tasks, tasks]`` at some steps.
    """
    if not looks:
        return None
    tasks = list(dict.fromkeys(task for look in looks for task in look["tasks"]))
    place = {task: number for number, task in enumerate(tasks)}
    sums, counts = np.zeros((len(tasks), len(tasks))), np.zeros((len(tasks), len(tasks)))
    for look in looks:
        rows = np.array([place[task] for task in look["tasks"]])
        sums[np.ix_(rows, rows)] += np.array(look["cosines"])
        counts[np.ix_(rows, rows)] += 1
    with np.errstate(invalid="ignore"):
        means = sums / counts
    others = {task: _mean_of_others(means, number) for task, number in place.items()}
    return Matrix("Cosine of the tasks' gradients, mean over training", tasks, tasks, means.tolist(), _suggest(others, "cosine"))


def transfer_gains(methods: Sequence[Method], base: str | None) -> Matrix | None:
    """Return what each source, trained alone, has gained on each target over the baseline, mean over shots.

    Args:
        methods: Of the targets; those that are one model of a run with several are of one source each.
        base: The label of the baseline.
    """
    baseline = next((method for method in methods if method.label == base), None)
    if baseline is None:
        return None
    alike = [method for method in methods if method.group and method.adaptation == baseline.adaptation]
    several = len({method.column for method in alike}) > 1
    single = {f"{method.column}: {method.group}" if several else method.group: method for method in alike}
    if len(single) < 2:
        return None
    targets = list(dict.fromkeys(question.task for question in questions_of(list(single.values()))))
    values = [[_gain(method, baseline, target) for target in targets] for method in single.values()]
    means = {source: float(np.nanmean(row)) for source, row in zip(single, values, strict=True) if not np.isnan(row).all()}
    return Matrix(f"Gain of each source alone over {base}", list(single), targets, values, _suggest(means, "gain"))


def _gain(method: Method, base: Method, target: str) -> float:
    found: list[Estimate] = []
    for question in (each for each in method.figures if each.task == target):
        pair = paired(method.figures[question], base.figures.get(question, {}))
        if pair is not None:
            found.append(estimate(differences(*_directed(pair, question))))
    return float(np.mean([each.mean for each in found])) if found else float("nan")


def _directed(pair: Any, question: Question) -> Any:
    return pair if question.higher_is_better else pair[::-1]


def _mean_of_others(means: Any, row: int) -> float:
    others = np.delete(means[row], row)
    return float(np.nanmean(others)) if len(others) and not np.isnan(others).all() else float("nan")


def _suggest(means: Mapping[str, float], what: str) -> str:
    kept = [name for name, value in means.items() if value >= 0]
    left = [f"{name} ({value:+.3f})" for name, value in means.items() if value < 0]
    if not left:
        return f"A suggestion: keep all; none has a negative mean {what}."
    keep = ", ".join(kept) or "none"
    return f"A suggestion, to be tried: keep {keep}; leave out {', '.join(left)}, whose mean {what} is negative."
