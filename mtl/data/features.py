"""Tokenised rows, made once and cached by what they were made from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mtl.data.rows import Rows, join_rows
from mtl.files import write_atomic
from mtl.metrics import Array

if TYPE_CHECKING:
    from mtl.kind import Request, TaskKind

_CHUNK = 2048
_CACHE_VERSION = "1"


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths as one flat array.

    Attributes:
        values: All lists joined, ``[sum of lengths, ...]``.
        offsets: Where each list starts, and the end, ``[lists + 1]``.
        fill: What pads a list to the longest of its batch.
    """

    values: Array
    offsets: Array
    fill: int = 0

    @classmethod
    def of(cls, lists: Sequence[Sequence[Any]], dtype: str = "int64", fill: int = 0) -> Ragged:
        """Join ``lists``."""
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(items) for items in lists], out=offsets[1:])
        flat = [item for items in lists for item in items]
        return cls(np.array(flat, dtype=dtype), offsets, fill)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Array:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> Array:
        """Length of each list, ``[lists]``."""
        return np.diff(self.offsets)

    def take(self, indices: Sequence[int]) -> Ragged:
        """Return the lists at ``indices``, in that order."""
        offsets = np.zeros(len(indices) + 1, dtype=np.int64)
        np.cumsum(self.lengths[np.asarray(indices, dtype=np.int64)], out=offsets[1:])
        values = np.concatenate([self[index] for index in indices]) if len(indices) else self.values[:0]
        return Ragged(values, offsets, self.fill)

    def padded(self, indices: Sequence[int]) -> Array:
        """Return the lists at ``indices`` as one array, ``[indices, longest]``."""
        lists = [self[index] for index in indices]
        padded = np.full((len(lists), max(map(len, lists), default=0)), self.fill, dtype=self.values.dtype)
        for row, items in enumerate(lists):
            padded[row, : len(items)] = items
        return padded


def _join_ragged(parts: Sequence[Ragged]) -> Ragged:
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))]).astype(np.int64)
    return Ragged(np.concatenate([part.values for part in parts]), offsets, parts[0].fill)


#: What a kind gives for its rows: dense arrays ``[rows, ...]`` or ragged ones.
Columns = Mapping[str, "Array | Ragged"]


@dataclass(frozen=True)
class Tokenized:
    """Sequences as the encoder reads them.

    Attributes:
        input_ids: Token ids of each sequence.
        token_type_ids: Segment of each token, for encoders that have segments.
        first_token: For each word the position of its first token, −1 if it has none or was cut off; for
            kinds that need words.
        word_chars: Start and end of each word in the text, ``[words, 2]`` flattened; for texts only.
        truncated: How many sequences were cut at the encoder's longest length.
    """

    input_ids: Ragged
    token_type_ids: Ragged | None
    first_token: Ragged
    word_chars: Ragged
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> tuple[Array, Array | None]:
        return self.input_ids[index], None if self.token_type_ids is None else self.token_type_ids[index]

    def take(self, indices: Sequence[int]) -> Tokenized:
        """Return the sequences at ``indices``, in that order."""
        segments = None if self.token_type_ids is None else self.token_type_ids.take(indices)
        first, chars = (column.take(indices) if len(column) else column for column in (self.first_token, self.word_chars))
        return Tokenized(self.input_ids.take(indices), segments, first, chars)


