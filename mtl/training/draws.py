"""Draws: what the steps of a training learn from, one after the other, reproducible from any point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.data.batches import Batch, collate
from mtl.data.episodes import Episode, collate_episode, draw_episode, pools_of
from mtl.seeds import seed_of
from mtl.training.schedule import BatchRows, Schedule

if TYPE_CHECKING:
    from mtl.config import ExperimentConfig
    from mtl.model.inference import TaskData
    from mtl.training.sampler import Sampler


class Draws(ABC):
    """An iterator of draws that ends when the budget of examples is used."""

    def __iter__(self) -> Iterator[Sequence[Any]]:
        return self

    @abstractmethod
    def __next__(self) -> Sequence[Any]:
        """Return what the next step learns from."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return JSON values from which :meth:`load_state_dict` goes on with the next draw."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where :meth:`state_dict` was called."""


class Batches(Draws):
    """Batches of rows, as the schedule has them; see :class:`mtl.training.schedule.Schedule`."""

    def __init__(self, data: Mapping[str, TaskData], sampler: Sampler, config: ExperimentConfig, examples: int) -> None:
        self._features = {name: task.splits["train"] for name, task in data.items()}
        self._kinds = {name: task.kind for name, task in data.items()}
        self._accumulate = config.batch.accumulate
        self._schedule = Schedule(self._features, sampler, config.batch, examples, config.seed)
        self._rng = np.random.default_rng(seed_of(config.seed, "redraw"))

    def __next__(self) -> Sequence[Batch]:
        return [self.collate(batch) for batch in self.next_rows()]

    def next_rows(self) -> list[BatchRows]:
        """Return the rows of the next step's batches.

        Raises:
            StopIteration: If the budget is used.
        """
        rows = list(islice(self._schedule, self._accumulate))
        if not rows:
            raise StopIteration
        return rows

    def collate(self, rows: BatchRows) -> Batch:
        """Put rows into a batch, those of a kind that redraws them as they are this time."""
        features, ids = dict(self._features), dict(rows)
        for name, own in rows.items():
            if (fresh := self._kinds[name].redraw(features[name], own, self._rng)) is not None:
                features[name], ids[name] = fresh, range(len(fresh))
        return collate(ids, features, self._kinds)

    def state_dict(self) -> dict[str, Any]:
        return {"schedule": self._schedule.state_dict(), "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._schedule.load_state_dict(state["schedule"])
        self._rng.bit_generator.state = state["rng"]


class Episodes(Draws):
    """Episodes from the training rows of tasks, each of a task that the sampler deals out.

    An example is a row of a support or of a query.
    """

    def __init__(self, data: Mapping[str, TaskData], sampler: Sampler, config: ExperimentConfig, examples: int) -> None:
        self._data, self._sampler, self._config, self._examples = data, sampler, config.episodes, examples
        self._features = {name: task.splits["train"] for name, task in data.items()}
        self._sizes = {name: len(split) for name, split in self._features.items()}
        self._kinds = {name: task.kind for name, task in data.items()}
        self._pools = pools_of(self._features, self._kinds, self._config)
        self._rng = np.random.default_rng(seed_of(config.seed, "episodes"))
        self._drawn = 0

    def __next__(self) -> Sequence[Episode]:
        if self._drawn >= self._examples:
            raise StopIteration
        shares = self._sampler.shares(self._sizes, self._drawn / self._examples)
        names = sorted(shares)
        probabilities = np.array([shares[name] for name in names])
        episodes = []
        for _ in range(self._config.per_step):
            name = names[self._rng.choice(len(names), p=probabilities / probabilities.sum())]
            rows = draw_episode(self._rng, name, self._pools[name], self._config)
            read = self._data[name].names if self._config.names else None
            episodes.append(collate_episode(rows, self._features[name], self._kinds[name], read))
            self._drawn += len(rows.support) + len(rows.query)
        return episodes

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state, "drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._drawn = state["drawn"]
