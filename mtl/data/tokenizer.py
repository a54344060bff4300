"""Texts as the encoder reads them: tokenised once and cached, whole or in windows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mtl.data.features import Ragged, Tokenized, WindowError
from mtl.data.spool import Spool, map_safetensors, write_safetensors
from mtl.data.vocabulary import Vocabulary
from mtl.files import write_atomic
from mtl.metrics import Array

if TYPE_CHECKING:
    from mtl.kind import Request

_CHUNK = 2048
_CACHE_VERSION = "2"


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
        self.vocabulary = Vocabulary(backend)
        self.has_segments = segments and "token_type_ids" in backend.model_input_names
        backend.backend_tokenizer.no_truncation()  # set anew by every call; the fingerprint is not to depend on the last
        backend.backend_tokenizer.no_padding()
        rules = backend.backend_tokenizer.to_str()
        self._fingerprint = f"{_CACHE_VERSION}|{max_length}|{self.has_segments}|{hashlib.sha256(rules.encode()).hexdigest()}"

    def __call__(self, requests: Sequence[Request], *, words: bool = False, stride: int | None = None) -> Tokenized:
        """Tokenise ``requests``, or take them from the cache.

        Args:
            requests: What is to be encoded.
            words: Asks for the places of words too.
            stride: Part what is too long, of a pair the second text, into windows that share so many tokens.

        Raises:
            WindowError: If a window cannot be longer than what it shares with the next.
        """
        if self.cache is None:
            return self.uncached(requests, words, stride)
        path = self._place(self.cache, [requests], words, stride)
        if path.is_file():
            try:
                return self._unpack(load_file(path))
            except (SafetensorError, OSError, KeyError):
                path.unlink(missing_ok=True)  # a torn cache file is made again
        tokenized = self.uncached(requests, words, stride)
        write_atomic(path, lambda temporary: save_file(_pack(tokenized), temporary))
        return tokenized

    def streamed(
        self, parts: Callable[[], Iterable[Sequence[Request]]], *, words: bool = False, stride: int | None = None
    ) -> Tokenized:
        """Tokenise requests that come in parts, a part in memory at a time; the cache and the result are those of a call.

        Args:
            parts: Gives the parts from the first on, whenever it is called.
            words: Asks for the places of words too.
            stride: See :meth:`__call__`.

        Raises:
            WindowError: See :meth:`__call__`.
        """
        path = None if self.cache is None else self._place(self.cache, parts(), words, stride)
        if path is not None and path.is_file():
            try:
                return self._unpack(map_safetensors(path))
            except (OSError, KeyError, ValueError):
                path.unlink(missing_ok=True)  # a torn cache file is made again
        spools: dict[str, Spool] = {}
        start = truncated = 0
        for part in parts():
            try:
                tokenized = self.uncached(part, words, stride)
            except WindowError as error:
                error.request += start
                raise
            for name, values in _pack(tokenized).items():
                if name not in spools:
                    spools[name] = Spool(self.cache)
                elif name.endswith(".offsets"):  # they go on where those of the last part ended
                    values = values[1:] + (spools[name.removesuffix(".offsets")].shape[0] - values[-1])
                spools[name].append(values + start if name == "origin" else values)
            start, truncated = start + len(part), truncated + tokenized.truncated
        spools["truncated"] = Spool(self.cache)
        spools["truncated"].append(np.array([truncated]))
        if path is None:
            return self._unpack({name: spool.mapped() for name, spool in spools.items()})
        write_atomic(path, lambda temporary: write_safetensors(temporary, spools))
        return self._unpack(map_safetensors(path))

    def _place(self, cache: Path, parts: Iterable[Sequence[Request]], words: bool, stride: int | None) -> Path:
        digest = hashlib.sha256(f"{self._fingerprint}|{words}|{stride}".encode())
        for part in parts:
            for request in part:
                digest.update(repr(request).encode())
        return cache / f"{digest.hexdigest()[:32]}.safetensors"

    def uncached(self, requests: Sequence[Request], words: bool, stride: int | None = None) -> Tokenized:
        """Tokenise ``requests`` without looking at the cache."""
        if stride is not None:
            return self._windows(requests, stride)
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

    def _encode(self, chunk: Sequence[Request], **windows: Any) -> Any:
        options = {"truncation": True, "max_length": self.max_length, **windows}
        options |= {"return_attention_mask": False, "return_token_type_ids": self.has_segments}
        if isinstance(chunk[0], tuple):
            return self.backend([pair[0] for pair in chunk], [pair[1] for pair in chunk], **options)
        return self.backend(list(chunk), is_split_into_words=isinstance(chunk[0], list), **options)

    def _windows(self, requests: Sequence[Request], stride: int) -> Tokenized:
        """Tokenise with windows: each request gives one sequence or more."""
        ids: list[list[int]] = []
        segments: list[list[int]] = []
        spans: list[list[int]] = []
        origin: list[int] = []
        for start in range(0, len(requests), _CHUNK):
            chunk = requests[start : start + _CHUNK]
            self._check_room(chunk, start, stride)
            of_pairs = isinstance(chunk[0], tuple)
            encoded = self._encode(
                chunk,
                truncation="only_second" if of_pairs else "only_first",
                stride=stride,
                return_overflowing_tokens=True,
            )
            ids += encoded["input_ids"]
            segments += encoded["token_type_ids"] if self.has_segments else []
            origin += [start + place for place in encoded["overflow_to_sample_mapping"]]
            for encoding in encoded.encodings:
                own = zip(encoding.sequence_ids, encoding.offsets, strict=True)
                spans.append([edge for sequence, span in own for edge in (span if sequence == of_pairs else (-1, -1))])
        return Tokenized(
            Ragged.of(ids, "int32", self.pad_id),
            Ragged.of(segments, "int8") if self.has_segments else None,
            Ragged.of([]),
            Ragged.of([]),
            token_chars=Ragged.of(spans, "int32", -1),
            origin=np.array(origin, dtype=np.int64),
        )

    def _check_room(self, chunk: Sequence[Request], start: int, stride: int) -> None:
        pairs = [request for request in chunk if isinstance(request, tuple)]
        taken = self.vocabulary.encode([first for first, _ in pairs]) if pairs else [[]] * len(chunk)
        around = int(self.backend.num_special_tokens_to_add(pair=bool(pairs)))
        for place, tokens in enumerate(taken):
            if self.max_length - around - len(tokens) <= stride:
                raise WindowError(start + place, len(tokens), self.max_length, stride)

    def _unpack(self, arrays: dict[str, Array]) -> Tokenized:
        def ragged(name: str, fill: int = 0) -> Ragged:
            return Ragged(arrays[name], arrays[f"{name}.offsets"], fill)

        return Tokenized(
            ragged("input_ids", self.pad_id),
            ragged("token_type_ids") if self.has_segments else None,
            ragged("first_token", -1),
            ragged("word_chars"),
            int(arrays["truncated"][0]),
            ragged("token_chars", -1),
            arrays.get("origin"),
        )


class Remembering:
    """A tokenizer that remembers the last requests, for kinds that ask for the same.

    Args:
        tokenizer: Makes the tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._seen: list[tuple[Sequence[Request], int | None, Tokenized]] = []
        self._words = False

    def with_words(self, words: bool) -> Any:
        """Return itself, from now on with the places of words if one kind needs them."""
        self._words = words
        return self

    def __call__(self, requests: Sequence[Request], *, words: bool = False, stride: int | None = None) -> Tokenized:
        """Tokenise requests, or take them from those that were seen."""
        for seen, shared, tokenized in self._seen:
            if seen == requests and shared == stride:
                return tokenized
        tokenized = self._tokenizer.uncached(requests, words or self._words, stride)
        self._seen.append((requests, stride, tokenized))
        return tokenized


def _pack(tokenized: Tokenized) -> dict[str, Array]:
    arrays: dict[str, Array] = {"truncated": np.array([tokenized.truncated])}
    if tokenized.origin is not None:
        arrays["origin"] = tokenized.origin
    for name in ("input_ids", "token_type_ids", "first_token", "word_chars", "token_chars"):
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
