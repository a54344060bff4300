"""Metrics that know their direction, computed by scikit-learn and SciPy on answers as people read them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Outcome:
    """Gold answers and predictions of one split, by name rather than by index.

    Attributes:
        gold: The right answers, one a row.
        predicted: The model's answers, one a row, in the same form.
        scores: Probabilities where the kind has them, ``[rows, labels]``; NaN for a label that was not asked for in a row.
        labels: Label names in the order of ``scores``.
        loss: The mean loss per predicted unit, NaN where there is none.
    """

    gold: Sequence[Any]
    predicted: Sequence[Any]
    scores: Array | None = None
    labels: tuple[str, ...] = ()
    loss: float = math.nan


@dataclass(frozen=True)
class Metric:
    """A named figure of merit.

    Attributes:
        name: Its name in configuration and results.
        compute: Takes an :class:`Outcome`; returns the figure, NaN where it is not defined.
        higher_is_better: Its direction. ``None`` for what is looked at rather than ranked.
        best: The value of a perfect prediction.
        chance: The value of the trivial predictor where it is known and not to be computed.
    """

    name: str
    compute: Callable[[Outcome], Any] = field(repr=False)
    higher_is_better: bool | None = True
    best: float = 1.0
    chance: float | None = None

    def __call__(self, outcome: Outcome) -> Any:
        """Compute the metric, without the warnings of sklearn about classes that are absent."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = self.compute(outcome)
        return value if self.higher_is_better is None else float(value)

    def skill(self, value: float, trivial: float) -> float:
        """Put ``value`` on the common scale: 0 as the trivial predictor, 1 perfect, below 0 worse than trivial.

        ``(value − trivial) / (best − trivial)``, the "skill score" of forecast verification (Murphy 1988,
        Monthly Weather Review 116:2417, eq. 4). An undefined trivial value counts as 0 for metrics that
        grow; where even the trivial predictor is perfect the skill is 1 if ``value`` is too, else 0.
        """
        if math.isnan(value):
            return 0.0
        if math.isnan(trivial):
            trivial = 0.0
        span = self.best - trivial
        if abs(span) < 1e-12:
            return 1.0 if abs(value - self.best) < 1e-12 else 0.0
        return (value - trivial) / span


def number(figure: float | None) -> float:
    """Return a figure, or NaN where it is undefined: not a number, or ``None`` as files have it."""
    return math.nan if figure is None else float(figure)


def mean_of(figures: Any) -> float:
    """Return the mean of what is defined among figures, every list of a level counting alike; NaN if nothing is."""
    if not isinstance(figures, Sequence):
        return number(figures)
    means = [value for value in map(mean_of, figures) if not math.isnan(value)]
    return float(np.mean(means)) if means else math.nan


def sklearn_metric(name: str, **options: Any) -> Callable[[Outcome], float]:
    """Return a metric of ``sklearn.metrics`` as a function of an outcome."""

    def compute(outcome: Outcome) -> float:
        import sklearn.metrics

        return float(getattr(sklearn.metrics, name)(outcome.gold, outcome.predicted, **options))

    return compute


def _roc_auc(outcome: Outcome) -> float:
    """One-vs-rest macro area under the ROC curve over the labels that occur, and do not always occur, in gold."""
    from sklearn.metrics import roc_auc_score

    if outcome.scores is None:
        return math.nan
    gold = np.asarray(outcome.gold)
    areas = []
    for column, label in enumerate(outcome.labels):
        is_label = gold[:, column] > 0 if gold.ndim == 2 else gold == label
        if is_label.any() and not is_label.all():
            areas.append(roc_auc_score(is_label, outcome.scores[:, column]))
    return float(np.mean(areas)) if areas else math.nan


def _confusion_matrix(outcome: Outcome) -> dict[str, Any]:
    from sklearn.metrics import confusion_matrix

    labels = list(outcome.labels)
    return {"labels": labels, "counts": confusion_matrix(outcome.gold, outcome.predicted, labels=labels).tolist()}


def _roc_curve(outcome: Outcome) -> dict[str, Any] | None:
    """The ROC curve of each label against the rest, over the rows where it was one of the answers to choose from.

    Points (false positives, true positives), at most 50 a label.
    """
    from sklearn.metrics import roc_curve

    if outcome.scores is None:
        return None
    gold, curves = np.asarray(outcome.gold), {}
    for column, label in enumerate(outcome.labels):
        scores = outcome.scores[:, column]
        asked = ~np.isnan(scores)
        is_label = gold[asked] == label
        if is_label.any() and not is_label.all():
            false, true, _ = roc_curve(is_label, scores[asked])
            kept = np.unique(np.linspace(0, len(false) - 1, min(len(false), 50)).round().astype(int))
            curves[label] = [[round(float(false[place]), 4), round(float(true[place]), 4)] for place in kept]
    return curves


def _correlation(name: str) -> Callable[[Outcome], float]:
    def compute(outcome: Outcome) -> float:
        import scipy.stats

        if len(outcome.gold) < 2:
            return math.nan
        return float(getattr(scipy.stats, name)(outcome.gold, outcome.predicted).statistic)

    return compute


def _averaged(prefix: str, function: str) -> tuple[Metric, ...]:
    return tuple(
        Metric(f"{average}_{prefix}", sklearn_metric(function, average=average, zero_division=0.0))
        for average in ("macro", "micro", "weighted")
    )


PRECISION_RECALL_F1 = (
    *_averaged("f1", "f1_score"),
    *_averaged("precision", "precision_score"),
    *_averaged("recall", "recall_score"),
)
ROC_AUC = Metric("roc_auc", _roc_auc, chance=0.5)

CLASSIFICATION = (
    Metric("accuracy", sklearn_metric("accuracy_score")),
    *PRECISION_RECALL_F1,
    Metric("mcc", sklearn_metric("matthews_corrcoef")),
    ROC_AUC,
    Metric("confusion_matrix", _confusion_matrix, higher_is_better=None),
    Metric("roc_curve", _roc_curve, higher_is_better=None),
)

REGRESSION = (
    Metric("spearman", _correlation("spearmanr")),
    Metric("pearson", _correlation("pearsonr")),
    Metric("mae", sklearn_metric("mean_absolute_error"), higher_is_better=False, best=0.0),
    Metric("rmse", sklearn_metric("root_mean_squared_error"), higher_is_better=False, best=0.0),
)
