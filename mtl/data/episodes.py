"""Episodes: small tasks of their own, each with a support to learn from and queries to answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mtl.config import EpisodesConfig, Span
from mtl.data.batches import Batch, collate
from mtl.data.features import Features
from mtl.errors import DataError
from mtl.kind import TaskKind
from mtl.metrics import Array

_LOG = logging.getLogger(__name__)
#: How often an episode is drawn anew where rows stand for several classes and one of these was left short.
_TRIES = 100


@dataclass(frozen=True)
class EpisodeRows:
    """Which rows make up an episode.

    Attributes:
        task: The task that it is drawn from.
        classes: Its classes, in the order of the episode's outputs; empty for kinds without classes.
        support: Rows to learn from, by index into the task's pool.
        query: Rows to answer.
    """

    task: str
    classes: tuple[int, ...]
    support: tuple[int, ...]
    query: tuple[int, ...]


@dataclass(frozen=True)
class Episode:
    """An episode ready for the model.

    Attributes:
        task: The task that it is drawn from.
        classes: Its classes.
        outputs: The outputs of the task's head that belong to them.
        support: Rows to learn from, with columns narrowed to the classes.
        query: Rows to answer, likewise.
        names: The classes' written names, a sequence each, where the strategy reads them.
    """

    task: str
    classes: tuple[int, ...]
    outputs: tuple[int, ...]
    support: Batch
    query: Batch
    names: Batch | None = None

    @property
    def rows(self) -> int:
        """Rows of support and query together."""
        return self.support.rows + self.query.rows

    @property
    def rows_by_task(self) -> dict[str, int]:
        """All rows are of one task."""
        return {self.task: self.rows}

    @property
    def batches(self) -> list[Batch]:
        """The batches it is made of."""
        return [self.support, self.query]

    def to(self, device: torch.device) -> Episode:
        """Return the episode on ``device``."""
        names = None if self.names is None else self.names.to(device)
        return replace(self, support=self.support.to(device), query=self.query.to(device), names=names)


class Pool:
    """A task's rows, sorted by class, that episodes are drawn from.

    Args:
        features: The rows.
        kind: Their kind.
        need: Rows that a class must have; classes with fewer are left out.

    Attributes:
        by_class: The rows of each class; ``None`` for kinds without classes.
        left_out: The classes that have fewer rows, with how many each has.
    """

    def __init__(self, features: Features, kind: TaskKind, need: int) -> None:
        self.features, self.kind = features, kind
        classes = kind.classes_of(features)
        self.by_class: dict[int, Array] | None = None
        self.left_out: dict[int, int] = {}
        if classes is not None:
            rows: dict[int, list[int]] = {}
            for row, found in enumerate(classes):
                for number in found:
                    rows.setdefault(number, []).append(row)
            self.by_class = {number: np.array(rows[number]) for number in sorted(rows) if len(rows[number]) >= need}
            self.left_out = {number: len(rows[number]) for number in sorted(rows) if len(rows[number]) < need}

    def check(self, task: str, ways: int, need: int, *, tell: bool = True) -> None:
        """Check that an episode can be drawn, and say which classes are in none.

        Args:
            task: The task's name.
            ways: The fewest classes of an episode.
            need: Rows of an episode, a class; in all for kinds without classes.
            tell: Whether classes that are left out are logged.

        Raises:
            DataError: If there are fewer classes than ways, or fewer rows than an episode needs.
        """
        source = self.features.rows.source
        if self.by_class is None:
            if len(self.features) < need:
                raise DataError(f"Task {task!r}: an episode needs {need} rows, but {source} has {len(self.features)}.")
        elif len(self.by_class) < ways:
            raise DataError(
                f"Task {task!r}: an episode of {ways} ways needs {ways} classes with at least {need} rows each (shots and "
                f"queries), but {source} has {len(self.by_class)}. Ask for fewer ways, shots or queries."
            )
        if tell and self.left_out:
            number, count = next(iter(self.left_out.items()))
            _LOG.warning(
                "task %s: %d of %d classes have fewer than the %d rows that an episode needs of each (shots and queries) in %s, "
                "and are in no episode; the first: %r, which has %d",
                *(task, len(self.left_out), len(self.left_out) + len(self.by_class or ()), need, source),
                *(self.kind.class_names[number], count),
            )

    def check_shots(self, task: str, shots: int) -> None:
        """Check that every class has so many rows.

        Raises:
            DataError: If one has fewer.
        """
        counts = {number: len(rows) for number, rows in (self.by_class or {}).items()}
        if self.by_class is None:
            self.check(task, 0, shots)
        elif counts and min(counts.values()) < shots:
            number = min(counts, key=lambda number: counts[number])
            raise DataError(
                f"Target {task!r}: class {self.kind.class_names[number]!r} has {counts[number]} training rows, fewer than the "
                f"{shots} shots asked for. Ask for at most {counts[number]}."
            )

    def draw(
        self, rng: np.random.Generator, task: str, ways: int | None, shots: Sequence[int] | int, queries: int
    ) -> EpisodeRows:
        """Draw an episode.

        Args:
            rng: Of everything random.
            task: The task's name.
            ways: How many classes; ``None`` for all of them, in order.
            shots: Support rows a class, for all or one by one; rows in all for kinds without classes.
            queries: Query rows a class, or in all.

        Raises:
            DataError: If rows stand for several classes each, and none of many draws left every class its own.
        """
        if self.by_class is None:
            count = shots if isinstance(shots, int) else shots[0]
            rows = rng.choice(len(self.features), count + queries, replace=False).tolist()
            return EpisodeRows(task, (), tuple(rows[:count]), tuple(rows[count:]))
        known = list(self.by_class)
        classes = known if ways is None else [known[place] for place in rng.choice(len(known), ways, replace=False)]
        counts = [shots] * len(classes) if isinstance(shots, int) else shots
        for _ in range(_TRIES):
            rows = self._rows(rng, {number: count + queries for number, count in zip(classes, counts, strict=True)})
            if rows is not None:
                support = [row for own, count in zip(rows, counts, strict=True) for row in own[:count]]
                query = [row for own, count in zip(rows, counts, strict=True) for row in own[count:]]
                return EpisodeRows(task, tuple(classes), tuple(support), tuple(query))
        raise DataError(
            f"Task {task!r}: rows of {self.features.rows.source} stand for several classes each, and in {_TRIES} draws some "
            f"class was left without {max(counts)} rows of its own to learn from and {queries} to answer. Ask for fewer."
        )

    def _rows(self, rng: np.random.Generator, needed: Mapping[int, int]) -> list[list[int]] | None:
        """Draw so many rows of each class, none for two; ``None`` if a class has too few that no other has taken."""
        assert self.by_class is not None
        drawn: list[list[int]] = []
        taken: set[int] = set()
        for number, count in needed.items():
            free = [row for row in self.by_class[number].tolist() if row not in taken] if taken else self.by_class[number]
            if len(free) < count:
                return None
            drawn.append(rng.choice(free, count, replace=False).tolist())
            if self.overlaps:
                taken.update(drawn[-1])
        return drawn

    @property
    def overlaps(self) -> bool:
        """Whether a row can stand for several classes."""
        return sum(len(rows) for rows in (self.by_class or {}).values()) > len(self.features)


def sample_span(rng: np.random.Generator, span: Span, most: int | None = None) -> int:
    """Draw a number from a span, both ends included, of at most ``most``."""
    low, high = (span, span) if isinstance(span, int) else span
    return int(rng.integers(low, min(high, most or high) + 1))


def draw_episode(rng: np.random.Generator, task: str, pool: Pool, config: EpisodesConfig) -> EpisodeRows:
    """Draw an episode whose ways and shots are fixed or drawn too, as ``config`` says."""
    if pool.by_class is None:
        return pool.draw(rng, task, None, sample_span(rng, config.shots), config.queries)
    ways = sample_span(rng, config.ways, len(pool.by_class))
    if config.imbalanced:
        return pool.draw(rng, task, ways, [sample_span(rng, config.shots) for _ in range(ways)], config.queries)
    return pool.draw(rng, task, ways, sample_span(rng, config.shots), config.queries)


def collate_episode(rows: EpisodeRows, features: Features, kind: TaskKind, names: Features | None = None) -> Episode:
    """Put an episode's rows into batches.

    Args:
        rows: The episode.
        features: The pool that its rows index.
        kind: Of the task.
        names: A sequence for the name of each class of the task, to be added.
    """
    support, query = (collate_rows(kind, kind.narrow(features.take(ids), rows.classes)) for ids in (rows.support, rows.query))
    outputs = tuple(kind.outputs_of(rows.classes))
    named = None if names is None else collate({rows.task: rows.classes}, {rows.task: names})
    return Episode(rows.task, rows.classes, outputs, support, query, named)


def collate_rows(kind: TaskKind, features: Features) -> Batch:
    """Put all of ``features`` into one batch."""
    name = kind.task.name
    return collate({name: range(len(features))}, {name: features}, {name: kind})


def needed(span: Span) -> int:
    """Return the largest number of a span."""
    return span if isinstance(span, int) else span[1]


def fewest(span: Span) -> int:
    """Return the smallest number of a span."""
    return span if isinstance(span, int) else span[0]


def pools_of(
    features: Mapping[str, Features], kinds: Mapping[str, TaskKind], config: EpisodesConfig, *, tell: bool = True
) -> dict[str, Pool]:
    """Return the pool of every task, checked.

    Args:
        features: The rows of each task.
        kinds: Its kind.
        config: What its episodes are.
        tell: Whether classes that are in no episode are logged.

    Raises:
        DataError: If a task cannot give an episode.
    """
    need = needed(config.shots) + config.queries
    pools = {name: Pool(split, kinds[name], need) for name, split in features.items()}
    for name, pool in pools.items():
        pool.check(name, fewest(config.ways), need, tell=tell)
    return pools
