"""Space: a target's rows as an encoder sees them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mtl.data.batches import Batch, by_length, collate, columns_of
from mtl.data.episodes import EpisodeRows
from mtl.data.features import Features
from mtl.errors import TrainingError
from mtl.kind import TaskKind
from mtl.meta.inner import Parameters
from mtl.meta.reader import Reader, Trunk, places, spread
from mtl.metrics import Array, Outcome
from mtl.model.adapters import Adapter
from mtl.model.encoder import Encoder
from mtl.model.inference import TaskData

_MAX_TOKENS = 16_384
_LOG = logging.getLogger(__name__)


class Space:
    """A target's pool of rows and an encoder. Each row is encoded once, however many episodes it is in.

    Args:
        encoder: The encoder; it is not changed.
        target: The task.
        pool: The rows that episodes are drawn from.
        size: Rows of an encoder pass.

    Raises:
        ConfigError: If the task's kind cannot be learned in episodes.
    """

    def __init__(self, encoder: Encoder, target: TaskData, pool: Features, *, size: int = 64) -> None:
        self.encoder, self.target, self.pool, self.size = encoder, target, pool, size
        self.kind: TaskKind = target.kind
        self._head = self.kind.head(encoder.hidden)
        self._readers: dict[int, Reader] = {}
        self._adapted: dict[str, Space] = {}
        self.reader = self.reader_above(-1)

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return self.reader.device

    @cached_property
    def features(self) -> Tensor:
        """Features of every row of the pool, ``[rows, ..., features]``, of length 1."""
        return self.encode(range(len(self.pool)))

    @cached_property
    def names(self) -> Tensor | None:
        """Vectors of the classes' written names, ``[classes, hidden]``, of length 1; ``None`` if the kind has none."""
        if self.target.names is None:
            task = self.kind.task
            _LOG.warning(
                "target %s: names of classes are not read with rows of kind %s; it is learned without", task.name, task.kind
            )
            return None
        vectors = []
        with torch.inference_mode(), self._evaluating():
            for start in range(0, len(self.target.names), self.size):
                ids = range(start, min(start + self.size, len(self.target.names)))
                batch = collate({"": ids}, {"": self.target.names}).to(self.device)
                vectors.append(normalize(self.encoder(batch.inputs).of(batch.parts[""].index).pooled, dim=-1))
        return torch.cat(vectors).clone()

    def with_adapters(self, method: Adapter) -> Space:
        """Return the same rows, read by a copy of the encoder with fresh adapters; one copy for all episodes.

        Raises:
            MTLError: If the encoder cannot be given these adapters.
        """
        key = repr(method)
        if key not in self._adapted:
            self._adapted[key] = Space(self.encoder.with_adapters(method), self.target, self.pool, size=self.size)
        return self._adapted[key]

    def reader_above(self, depth: int) -> Reader:
        """Return a reader for adaptations of the layers from ``depth`` on; rows go through those below once."""
        if depth not in self._readers:
            trunk = Trunk(self.encoder, depth, still=True)
            self._readers[depth] = Reader(self.encoder, self.kind, self._head, trunk)
        return self._readers[depth]

    def encode(self, rows: Sequence[int], parameters: Parameters | None = None, depth: int = -1) -> Tensor:
        """Return the features of rows, ``[rows, ..., features]``.

        Args:
            rows: Of the pool.
            parameters: Stand in for the encoder's own, by name.
            depth: The first layer that they are of; −1 for the embeddings.

        Raises:
            TrainingError: If the encoder answers with what is no number.
        """
        reader = self.reader_above(depth)
        found: Tensor | None = None
        with torch.inference_mode(), self._evaluating():
            for places_, batch in self.batches(rows):
                own = reader.features(batch, reader.trunk(batch), parameters)
                if found is None:
                    words = self.pool.tokenized.first_token.lengths.max() if own.dim() == 3 else None
                    shape = (len(rows), own.shape[-1]) if words is None else (len(rows), int(words), own.shape[-1])
                    found = own.new_zeros(shape)
                index = torch.tensor(places_, device=own.device)
                if own.dim() == 3:
                    found[index, : own.shape[1]] = own
                else:
                    found[index] = own
        if found is None:
            return torch.zeros(0, self.reader.size, device=self.device)
        if not bool(found.isfinite().all()):
            raise TrainingError(
                f"target {self.target.name!r}: the encoder reads its rows as what is no number (NaN or infinity). Its training, "
                "or the adaptation to this target, has diverged: lower its rates, or take an earlier checkpoint."
            )
        return found.clone()  # a plain tensor: what comes out of inference_mode cannot be saved for a backward pass

    def batches(self, rows: Sequence[int]) -> Iterator[tuple[list[int], Batch]]:
        """Yield batches of similar length, each with the places of its rows among ``rows``."""
        chosen = self.pool.take(list(rows))
        bare = Features(chosen.tokenized, chosen.sequences, _alignment(self.kind, chosen), chosen.rows)
        name = self.kind.task.name
        for ids in by_length(bare, size=self.size, max_tokens=_MAX_TOKENS):
            yield ids, collate({name: ids}, {name: bare}).to(self.device)

    def rows(self, rows: Sequence[int], episode: EpisodeRows) -> tuple[Features, Mapping[str, Tensor]]:
        """Return rows as they are in an episode, and their columns."""
        narrowed = self.kind.narrow(self.pool.take(rows), episode.classes)
        return narrowed, {name: column.to(self.device) for name, column in columns_of(narrowed).items()}

    def support(self, episode: EpisodeRows) -> tuple[Tensor, Tensor]:
        """Return the support's features, ``[units, features]``, and answers, ``[units]``."""
        return units(self.features[list(episode.support)], self.answers(episode))

    def answers(self, episode: EpisodeRows) -> Tensor:
        """Return the support's answers, ``[rows]`` or ``[rows, words]``: values, or places among the outputs, −100 for none."""
        _, columns = self.rows(episode.support, episode)
        return places(self.kind.answers(columns), self.outputs(episode), self.reader.width)

    def outputs(self, episode: EpisodeRows) -> tuple[int, ...]:
        """Return the outputs of the kind's head that an episode has."""
        return tuple(self.kind.outputs_of(episode.classes))

    def measure(self, episode: EpisodeRows, outputs: Tensor) -> float:
        """Return the target's primary metric on an episode's queries; takes what :meth:`outcome` does."""
        return float(self.kind.primary_metric(self.outcome(episode, outputs)))

    def outcome(self, episode: EpisodeRows, outputs: Tensor) -> Outcome:
        """Return right answers and predictions for an episode's queries.

        Args:
            episode: The episode.
            outputs: Of the queries, ``[rows, ..., outputs of the episode]``.
        """
        taken, columns = self.rows(episode.query, episode)
        outputs = outputs[:, : columns["words"].shape[1]] if outputs.dim() == 3 else outputs
        full = spread(outputs, self.outputs(episode), self.reader.width)
        scores = self.kind.scores(full)
        table: Array | None = None if scores is None else scores.cpu().numpy()
        return self.kind.outcome(taken, self.kind.decode(full, columns), table)

    def _evaluating(self) -> Any:
        return evaluating(self.encoder)


def units(features: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features and answers of what has an answer, ``[units, features]`` and ``[units]``."""
    if answers.is_floating_point():
        return features, answers
    features = features[:, : answers.shape[1]] if answers.dim() == 2 else features
    return features[answers >= 0], answers[answers >= 0]


class evaluating:  # noqa: N801  # used as torch.no_grad is
    """Switch dropout off for a while."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def __enter__(self) -> None:
        self._training = self._module.training
        self._module.eval()

    def __exit__(self, *error: object) -> None:
        self._module.train(self._training)


def _alignment(kind: TaskKind, features: Features) -> Mapping[str, Any]:
    return kind.alignment(features.tokenized)
