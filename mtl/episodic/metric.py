"""Strategies that compare queries with the support in the encoder's space: no inner loop."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mtl.data.episodes import Episode
from mtl.episodic.learner import EpisodicStrategy
from mtl.meta.reader import Reader, Reading


class MetricLearner(EpisodicStrategy):
    """Answers queries from the support's features by a formula; support and queries are encoded in one pass."""

    @abstractmethod
    def answer(self, reading: Reading, queries: Tensor, outputs: int) -> Tensor:
        """Return the outputs of queries, ``[rows, ..., outputs]``.

        Args:
            reading: The support.
            queries: Features of the queries, ``[rows, ..., features]``.
            outputs: How many outputs the episode has.
        """

    def episode_loss(self, reader: Reader, episode: Episode) -> Tensor:
        reading = reader.read(episode)
        assert reading.query is not None
        outputs = self.answer(reading, reading.query, len(episode.outputs))
        return reader.loss(outputs, episode.query, episode.outputs)
