"""Reader: the features of a task's rows, as a function of the encoder's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import normalize

from mtl.data.batches import Batch, Part, join_inputs
from mtl.data.episodes import Episode
from mtl.errors import ConfigError
from mtl.kind import TaskKind
from mtl.model.encoded import Encoded
from mtl.model.encoder import Encoder
from mtl.model.heads import LinearHead

_CACHE_BYTES = 2**31


class Trunk:
    """The layers below the adapted ones. If nothing in them is trained, a sequence goes through them once.

    Args:
        encoder: The encoder.
        depth: The first layer above the trunk; −1 for an encoder whose embeddings are adapted: there is no trunk.
        still: Whether nothing in it is trained as long as it is used, whatever its parameters say.
    """

    def __init__(self, encoder: Encoder, depth: int, *, still: bool = False) -> None:
        self.encoder, self.depth = encoder, depth
        above = {id(parameter) for layer in encoder.layers()[max(depth, 0) :] for parameter in layer.parameters()}
        self.parameters = [] if depth < 0 else [p for p in encoder.parameters() if id(p) not in above]
        self.frozen = still or not any(parameter.requires_grad for parameter in self.parameters)
        self._seen: dict[bytes, Tensor] = {}
        self._bytes = 0

    def __call__(self, batch: Batch, *, differentiable: bool = True) -> Tensor | None:
        """Return the states that enter the layers above, ``[sequences, tokens, hidden]``; ``None`` without a trunk."""
        if self.depth < 0:
            return None
        if not self.frozen:
            with torch.set_grad_enabled(differentiable):
                return self.encoder.trunk(batch.inputs, self.depth)
        with torch.inference_mode(mode=False), torch.no_grad():  # what is cached may meet an inner loop later
            return self._cached(batch)

    def _cached(self, batch: Batch) -> Tensor:
        mask = batch.inputs["attention_mask"]
        lengths = mask.sum(1).tolist()
        rows = torch.stack(list(batch.inputs.values()), dim=1).cpu().numpy()
        keys = [rows[place, :, :length].tobytes() for place, length in enumerate(lengths)]
        missing = [place for place, key in enumerate(keys) if key not in self._seen]
        fresh: dict[bytes, Tensor] = {}
        if missing:
            training = self.encoder.training
            self.encoder.eval()
            states = self.encoder.trunk({name: value[missing] for name, value in batch.inputs.items()}, self.depth)
            self.encoder.train(training)
            for place, found in zip(missing, states, strict=True):
                fresh[keys[place]] = found[: lengths[place]].clone()
            size = sum(found.numel() * found.element_size() for found in fresh.values())
            if self._bytes + size <= _CACHE_BYTES:
                self._seen.update(fresh)
                self._bytes += size
        parts = [fresh[key] if key in fresh else self._seen[key] for key in keys]
        padded = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        short = mask.shape[1] - padded.shape[1]
        return torch.nn.functional.pad(padded, (0, 0, 0, short)) if short else padded


@dataclass(frozen=True)
class Reading:
    """An episode as an encoder sees it; features are of length 1.

    Attributes:
        support: Features of what has an answer in the support, ``[units, features]``.
        answers: Places among the episode's outputs, or values, ``[units]``.
        query: Features of the queries, ``[rows, ..., features]``, where they were asked for.
        names: Vectors of the classes' names, ``[ways, features]``, where the episode has them.
    """

    support: Tensor
    answers: Tensor
    query: Tensor | None
    names: Tensor | None


def encode_together(encoder: Encoder, batches: Sequence[Batch]) -> list[Encoded]:
    """Encode several batches in one pass."""
    encoded = encoder(join_inputs(batches))
    found, start = [], 0
    for batch in batches:
        count, tokens = batch.inputs["attention_mask"].shape
        rows = slice(start, start + count)
        found.append(Encoded(encoded.states[rows, :tokens], encoded.mask[rows, :tokens], encoded.pooled[rows]))
        start += count
    return found


class Reader:
    """Reads the rows of one task into features of length 1, and compares answers.

    Args:
        encoder: The shared encoder.
        kind: Of the task.
        head: The kind's head; only its ``features`` are used.
        trunk: Runs the layers that are not adapted.

    Raises:
        ConfigError: If the kind cannot be learned in episodes.
    """

    def __init__(self, encoder: Encoder, kind: TaskKind, head: Any, trunk: Trunk) -> None:
        if not kind.episodic or not isinstance(head, LinearHead):
            raise ConfigError(
                f"Task {kind.task.name!r} is of kind {kind.task.kind!r}, which cannot be learned in episodes. "
                "Use the strategy joint or single for it, or leave it out."
            )
        self.encoder, self.kind, self.head, self.trunk = encoder, kind, head, trunk
        self.width = head.linear.out_features
        self.size = head.linear.in_features

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return next(self.encoder.parameters()).device

    def part(self, batch: Batch) -> Part:
        """Return the task's rows in a batch."""
        return batch.parts[self.kind.task.name]

    def features(self, batch: Batch, states: Tensor | None = None, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the features of the batch's rows, ``[rows, ..., features]``, of length 1.

        Args:
            batch: Rows of the task.
            states: What the trunk gave for them. Default: the whole encoder is run.
            parameters: Stand in for the encoder's own, by name.
        """
        depth = max(self.trunk.depth, 0)
        if parameters:
            encoded = functional_call(self.encoder, dict(parameters), (batch.inputs,), {"states": states, "depth": depth})
        else:
            encoded = self.encoder(batch.inputs, states, depth)
        return self._features_of(batch, encoded)

    def _features_of(self, batch: Batch, encoded: Encoded) -> Tensor:
        part = self.part(batch)
        return self.head.features(encoded.of(part.index), part.columns, unit=True)

    def read(self, episode: Episode) -> Reading:
        """Read an episode, its support, its queries and its names, in one pass of the whole encoder."""
        batches = [episode.support, episode.query, *([] if episode.names is None else [episode.names])]
        support, query, *names = encode_together(self.encoder, batches)
        read = self._features_of(episode.support, support), self._features_of(episode.query, query)
        return self._reading(episode, *read, names)

    def read_support(self, episode: Episode, states: Tensor | None) -> Reading:
        """Read an episode's support and its names, not its queries.

        Args:
            episode: The episode.
            states: What the trunk gave for the support; see :meth:`features`.
        """
        names = [] if episode.names is None else [self.encoder(episode.names.inputs)]
        return self._reading(episode, self.features(episode.support, states), None, names)

    def _reading(self, episode: Episode, support: Tensor, query: Tensor | None, names: Sequence[Encoded]) -> Reading:
        answers = self.answers(episode.support, episode.outputs)
        if not answers.is_floating_point():
            support, answers = support[answers >= 0], answers[answers >= 0]
        if episode.names is None:
            return Reading(support, answers, query, None)
        (part,) = episode.names.parts.values()
        return Reading(support, answers, query, normalize(names[0].of(part.index).pooled, dim=-1))

    def answers(self, batch: Batch, outputs: tuple[int, ...]) -> Tensor:
        """Return places among ``outputs`` (−100 for none), or values; ``[rows, ...]``."""
        answers = self.kind.answers(self.part(batch).columns)
        return places(answers, outputs, self.width)

    def loss(self, outputs: Tensor, batch: Batch, chosen: tuple[int, ...]) -> Tensor:
        """Return the kind's loss of an episode's outputs, ``[]``: a mean per predicted unit."""
        return self.kind.loss(spread(outputs, chosen, self.width), self.part(batch).columns)


def places(answers: Tensor, outputs: tuple[int, ...], width: int) -> Tensor:
    """Number the answers by their place among an episode's outputs.

    Args:
        answers: Numbers of outputs, −100 for none, or values; ``[rows, ...]``.
        outputs: The episode's outputs.
        width: How many outputs there are.
    """
    if answers.is_floating_point():
        return answers
    table = torch.full((width + 1,), -100, device=answers.device)
    table[torch.tensor(outputs, device=answers.device)] = torch.arange(len(outputs), device=answers.device)
    return table[answers.clamp(min=-1)]


def spread(outputs: Tensor, chosen: tuple[int, ...], width: int) -> Tensor:
    """Put an episode's outputs ``[..., chosen]`` among all of the kind, ``[..., width]``; the others are −∞."""
    if chosen == tuple(range(width)):
        return outputs
    full = outputs.new_full((*outputs.shape[:-1], width), float("-inf"))
    return full.index_copy(-1, torch.tensor(chosen, device=outputs.device), outputs)