@dataclass(frozen=True)
class Features:
    """One split of one task, ready for batches.

    Attributes:
        tokenized: The sequences, ``sequences`` of them a row.
        sequences: How many sequences a row has.
        columns: Alignment and targets, by name.
        rows: The rows they were made from.
    """

    tokenized: Tokenized
    sequences: int
    columns: Columns
    rows: Rows
    requests: Sequence[Request] = field(repr=False, default=())

    def __len__(self) -> int:
        return len(self.tokenized) // self.sequences

    @property
    def lengths(self) -> Array:
        """Tokens of each row's longest sequence, ``[rows]``."""
        longest: Array = self.tokenized.input_ids.lengths.reshape(-1, self.sequences).max(axis=1)
        return longest

    def take(self, indices: Sequence[int]) -> Features:
        """Return the rows at ``indices``, in that order."""
        sequences = [row * self.sequences + place for row in indices for place in range(self.sequences)]
        chosen = np.asarray(indices, dtype=np.int64)
        columns = {
            name: column.take(indices) if isinstance(column, Ragged) else column[chosen] for name, column in self.columns.items()
        }
        requests = [self.requests[place] for place in sequences] if self.requests else ()
        return Features(self.tokenized.take(sequences), self.sequences, columns, self.rows.take(indices), requests)


def join(parts: Sequence[Features]) -> Features:
    """Put the rows of several splits of one task one after the other."""
    if len(parts) == 1:
        return parts[0]
    tokenized = [part.tokenized for part in parts]
    segments = [found.token_type_ids for found in tokenized if found.token_type_ids is not None]
    joined = Tokenized(
        _join_ragged([found.input_ids for found in tokenized]),
        _join_ragged(segments) if segments else None,
        _join_ragged([found.first_token for found in tokenized]),
        _join_ragged([found.word_chars for found in tokenized]),
        sum(found.truncated for found in tokenized),
    )
    columns: dict[str, Any] = {}
    for name, first in parts[0].columns.items():
        own: list[Any] = [part.columns[name] for part in parts]
        columns[name] = _join_ragged(own) if isinstance(first, Ragged) else np.concatenate(own)
    requests = [request for part in parts for request in part.requests]
    return Features(joined, parts[0].sequences, columns, join_rows([part.rows for part in parts]), requests)


class Tokenizer:
    """A Hugging Face fast tokenizer with a length limit and a cache on disk.

    Args:
        backend: The ``PreTrainedTokenizerFast``.
        max_length: The most tokens of a sequence.
        cache: Folder of cached sequences; ``None`` keeps nothing.
        segments: Whether the encoder reads ``token_type_ids``.
    """

    def __init__(self, backend: Any, max_length: int, cache: Path | None = None, *, segments: bool = True) -> None:
        self.backend, self.max_length, self.cache = backend, max_length, cache
        self.pad_id = int(backend.pad_token_id or 0)
        self.has_segments = segments and "token_type_ids" in backend.model_input_names
        backend.backend_tokenizer.no_truncation()  # set anew by every call; the fingerprint is not to depend on the last
        backend.backend_tokenizer.no_padding()
        rules = backend.backend_tokenizer.to_str()
        self._fingerprint = f"{_CACHE_VERSION}|{max_length}|{self.has_segments}|{hashlib.sha256(rules.encode()).hexdigest()}"

    def __call__(self, requests: Sequence[Request], *, words: bool = False) -> Tokenized:
        """Tokenise ``requests``, or take them from the cache; ``words`` asks for the places of words too."""
        if self.cache is None:
            return self.uncached(requests, words)
        digest = hashlib.sha256(f"{self._fingerprint}|{words}".encode())
        for request in requests:
            digest.update(repr(request).encode())
        path = self.cache / f"{digest.hexdigest()[:32]}.safetensors"
        if path.is_file():
            try:
                return self._unpack(load_file(path))
            except (SafetensorError, OSError, KeyError):
                path.unlink(missing_ok=True)  # a torn cache file is made again
        tokenized = self.uncached(requests, words)
        write_atomic(path, lambda temporary: save_file(_pack(tokenized), temporary))
        return tokenized

    def uncached(self, requests: Sequence[Request], words: bool) -> Tokenized:
        """Tokenise ``requests`` without looking at the cache."""
        ids: list[list[int]] = []
        segments: list[list[int]] = []
        firsts: list[list[int]] = []
        chars: list[list[int]] = []
        truncated = 0
        for start in range(0, len(requests), _CHUNK):
            chunk = requests[start : start + _CHUNK]
            encoded = self._encode(chunk)
            ids += encoded["input_ids"]
            segments += encoded["token_type_ids"] if self.has_segments else []
            truncated += sum(bool(encoding.overflowing) for encoding in encoded.encodings)
            for request, encoding in zip(chunk, encoded.encodings, strict=True) if words else ():
                first, spans = _words(encoding, len(request) if isinstance(request, list) else 0)
                firsts.append(first)
                chars.append([] if isinstance(request, list) else spans)
        return Tokenized(
            Ragged.of(ids, "int32", self.pad_id),
            Ragged.of(segments, "int8") if self.has_segments else None,
            Ragged.of(firsts, "int32", -1),
            Ragged.of(chars, "int32"),
            truncated,
        )

    def _encode(self, chunk: Sequence[Request]) -> Any:
        options = {"truncation": True, "max_length": self.max_length}
        options |= {"return_attention_mask": False, "return_token_type_ids": self.has_segments}
        if isinstance(chunk[0], tuple):
            return self.backend([pair[0] for pair in chunk], [pair[1] for pair in chunk], **options)
        return self.backend(list(chunk), is_split_into_words=isinstance(chunk[0], list), **options)

    def _unpack(self, arrays: dict[str, Array]) -> Tokenized:
        def ragged(name: str, fill: int = 0) -> Ragged:
            return Ragged(arrays[name], arrays[f"{name}.offsets"], fill)

        return Tokenized(
            ragged("input_ids", self.pad_id),
            ragged("token_type_ids") if self.has_segments else None,
            ragged("first_token", -1),
            ragged("word_chars"),
            int(arrays["truncated"][0]),
        )


