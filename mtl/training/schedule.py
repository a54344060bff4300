"""Which rows make up which batch: sampled over tasks, bucketed by length, reproducible from any point."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtl.config import BatchConfig
from mtl.data.batches import cut
from mtl.data.features import Features, default_cache
from mtl.data.rows import Rows
from mtl.data.spool import permutation
from mtl.errors import ConfigError
from mtl.metrics import Array
from mtl.seeds import seed_of
from mtl.training.sampler import Sampler

#: The rows of one batch: task name → row ids.
BatchRows = Mapping[str, Sequence[int]]
#: Batches that are drawn, sorted by length and shuffled together.
_CHUNK_BATCHES = 128


class _Stream:
    """Rows in random order, pass after pass. Depends on the seed and the rows alone, not on the task's company.

    Tasks that read the same rows go through them in the same order, so that in mixed batches one encoder pass
    over a text serves them all. The order of rows that stay on disk stays there too.
    """

    def __init__(self, rows: Rows, size: int, seed: int) -> None:
        self._rows, self._size, self._seed, self._on_disk = rows.fingerprint, size, seed, rows.on_disk
        self.position = 0
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def take(self, count: int) -> Array:
        parts = []
        while count:
            epoch, offset = divmod(self.position, self._size)
            if epoch != self._epoch:
                rng = np.random.default_rng(seed_of(self._seed, self._rows, epoch))
                self._epoch = epoch
                self._order = permutation(self._size, rng, default_cache()) if self._on_disk else rng.permutation(self._size)
            part = self._order[offset : offset + count]
            parts.append(part)
            self.position += len(part)
            count -= len(part)
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class _Place:
    """Where a chunk starts: enough to draw it again."""

    rng: dict[str, Any]
    positions: dict[str, int]
    drawn: int


class Schedule:
    """An iterator of :data:`BatchRows` that ends when the budget of examples is used.

    A chunk of rows is drawn task by task as the sampler says, sorted by length inside each task (or across tasks for
    mixed batches, tasks taking turns among rows of one length), cut into batches and shuffled, so that batches are of
    even length and their order is not.

    Args:
        features: Training rows of each task.
        sampler: Gives the share of each task at any point of the training.
        batch: Size, token budget and whether a batch may hold several tasks.
        examples: How many rows are drawn in all.
        seed: Of everything random here.
    """

    def __init__(self, features: Mapping[str, Features], sampler: Sampler, batch: BatchConfig, examples: int, seed: int) -> None:
        self._tasks = sorted(features)
        self._features = features
        self._sequences = {task: split.counts for task, split in features.items()}
        self._sizes = {task: len(features[task]) for task in self._tasks}
        self._sampler, self._batch, self.examples, self._seed = sampler, batch, examples, seed
        self._rng = np.random.default_rng(seed_of(seed, "schedule"))
        self._streams = {task: _Stream(features[task].rows, self._sizes[task], seed) for task in self._tasks}
        self._drawn = 0
        self._place = self._here()
        self._pending: list[BatchRows] = []
        self._taken = 0

    def __iter__(self) -> Iterator[BatchRows]:
        return self

    def __next__(self) -> BatchRows:
        if self._taken == len(self._pending):
            if self._drawn >= self.examples:
                raise StopIteration
            self._place = self._here()
            self._pending, self._taken = self._draw_chunk(), 0
        self._taken += 1
        return self._pending[self._taken - 1]

    def state_dict(self) -> dict[str, Any]:
        """Return JSON values from which :meth:`load_state_dict` goes on with the next batch."""
        place = self._place
        return {"rng": place.rng, "positions": place.positions, "drawn": place.drawn, "taken": self._taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where :meth:`state_dict` was called."""
        self._rng.bit_generator.state = state["rng"]
        for task, position in state["positions"].items():
            self._streams[task].position = position
        self._drawn = state["drawn"]
        self._place = self._here()
        self._pending, self._taken = self._draw_chunk(), state["taken"]

    def _here(self) -> _Place:
        positions = {task: stream.position for task, stream in self._streams.items()}
        return _Place(dict(self._rng.bit_generator.state), positions, self._drawn)

    def _draw_chunk(self) -> list[BatchRows]:
        wanted = min(_CHUNK_BATCHES * self._batch.size, self.examples - self._drawn)
        alone = len(self._tasks) == 1  # as in single-task training: there is nothing to share out
        shares = {self._tasks[0]: 1.0} if alone else self._sampler.shares(self._sizes, self._drawn / self.examples)
        right = {*shares} == {*self._tasks} and all(math.isfinite(share) and share >= 0 for share in shares.values())
        if not right or not any(shares.values()):
            raise ConfigError(
                f"The sampler {type(self._sampler).__name__} gave the shares {dict(shares)}; each of "
                f"{', '.join(self._tasks)} needs one that is 0 or more, and one has to be more."
            )
        probabilities = np.array([shares[task] for task in self._tasks])
        counts = self._count_rows(wanted, probabilities / probabilities.sum())
        self._drawn += wanted
        drawn = {task: self._streams[task].take(count) for task, count in zip(self._tasks, counts, strict=True) if count}
        batches = self._mixed(drawn) if self._batch.mixed else self._homogeneous(drawn)
        self._rng.shuffle(batches)
        return batches

    def _count_rows(self, wanted: int, probabilities: Array) -> list[int]:
        """Deal ``wanted`` rows out, or whole batches where batches hold one task: each task its share, what is left by lot."""
        unit = 1 if self._batch.mixed else self._batch.size
        exact = np.round(wanted // unit * probabilities, 9)
        counts = np.floor(exact).astype(np.int64)
        if left := wanted // unit - int(counts.sum()):
            parts = exact - counts
            counts[self._rng.choice(len(parts), size=left, replace=False, p=parts / parts.sum())] += 1
        counts *= unit
        counts[self._rng.choice(len(probabilities), p=probabilities)] += wanted % unit
        return [int(count) for count in counts]

    def _homogeneous(self, drawn: Mapping[str, Array]) -> list[BatchRows]:
        batches: list[BatchRows] = []
        for task, rows in drawn.items():
            ordered, lengths = self._by_length(task, rows)
            cuts = self._cut(range(len(ordered)), lengths, self._sequences[task][ordered])
            batches += [{task: ordered[places].tolist()} for places in cuts]
        return batches

    def _by_length(self, task: str, rows: Array) -> tuple[Array, Array]:
        """Return rows of a task from short to long, and their lengths."""
        lengths = self._features[task].lengths_of(rows)
        order = np.argsort(lengths, kind="stable")
        return rows[order], lengths[order]

    def _mixed(self, drawn: Mapping[str, Array]) -> list[BatchRows]:
        pairs: list[tuple[str, int]] = []
        turns, found = [], []
        for task, rows in drawn.items():
            ordered, own = self._by_length(task, rows)
            pairs += [(task, int(row)) for row in ordered]
            turns.append(_turns(own))
            found.append(own)
        lengths = np.concatenate(found)
        order = np.lexsort((np.concatenate(turns), lengths)).tolist()
        sequences = np.array([self._sequences[task][row] for task, row in pairs])
        batches: list[BatchRows] = []
        for batch in self._cut(order, lengths, sequences):
            held: dict[str, list[int]] = {}
            for task, row in sorted(pairs[position] for position in batch):
                held.setdefault(task, []).append(row)
            batches.append(held)
        return batches

    def _cut(self, order: Sequence[int], lengths: Array, sequences: Array | int) -> Iterator[list[int]]:
        return cut(order, lengths, sequences, size=self._batch.size, max_tokens=self._batch.max_tokens)


def _turns(lengths: Array) -> Array:
    """Return how far each row is among a task's rows of its length, from 0 to 1; ``lengths`` are sorted."""
    first, end = np.searchsorted(lengths, lengths, "left"), np.searchsorted(lengths, lengths, "right")
    return (np.arange(len(lengths)) - first + 0.5) / (end - first)


def plan(features: Mapping[str, Features], sampler: Sampler, batch: BatchConfig, examples: int, seed: int) -> dict[str, int]:
    """Return how many examples of each task a joint training would see; single-task training gets the same."""
    counts: Counter[str] = Counter(dict.fromkeys(features, 0))
    for rows in Schedule(features, sampler, batch, examples, seed):
        for task, ids in rows.items():
            counts[task] += len(ids)
    return dict(counts)
