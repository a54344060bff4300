"""Measuring few-shot transfer: every adaptation on every episode of every target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mtl.data.episodes import EpisodeRows, Pool
from mtl.data.features import Features, join
from mtl.kind import TaskKind
from mtl.metrics import Outcome, mean_of
from mtl.model.encoder import Encoder
from mtl.model.inference import TaskData, evaluate_trivial
from mtl.transfer.adaptation import Adaptation
from mtl.transfer.protocol import Manifest
from mtl.transfer.space import Space

#: Shots → the target's primary metric on each episode.
Figures = dict[str, list[float]]


def transfer(space: Space, manifest: Manifest, adaptation: Adaptation) -> tuple[Figures, dict[str, Any]]:
    """Adapt to the support of every episode of a manifest, and answer its queries.

    Returns:
        The figures; and of the most shots, over all episodes together, the metrics that are looked at rather than ranked.

    Raises:
        MTLError: If the target cannot be learned in this way.
    """
    figures, looked_at = {}, {}
    for shots, episodes in manifest.episodes.items():
        outcomes = [space.outcome(episode, adaptation.adapt(space, episode)(episode.query)) for episode in episodes]
        figures[str(shots)] = [float(space.kind.primary_metric(outcome)) for outcome in outcomes]
        if shots == max(manifest.episodes):
            joined = _join(outcomes, [space.outputs(episode) for episode in episodes])
            looked_at = {
                name: found
                for name, metric in space.kind.all_metrics.items()
                if metric.higher_is_better is None and (found := metric(joined)) is not None
            }
    return figures, looked_at


def _join(outcomes: Sequence[Outcome], outputs: Sequence[tuple[int, ...]]) -> Outcome:
    """Return the outcomes of episodes as one; the scores of labels that an episode has not are NaN."""
    gold = [answer for outcome in outcomes for answer in outcome.gold]
    predicted = [answer for outcome in outcomes for answer in outcome.predicted]
    tables = []
    for outcome, chosen in zip(outcomes, outputs, strict=True):
        if outcome.scores is None:
            return Outcome(gold, predicted, None, outcome.labels)
        asked = np.full(outcome.scores.shape, np.nan)
        asked[:, list(chosen)] = outcome.scores[:, list(chosen)]
        tables.append(asked)
    return Outcome(gold, predicted, np.concatenate(tables), outcomes[0].labels)


def measure(space: Space, episode: EpisodeRows, adaptation: Adaptation) -> float:
    """Return the target's primary metric on one episode."""
    return space.measure(episode, adaptation.adapt(space, episode)(episode.query))


class TransferEvaluator:
    """Evaluates an encoder in training by transfer to tasks that are not trained: meta-validation.

    Args:
        targets: Validation tasks, each with its pool and episodes; once for each number of shots.
        size: Rows of an encoder pass.
    """

    def __init__(self, targets: Sequence[tuple[TaskData, Features, Sequence[EpisodeRows]]], size: int) -> None:
        self._targets, self._size = targets, size
        self._trivial = {data.name: trivial_of(data, pool) for data, pool, _ in targets}

    def __call__(
        self, encoder: Encoder, adaptation_to: Callable[[TaskKind], Adaptation]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
        """Return the metric of each task, the mean over numbers of shots, and its skill.

        Args:
            encoder: As it is now.
            adaptation_to: Gives the adaptation to tasks of a kind.
        """
        means: dict[str, list[float]] = {}
        kinds = {data.name: data.kind for data, _, _ in self._targets}
        for data, pool, episodes in self._targets:
            space = Space(encoder, data, pool, size=self._size)
            adaptation = adaptation_to(data.kind)
            figures = [measure(space, episode, adaptation) for episode in episodes]
            means.setdefault(data.name, []).append(mean_of(figures))
        metrics, skills = {}, {}
        for name, found in means.items():
            mean, metric = mean_of(found), kinds[name].primary_metric
            metrics[name] = {metric.name: mean}
            skills[name] = metric.skill(mean, self._trivial[name])
        return metrics, skills


def trivial_of(data: TaskData, pool: Features) -> float:
    """Return the primary metric of the predictor that does not look at the text, on a pool."""
    joined = TaskData(data.name, data.kind, {"pool": pool})
    return float(evaluate_trivial(joined, "pool")[data.kind.primary_metric.name])


def episodes_of_validation(data: TaskData, shots: int, rng: Any, count: int = 3) -> tuple[TaskData, Features, list[EpisodeRows]]:
    """Make episodes of a source task: support from train, as queries those rows of validation that its classes can answer.

    Classes that have too few rows in train are in no episode, and rows of theirs are asked of none.
    The pool holds no more than these rows, so that looking at it is quick.
    """
    train, validation = data.splits["train"], data.splits["validation"]
    pool = Pool(train, data.kind, shots)
    drawn = [pool.draw(rng, data.name, None, shots, 0) for _ in range(count)]
    rows = sorted({row for episode in drawn for row in episode.support})
    place = {row: number for number, row in enumerate(rows)}
    classes = data.kind.classes_of(validation)
    found = []
    for episode in drawn:
        known = set(episode.classes)
        answerable = [row for row in range(len(validation)) if classes is None or not classes[row] or known & set(classes[row])]
        query = tuple(len(rows) + row for row in answerable)
        found.append(EpisodeRows(data.name, episode.classes, tuple(place[row] for row in episode.support), query))
    return data, join([train.take(rows), validation]), found