def _pack(tokenized: Tokenized) -> dict[str, Array]:
    arrays: dict[str, Array] = {"truncated": np.array([tokenized.truncated])}
    for name in ("input_ids", "token_type_ids", "first_token", "word_chars"):
        if (column := getattr(tokenized, name)) is not None:
            arrays[name], arrays[f"{name}.offsets"] = column.values, column.offsets
    return arrays


def _words(encoding: Any, count: int) -> tuple[list[int], list[int]]:
    """Find each word's first token and characters; ``count`` is the number of words if it is known."""
    word_ids, sequence_ids, offsets = encoding.word_ids, encoding.sequence_ids, encoding.offsets
    count = count or max((w for w, s in zip(word_ids, sequence_ids, strict=True) if w is not None and s == 0), default=-1) + 1
    first = [-1] * count
    spans = [0] * (2 * count)
    for position, (word, sequence) in enumerate(zip(word_ids, sequence_ids, strict=True)):
        if word is None or sequence != 0:
            continue
        if first[word] < 0:
            first[word] = position
            spans[2 * word] = offsets[position][0]
        spans[2 * word + 1] = offsets[position][1]
    return first, spans


def default_cache() -> Path:
    """Return the cache folder: ``MTL_CACHE``, or ``mtl`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MTL_CACHE") or Path(base) / "mtl") / "tokens"


def featurize(kind: TaskKind, rows: Rows, tokenizer: Tokenizer, *, with_targets: bool = True) -> Features:
    """Turn rows into features.

    Raises:
        DataError: If a row cannot serve; names file and row.
    """
    requests = kind.requests(rows)
    tokenized = tokenizer(requests, words=kind.needs_words)
    columns = {**kind.alignment(tokenized), **(kind.targets(rows, tokenized) if with_targets else {})}
    return Features(tokenized, kind.sequences, columns, rows, requests)


def name_features(kind: TaskKind, tokenizer: Tokenizer) -> Features | None:
    """Return the written names of a kind's classes, a row each; ``None`` if it has none that can be read."""
    requests = kind.name_requests()
    if requests is None:
        return None
    rows = Rows({}, f"names of classes of task {kind.task.name!r}", range(1, len(requests) + 1))
    return Features(tokenizer.uncached(requests, False), 1, {}, rows, requests)
