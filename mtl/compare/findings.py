"""What a grid has found: every figure with its interval, every difference with its level, and who gained or lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mtl.compare.bootstrap import Estimate, estimate_all
from mtl.compare.figures import Figures, Method, Question, nested, paired, questions_of
from mtl.compare.paired import Difference, compare_pairs, holm
from mtl.compare.ranks import Ranks, rank
from mtl.compare.relative import delta_m
from mtl.errors import GridError, did_you_mean
from mtl.metrics import mean_of

#: A question and the label of a method.
Place = tuple[Question, str]


@dataclass(frozen=True)
class Overall:
    """A method over all questions together.

    Attributes:
        delta_m: Mean relative gain over the baseline, of each draw of chance (Maninis et al. 2019).
        p_holm: Its level, corrected for the number of methods.
    """

    delta_m: Estimate
    p_holm: float

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or ``unclear``: at 5 %, corrected."""
        if not self.p_holm <= 0.05:
            return "unclear"
        return "better" if self.delta_m.mean > 0 else "worse"


@dataclass(frozen=True)
class Findings:
    """What the figures of some methods say.

    Attributes:
        title: What they are of.
        questions: What was asked.
        methods: What was tried.
        baseline: The label of the method that all are compared with; ``None`` if it is not there.
        scores: Mean and interval of each question by each method.
        differences: Gain of each method over the baseline, corrected over questions.
        overall: Each method over all questions.
        same: The same over the baseline's encoder with the method's own adaptation, where that is not the baseline's.
        ranks: Mean ranks over questions of the methods that answered all; ``None`` for fewer than two.
    """

    title: str
    questions: list[Question]
    methods: list[Method]
    baseline: str | None
    scores: dict[Place, Estimate] = field(default_factory=dict)
    differences: dict[Place, Difference] = field(default_factory=dict)
    overall: dict[str, Overall] = field(default_factory=dict)
    same: dict[str, Overall] = field(default_factory=dict)
    ranks: Ranks | None = None

    @property
    def negative(self) -> list[tuple[Question, str, Difference]]:
        """Negative transfer: questions that a method answers worse than the baseline, the surest first."""
        found = [(question, label, each) for (question, label), each in self.differences.items() if each.gain.mean < 0]
        return sorted(found, key=lambda each: (each[2].p_holm if not math.isnan(each[2].p_holm) else 2.0, each[2].gain.mean))

    @property
    def seeds(self) -> int:
        """The fewest draws of chance behind a score."""
        return min((len(method.figures[question]) for method in self.methods for question in method.figures), default=0)


def find(title: str, methods: Sequence[Method], baseline: str | None) -> Findings:
    """Compare methods.

    Args:
        title: What their figures are of.
        methods: What was tried.
        baseline: The label, the column or the strategy of what all are compared with.

    Raises:
        GridError: If there is no such baseline though it was asked for by its label.
    """
    questions = questions_of(methods)
    base = _baseline(methods, baseline)
    findings = Findings(title, questions, list(methods), base.label if base else None)
    places = [(question, method.label) for method in methods for question in method.figures]
    all_nested = [nested(method.figures[question]) for method in methods for question in method.figures]
    findings.scores.update(zip(places, estimate_all(all_nested), strict=True))
    ranks = _ranks(questions, methods, findings.scores)
    if base is None:
        return replace(findings, ranks=ranks)
    others = [method for method in methods if method is not base]
    for method in others:
        findings.differences.update(_differences(method, base))
    findings.overall.update(_overall([(method, base) for method in others]))
    findings.same.update(_overall(_of_same_adaptation(methods, base)))
    return replace(findings, ranks=ranks)


def check_baseline(label: str | None, methods: Sequence[Method]) -> None:
    """Check that the baseline that was asked for is there, by its label or by that of its column, whose first adaptation it is.

    Raises:
        GridError: If it is not.
    """
    known = [method.label for method in methods]
    if label is not None and not any(method.goes_by(label) for method in methods):
        raise GridError(
            " ".join(filter(None, [f"compare.baseline: there is no {label!r}.", did_you_mean(label, known)]))
            + f" There are: {', '.join(known)}."
        )


def _baseline(methods: Sequence[Method], wanted: str | None) -> Method | None:
    """Return the first method that goes by that name, else the first of that strategy that is one model for all."""
    named = [method for method in methods if method.goes_by(wanted)]
    return next(iter([*named, *(method for method in methods if method.strategy == wanted and not method.group)]), None)


def _differences(method: Method, base: Method) -> dict[Place, Difference]:
    """Compare one method with the baseline on every question that both were asked on the same draws."""
    pairs = {
        question: found
        for question, figures in method.figures.items()
        if (found := paired(figures, base.figures.get(question, {}))) is not None
    }
    differences = compare_pairs(list(pairs.values()), [question.higher_is_better for question in pairs])
    return {(question, method.label): each for question, each in zip(pairs, differences, strict=True)}


def _of_same_adaptation(methods: Sequence[Method], base: Method) -> list[tuple[Method, Method]]:
    """Return the methods with another adaptation than the baseline, each with the baseline's encoder by that adaptation."""
    encoder = {each.adaptation: each for each in methods if (each.column, each.group) == (base.column, base.group)}
    found = [(method, encoder[method.adaptation]) for method in methods if method.adaptation in encoder]
    return [(method, other) for method, other in found if other is not method and other is not base]


def _overall(pairs: Sequence[tuple[Method, Method]]) -> dict[str, Overall]:
    """Compare each method with its baseline over all questions that both were asked; levels corrected over the pairs."""
    gains: dict[str, Figures] = {}
    for method, base in pairs:
        questions = [question for question in method.figures if question in base.figures]
        draws = set.intersection(*({*method.figures[q]} & {*base.figures[q]} for q in questions)) if questions else set()
        found = {draw: [_delta_m(method, base, questions, draw)] for draw in draws}
        if kept := {draw: values for draw, values in found.items() if not math.isnan(values[0])}:
            gains[method.label] = kept
    estimates = estimate_all([nested(each) for each in gains.values()])
    levels = holm([each.p for each in estimates])
    return {label: Overall(each, p) for label, each, p in zip(gains, estimates, levels, strict=True)}


def _delta_m(method: Method, base: Method, questions: Sequence[Question], draw: tuple[str, int]) -> float:
    """Return Δm of one draw, over the episodes that have a figure of both."""
    values, others = [], []
    for question in questions:
        mine, theirs = np.array(method.figures[question][draw]), np.array(base.figures[question][draw])
        if len(mine) == len(theirs):
            mine, theirs = np.where(np.isnan(theirs), math.nan, mine), np.where(np.isnan(mine), math.nan, theirs)
        values.append(mean_of(mine.tolist()))
        others.append(mean_of(theirs.tolist()))
    return delta_m(values, others, [question.higher_is_better for question in questions])


def _ranks(questions: Sequence[Question], methods: Sequence[Method], scores: Mapping[Place, Estimate]) -> Ranks | None:
    complete = [method.label for method in methods if all(question in method.figures for question in questions)]
    if len(complete) < 2 or not questions:
        return None
    table = [
        [scores[question, label].mean * (1 if question.higher_is_better else -1) for label in complete] for question in questions
    ]
    return rank(complete, np.array(table))
