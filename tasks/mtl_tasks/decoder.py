"""A small Transformer decoder on the shared encoder, with cached keys, and the search for what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from mtl.model.encoded import Encoded

Keys = tuple[Tensor, Tensor]
_HEAD_SIZE = 64


class Attention(nn.Module):
    """Attention of several heads (Vaswani et al. 2017, arXiv:1706.03762, section 3.2)."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = max(1, hidden // _HEAD_SIZE)
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden) for _ in range(4))
        self.dropout = dropout

    def keys(self, states: Tensor) -> Keys:
        """Return keys and values of what is attended to, each ``[rows, heads, tokens, size]``."""
        return self._split(self.key(states)), self._split(self.value(states))

    def forward(self, states: Tensor, keys: Keys, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """Return what ``states`` read, ``[rows, tokens, hidden]``; ``mask`` is true for what may be read."""
        read = scaled_dot_product_attention(
            self._split(self.query(states)), *keys, mask, self.dropout if self.training else 0.0, causal
        )
        found: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return found

    def _split(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)


class Layer(nn.Module):
    """A layer with norms before its parts (Xiong et al. 2020, arXiv:2002.04745), which needs no warm-up to be stable."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.own, self.cross = Attention(hidden, dropout), Attention(hidden, dropout)
        self.feed = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * hidden, hidden))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, memory: Keys, mask: Tensor, past: Keys | None) -> tuple[Tensor, Keys]:
        """Return new states, and the keys of all tokens so far."""
        normed = self.norms[0](states)
        keys = self.own.keys(normed)
        if past is not None:
            keys = (torch.cat([past[0], keys[0]], dim=2), torch.cat([past[1], keys[1]], dim=2))
        states = states + self.dropout(self.own(normed, keys, causal=past is None))
        states = states + self.dropout(self.cross(self.norms[1](states), memory, mask))
        states = states + self.dropout(self.feed(self.norms[2](states)))
        return states, keys


class Decoder(nn.Module):
    """Layers that read the tokens so far and the encoder's states.

    Args:
        hidden: Size of the encoder's states, and of the decoder's.
        layers: How many layers.
        vocabulary: How many tokens there are.
        longest: The most tokens of a text.
        dropout: In training.
        own_embeddings: Whether tokens have embeddings of their own, not the encoder's; they are read and written by the
            same ones (Press & Wolf 2017, arXiv:1608.05859).
    """

    def __init__(self, hidden: int, *, layers: int, vocabulary: int, longest: int, dropout: float, own_embeddings: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(hidden, dropout) for _ in range(layers))
        self.positions = nn.Embedding(longest + 1, hidden)
        self.entry, self.exit = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.embeddings = nn.Embedding(vocabulary, hidden) if own_embeddings else None
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=hidden**-0.5)  # so that log-odds start with a variance of 1
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def memory(self, states: Tensor) -> list[Keys]:
        """Return what each layer reads of the encoder's states, made once for a whole text."""
        return [layer.cross.keys(states) for layer in self.layers]  # type: ignore[operator, union-attr]

    def table(self, encoded: Encoded) -> Tensor:
        """Return the embeddings that tokens are read and written by, its own or the encoder's, ``[vocabulary, hidden]``."""
        return encoded.embeddings if self.embeddings is None else self.embeddings.weight

    def forward(
        self, tokens: Tensor, table: Tensor, memory: Sequence[Keys], mask: Tensor, past: Sequence[Keys] | None = None
    ) -> tuple[Tensor, list[Keys]]:
        """Return log-odds of the token after each, ``[rows, tokens, vocabulary]``, and the keys of all tokens so far.

        Args:
            tokens: The tokens to be read, ``[rows, tokens]``.
            table: See :meth:`table`.
            memory: See :meth:`memory`.
            mask: Which of the encoder's states may be read, ``[rows, 1, 1, states]``.
            past: The keys of the tokens before, one pair a layer.
        """
        offset = 0 if past is None else past[0][0].shape[2]
        places = torch.arange(offset, offset + tokens.shape[1], device=tokens.device)
        states = self.dropout(self.entry(nn.functional.embedding(tokens, table) + self.positions(places)))
        keys = []
        for number, layer in enumerate(self.layers):
            states, own = layer(states, memory[number], mask, None if past is None else past[number])
            keys.append(own)
        return linear(self.exit(states), table, self.bias), keys


@dataclass(frozen=True)
class Search:
    """How a text is written.

    Attributes:
        beams: Texts that are followed at once; 1 takes the likeliest token each time.
        length_penalty: α of ``((5 + length) / 6)^α``, which log-probabilities are divided by (Wu et al. 2016,
            arXiv:1609.08144, equation 14).
        temperature: Draws tokens if it is not 0, from probabilities sharpened by it.
        longest: The most tokens.
        start: The token that is read first.
        end: The token that ends a text.
    """

    beams: int
    length_penalty: float
    temperature: float
    longest: int
    start: int
    end: int


def write(decoder: Decoder, table: Tensor, states: Tensor, mask: Tensor, search: Search) -> list[list[int]]:
    """Write a text for each row, by beam search or by sampling, with keys kept from step to step.

    Args:
        decoder: In evaluation.
        table: What :meth:`Decoder.table` returns.
        states: The encoder's states, ``[rows, states, hidden]``.
        mask: 1 for tokens, ``[rows, states]``.
        search: How.

    Returns:
        The tokens of each row's best text, without start and end.
    """
    rows, beams = len(states), 1 if search.temperature else search.beams
    memory = [(keys.repeat_interleave(beams, 0), values.repeat_interleave(beams, 0)) for keys, values in decoder.memory(states)]
    readable = (mask > 0).repeat_interleave(beams, 0)[:, None, None, :]
    tokens = torch.full((rows * beams, 1), search.start, device=states.device)
    scores = states.new_full((rows, beams), -torch.inf)
    scores[:, 0] = 0.0  # all beams are alike at first: one goes on
    lengths = torch.zeros(rows, beams, device=states.device)
    ended = torch.zeros(rows, beams, dtype=torch.bool, device=states.device)
    past: Any = None
    generator = torch.Generator(states.device).manual_seed(0)
    for _ in range(search.longest):
        log_odds, past = decoder(tokens[:, -1:], table, memory, readable, past)
        choice = _sample if search.temperature else _best
        found = choice(log_odds[:, -1].float().log_softmax(-1), scores, lengths, ended, search, generator)
        scores, lengths, origin, chosen = found
        index = (torch.arange(rows, device=states.device).unsqueeze(1) * beams + origin).flatten()
        past = [(keys[index], values[index]) for keys, values in past]
        tokens = torch.cat([tokens[index], chosen.flatten().unsqueeze(1)], dim=1)
        ended = ended.gather(1, origin) | (chosen == search.end)
        if ended.all():
            break
    best = (scores / _penalty(lengths, search.length_penalty)).argmax(1)
    written = tokens.view(rows, beams, -1)[torch.arange(rows), best, 1:].tolist()
    return [row[: row.index(search.end)] if search.end in row else row for row in written]


def _penalty(lengths: Tensor, alpha: float) -> Tensor:
    return ((5 + lengths) / 6) ** alpha


def _best(
    log_p: Tensor, scores: Tensor, lengths: Tensor, ended: Tensor, search: Search, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scores, lengths, origins and tokens of the best continuations, each ``[rows, beams]``; what has ended stays."""
    rows, beams = scores.shape
    log_p = log_p.view(rows, beams, -1)
    stay = torch.full_like(log_p, -torch.inf)
    stay[..., search.end] = 0.0
    totals = scores.unsqueeze(-1) + torch.where(ended.unsqueeze(-1), stay, log_p)
    grown = lengths + (~ended).float()
    ranked = totals / _penalty(grown, search.length_penalty).unsqueeze(-1)
    places = ranked.flatten(1).topk(beams, dim=1).indices
    origin, chosen = places // log_p.shape[-1], places % log_p.shape[-1]
    return totals.flatten(1).gather(1, places), grown.gather(1, origin), origin, chosen


def _sample(
    log_p: Tensor, scores: Tensor, lengths: Tensor, ended: Tensor, search: Search, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scores, lengths, origins and tokens that were drawn, each ``[rows, 1]``; what has ended stays."""
    drawn = torch.multinomial((log_p / search.temperature).softmax(-1), 1, generator=generator)
    chosen = torch.where(ended, search.end, drawn)
    gained = torch.where(ended, 0.0, log_p.gather(1, drawn))
    return scores + gained, lengths + (~ended).float(), torch.zeros_like(chosen), chosen
