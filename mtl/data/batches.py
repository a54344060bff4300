"""Batches: rows of one or more tasks, padded together for one encoder pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mtl.data.features import Features, Ragged, Tokenized
from mtl.kind import TaskKind

#: Rows of one task, by index into its split.
RowIds = Sequence[int]


@dataclass(frozen=True)
class Part:
    """The rows of one task in a batch.

    Attributes:
        index: Which of the batch's sequences are this task's, ``[rows * sequences]``; ``None`` for all, in order.
        columns: The kind's columns, ``[rows, ...]``.
        rows: How many rows.
        units: How many units the loss is a mean over.
        counts: Sequences of each row, ``[rows]``, where rows differ in that.
    """

    index: Tensor | None
    columns: Mapping[str, Tensor]
    rows: int
    units: int
    counts: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Sequences for one encoder pass, and what each task has to do with them.

    Attributes:
        inputs: ``input_ids``, ``attention_mask`` and, for some encoders, ``token_type_ids``, each ``[sequences, tokens]``.
        parts: Task name → its rows.
    """

    inputs: Mapping[str, Tensor]
    parts: Mapping[str, Part]

    @property
    def rows(self) -> int:
        """Rows of all tasks together."""
        return sum(part.rows for part in self.parts.values())

    @property
    def rows_by_task(self) -> dict[str, int]:
        """Rows of each task."""
        return {name: part.rows for name, part in self.parts.items()}

    @property
    def batches(self) -> list[Batch]:
        """The batch itself, as an episode has several."""
        return [self]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        if device.type == "cpu":
            return self
        parts = {
            name: replace(
                part,
                index=None if part.index is None else _send(part.index, device),
                columns={key: _send(value, device) for key, value in part.columns.items()},
                counts=None if part.counts is None else _send(part.counts, device),
            )
            for name, part in self.parts.items()
        }
        return Batch({key: _send(value, device) for key, value in self.inputs.items()}, parts)


def _send(value: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; to a CUDA device from pinned memory, so that nobody waits for the copy."""
    if device.type != "cuda" or value.device.type != "cpu":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)


def collate(rows: Mapping[str, RowIds], features: Mapping[str, Features], kinds: Mapping[str, TaskKind] | None = None) -> Batch:
    """Put rows of one or more tasks into one batch. A sequence that several tasks share is encoded once.

    Args:
        rows: Task name → its rows in the batch.
        features: Task name → the split that the rows are of.
        kinds: Count the units of a loss. Without them there are no targets and no loss, and a row is a unit.
    """
    chosen: list[tuple[Tokenized, int]] = []
    places: dict[bytes, int] = {}
    parts: dict[str, Part] = {}
    for name, ids in rows.items():
        split = features[name]
        index = []
        for row in ids:
            for sequence in split.places(row):
                tokens, segments = split.tokenized[sequence]
                key = tokens.tobytes() + (b"" if segments is None else segments.tobytes())
                place = places.setdefault(key, len(chosen))
                if place == len(chosen):
                    chosen.append((split.tokenized, sequence))
                index.append(place)
        columns = {key: _column(value, ids) for key, value in split.columns.items()}
        units = len(ids) if kinds is None else kinds[name].units(columns, len(ids))
        counts = None if isinstance(split.sequences, int) else torch.from_numpy(split.sequences[np.asarray(ids, dtype=np.int64)])
        parts[name] = Part(torch.tensor(index), columns, len(ids), units, counts)
    everything = torch.arange(len(chosen))
    for name, part in parts.items():
        if part.index is not None and torch.equal(part.index, everything):
            parts[name] = replace(part, index=None)
    return Batch(_pad(chosen), parts)


def join_inputs(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Put the sequences of several batches one after the other, padded to the longest of all."""
    longest = max(batch.inputs["attention_mask"].shape[1] for batch in batches)
    return {
        name: torch.cat([pad(batch.inputs[name], (0, longest - batch.inputs[name].shape[1])) for batch in batches])
        for name in batches[0].inputs
    }


def join(batches: Sequence[Batch]) -> Batch:
    """Put batches of different tasks into one. A sequence that several of them have is there for each."""
    if len(batches) == 1:
        return batches[0]
    parts, start = {}, 0
    for batch in batches:
        count = len(batch.inputs["attention_mask"])
        for name, part in batch.parts.items():
            index = torch.arange(count, device=batch.inputs["attention_mask"].device) if part.index is None else part.index
            parts[name] = replace(part, index=index + start)
        start += count
    return Batch(join_inputs(batches), parts)


def columns_of(features: Features) -> dict[str, Tensor]:
    """Return the columns of all rows as tensors, ``[rows, ...]``, without the sequences."""
    return {key: _column(value, range(len(features))) for key, value in features.columns.items()}


def _column(values: Ragged | np.ndarray, ids: RowIds) -> Tensor:
    return torch.from_numpy(values.padded(ids) if isinstance(values, Ragged) else values[np.asarray(ids, dtype=np.int64)])


def _pad(chosen: Sequence[tuple[Tokenized, int]]) -> dict[str, Tensor]:
    sequences = [tokenized[index] for tokenized, index in chosen]
    longest = max(len(tokens) for tokens, _ in sequences)
    fill = chosen[0][0].input_ids.fill
    ids = np.full((len(sequences), longest), fill, dtype=np.int64)
    mask = np.zeros_like(ids)
    segments = np.zeros_like(ids)
    for row, (tokens, types) in enumerate(sequences):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        if types is not None:
            segments[row, : len(tokens)] = types
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if sequences[0][1] is not None:
        inputs["token_type_ids"] = torch.from_numpy(segments)
    return inputs


def by_length(features: Features, *, size: int, max_tokens: int) -> Iterator[list[int]]:
    """Yield the rows of a split in batches of similar length, longest first, for evaluation and prediction."""
    lengths = features.lengths
    order = [int(row) for row in np.argsort(-lengths, kind="stable")]
    yield from cut(order, lengths, features.sequences, size=size, max_tokens=max_tokens)


def cut(
    rows: Sequence[int], lengths: np.ndarray, sequences: np.ndarray | int, *, size: int, max_tokens: int
) -> Iterator[list[int]]:
    """Cut ``rows`` into batches of at most ``size`` rows and ``max_tokens`` tokens, padding counted.

    Args:
        rows: In the order of the batches.
        lengths: Tokens of each row's longest sequence, ``[rows]``.
        sequences: How many sequences each row has, ``[rows]``, or all of them.
        size: The most rows of a batch.
        max_tokens: The most tokens of a batch; a single row may have more.
    """
    each = np.broadcast_to(sequences, lengths.shape)
    batch: list[int] = []
    longest = count = 0
    for row in rows:
        longest, count = max(longest, int(lengths[row])), count + int(each[row])
        if batch and (len(batch) == size or longest * count > max_tokens):
            yield batch
            batch, longest, count = [], int(lengths[row]), int(each[row])
        batch.append(row)
    if batch:
        yield batch
