"""Text generation: translation, summaries and replies, written by a small decoder on the shared encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

import mtl
from mtl.data.features import Columns, Features, Ragged, Tokenized
from mtl.data.rows import Rows
from mtl.data.vocabulary import Vocabulary
from mtl.errors import MissingExtraError
from mtl.kind import Batch, Request
from mtl.metrics import Array, Metric, Outcome
from mtl.model.encoded import Encoded
from mtl.task import Frozen
from mtl_tasks.decoder import Decoder, Search, write
from mtl_tasks.subwords import Subwords

_NOTHING = -1
_SENTENCE = re.compile(r".+?(?:[.!?](?=\s|$)|$)", re.DOTALL)
_Share = Annotated[float, Field(ge=0, lt=1)]


class GenerationOptions(Frozen):
    """Options of text generation.

    Args:
        vocabulary: ``encoder`` writes with the encoder's tokens and embeddings; ``own`` learns tokens from the targets of
            train, for a language, or upper case and accents, that the encoder does not know.
        vocabulary_size: The most tokens of an own vocabulary.
        layers: Layers of the decoder.
        dropout: Of the decoder.
        label_smoothing: Share of the probability that is spread over all tokens in training.
        longest: The most tokens of a target; longer ones are cut.
        beams: Texts that beam search follows at once.
        length_penalty: The larger, the longer the texts that beam search prefers.
        temperature: Draws tokens instead, from probabilities sharpened by it, if it is not 0.
        baseline: What is trivial: the source as it is (``copy``), or its ``first-sentence``.
    """

    vocabulary: Literal["encoder", "own"] = "encoder"
    vocabulary_size: Annotated[int, Field(ge=50)] = 8000
    layers: Annotated[int, Field(ge=1, le=12)] = 3
    dropout: _Share = 0.1
    label_smoothing: _Share = 0.1
    longest: Annotated[int, Field(ge=2, le=1024)] = 64
    beams: Annotated[int, Field(ge=1, le=32)] = 4
    length_penalty: Annotated[float, Field(ge=0)] = 0.6
    temperature: Annotated[float, Field(ge=0)] = 0.0
    baseline: Literal["copy", "first-sentence"] = "copy"


class DecoderHead(nn.Module):
    """The decoder, reading the target so far ("teacher forcing"), ``[rows, tokens, vocabulary]``."""

    def __init__(self, decoder: Decoder, start: int) -> None:
        super().__init__()
        self.decoder, self.start = decoder, start

    def forward(self, encoded: Encoded, columns: Mapping[str, Tensor]) -> Tensor:
        """Return log-odds of each token of the target; of none where there is no target."""
        states = encoded.states
        if "target" not in columns:
            return states.new_zeros(len(states), 0, len(self.decoder.bias))
        target = columns["target"].long()
        read = nn.functional.pad(target[:, :-1].clamp(min=0), (1, 0), value=self.start)
        mask = (encoded.mask > 0)[:, None, None, :]
        log_odds: Tensor = self.decoder(read, self.decoder.table(encoded), self.decoder.memory(states), mask)[0]
        return log_odds


def _sacrebleu(name: str) -> Callable[[Outcome], float]:
    """Return a metric of sacrebleu (Post 2018, arXiv:1804.08771), from 0 to 100."""

    def compute(outcome: Outcome) -> float:
        try:
            import sacrebleu
        except ImportError as error:
            raise MissingExtraError("sacrebleu", extra="generation") from error
        most = max(len(references) for references in outcome.gold)
        columns = [[row[place] if place < len(row) else None for row in outcome.gold] for place in range(most)]
        return float(getattr(sacrebleu, name)(list(outcome.predicted), columns).score)

    return compute


def _rouge(name: str) -> Callable[[Outcome], float]:
    """Return the mean F1 of a ROUGE metric (Lin 2004), of the best reference of a row, from 0 to 1."""

    def compute(outcome: Outcome) -> float:
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError as error:
            raise MissingExtraError("rouge-score", extra="generation") from error
        scorer = RougeScorer([name])
        pairs = zip(outcome.gold, outcome.predicted, strict=True)
        return float(np.mean([scorer.score_multi(references, answer)[name].fmeasure for references, answer in pairs]))

    return compute


class Generation(mtl.TaskKind):
    """A text for a text, by softmax cross-entropy on each token of the target; a unit is a token.

    The decoder attends to the shared encoder's states (Vaswani et al. 2017, arXiv:1706.03762). Rows are a ``source`` and a
    ``target``; ``references``, where there are, are what metrics compare with.
    """

    roles = {"source": True, "target": True, "references": False}
    target_roles = frozenset({"target", "references"})
    metrics = (
        Metric("chrf", _sacrebleu("corpus_chrf"), best=100.0),
        Metric("bleu", _sacrebleu("corpus_bleu"), best=100.0),
        Metric("rouge1", _rouge("rouge1")),
        Metric("rouge2", _rouge("rouge2")),
        Metric("rougeL", _rouge("rougeL")),
    )
    Options = GenerationOptions

    _subwords: Subwords | None = None

    @classmethod
    def sample(cls) -> dict[str, Any]:
        words = {"cat": "katze", "dog": "hund", "house": "haus", "bread": "brot"}
        rows = [{"source": f"the {a} is {c}", "target": f"{b} {c}"} for a, b in words.items() for c in ("old", "new")]
        return {"data": rows, "options": {"layers": 1, "longest": 8, "beams": 2, "label_smoothing": 0.0}}

    @property
    def _writes(self) -> Vocabulary | Subwords:
        return self._subwords or self.vocabulary

    @property
    def state(self) -> dict[str, Any]:
        return {"subwords": None if self._subwords is None else self._subwords.text}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._subwords = None if state["subwords"] is None else Subwords(state["subwords"])

    def fit(self, rows: Rows) -> None:
        if self.options.vocabulary == "own":
            self._subwords = Subwords.learn(rows.texts("target"), self.options.vocabulary_size)

    def requests(self, rows: Rows) -> list[Request]:
        return [*rows.texts("source", max_words=self.task.max_words)]

    def targets(self, rows: Rows, tokenized: Tokenized) -> Columns:
        self._references(rows)
        texts = rows.texts("target", max_words=self.task.max_words)
        tokens = [[*found[: self.options.longest - 1], self._writes.end] for found in self._writes.encode(texts)]
        return {"target": Ragged.of(tokens, fill=_NOTHING)}

    def units(self, batch: Batch, rows: int) -> int:
        return int((batch["target"] != _NOTHING).sum())

    @property
    def reads_embeddings(self) -> bool:
        return self._subwords is None

    def head(self, hidden: int) -> nn.Module:
        options = self.options
        decoder = Decoder(
            hidden,
            layers=options.layers,
            vocabulary=self._writes.size,
            longest=options.longest,
            dropout=options.dropout,
            own_embeddings=self._subwords is not None,
        )
        return DecoderHead(decoder, self._writes.start)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(
            outputs.flatten(0, 1),
            batch["target"].flatten().long(),
            ignore_index=_NOTHING,
            label_smoothing=self.options.label_smoothing,
        )

    def gold(self, features: Features) -> list[list[str]]:
        """Return the references of each row."""
        return self._references(features.rows)

    def decode(self, outputs: Tensor, batch: Batch) -> list[str]:
        """Return the likeliest tokens where the decoder read the target itself."""
        return [self._text(tokens) for tokens in outputs.argmax(-1).tolist()]

    def answer(self, head: nn.Module, encoded: Encoded, outputs: Tensor, batch: Batch) -> list[str]:
        """Return what the decoder writes when it reads what it wrote itself."""
        options = self.options
        search = Search(
            beams=options.beams,
            length_penalty=options.length_penalty,
            temperature=options.temperature,
            longest=options.longest,
            start=self._writes.start,
            end=self._writes.end,
        )
        with torch.no_grad():
            decoder: Any = head.decoder
            return [self._text(tokens) for tokens in write(decoder, decoder.table(encoded), encoded.states, encoded.mask, search)]

    def trivial(self) -> str:
        return ""

    def trivial_outcome(self, features: Features) -> Outcome:
        """Return the outcome of the source, or its first sentence, as the answer."""
        sources = features.rows.texts("source")
        if self.options.baseline == "first-sentence":
            sources = [found[0].strip() if (found := _SENTENCE.match(source)) else source for source in sources]
        return self.outcome(features, sources, None)

    def present(
        self, answer: Any, scores: Array | None, requests: Sequence[Request], batch: Mapping[str, Array]
    ) -> dict[str, Any]:
        return {"text": answer}

    def _text(self, tokens: Sequence[int]) -> str:
        end = self._writes.end
        return self._writes.decode(tokens[: tokens.index(end)] if end in tokens else tokens)

    def _references(self, rows: Rows) -> list[list[str]]:
        if "references" not in rows:
            return [[text] for text in rows.texts("target")]
        for index, found in enumerate(rows["references"]):
            if not isinstance(found, list) or not found or not all(isinstance(text, str) and text.strip() for text in found):
                raise rows.error(index, f"references is {found!r:.60}; a list of texts is needed. Mend it, or drop the column.")
        return [list(found) for found in rows["references"]]
