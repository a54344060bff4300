"""What tests of episodes share: a small model without dropout, tasks of three kinds, episodes, and a loop to compare with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear, normalize

from mtl.config import EncoderConfig
from mtl.data.batches import Batch
from mtl.data.episodes import Episode, Pool, collate_episode
from mtl.data.features import Features, featurize
from mtl.data.rows import Rows
from mtl.kind import TaskKind
from mtl.model.encoder import load_encoder
from mtl.model.multitask import MultiTaskModel
from mtl.task import Task
from mtl_tasks.classification import Classification
from mtl_tasks.regression import Regression
from mtl_tasks.token_classification import TokenClassification

TOPICS = ["cat", "dog", "mat", "paris"]


def topic_columns(rows=24):
    """Four classes; texts of three to eight words."""
    texts = [f"the {TOPICS[n % 4]} is {'very ' * (n % 5)}good {n}" for n in range(rows)]
    return {"text": texts, "label": [TOPICS[n % 4] for n in range(rows)]}


def rating_columns(rows=24):
    return {"text": [f"{'very ' * (n % 4)}good {n}" for n in range(rows)], "label": [float(n % 4) for n in range(rows)]}


def place_columns(rows=24):
    """Rows with an entity of one of three types, and every fourth with two of them."""
    tokens, tags = [], []
    for n in range(rows):
        kind = ("person", "place", "animal")[n % 3]
        word = ("bob", "paris", "cat")[n % 3]
        tokens.append([word, "is", *["very"] * (n % 4), "good", "london" if n % 4 == 0 else "fine"])
        tags.append([f"B-{kind}", *["O"] * (n % 4 + 2), "B-place" if n % 4 == 0 else "O"])
    return {"tokens": tokens, "tags": tags}


KINDS = {
    "topic": (Classification, topic_columns),
    "rating": (Regression, rating_columns),
    "places": (TokenClassification, place_columns),
}


def make_kind(name, tokenizer=None):
    """A kind fitted on its rows, and their features."""
    cls, columns = KINDS[name]
    kind = cls(Task(name=name, kind=cls.__name__.lower(), data=[]))
    values = columns()
    rows = Rows(values, name, range(1, len(next(iter(values.values()))) + 1), name)
    kind.fit(rows)
    return kind, None if tokenizer is None else featurize(kind, rows, tokenizer)


@dataclass
class World:
    """A model and its tasks."""

    model: MultiTaskModel
    kinds: dict[str, TaskKind]
    features: dict[str, Features]
    dtype: torch.dtype

    @property
    def encoder(self):
        return self.model.encoder

    def episode(self, task="topic", *, ways=3, shots=2, queries=2, seed=0) -> Episode:
        import numpy as np

        pool = Pool(self.features[task], self.kinds[task], shots + queries)
        rows = pool.draw(np.random.default_rng(seed), task, ways, shots, queries)
        episode = collate_episode(rows, self.features[task], self.kinds[task])
        return replace(episode, support=self.cast(episode.support), query=self.cast(episode.query))

    def cast(self, batch: Batch) -> Batch:
        def columns(part):
            return {key: value.to(self.dtype) if value.is_floating_point() else value for key, value in part.columns.items()}

        return replace(batch, parts={name: replace(part, columns=columns(part)) for name, part in batch.parts.items()})

    def prepared(self, strategy):
        strategy.prepare(self.model)
        for name, parameter in strategy._learned.items():
            strategy._learned[name] = torch.nn.Parameter(parameter.detach().to(self.dtype))
        return strategy

    def gradients(self, strategy, episode) -> dict[str, Tensor]:
        """The meta-gradient of all that is trained, by name."""
        self.model.zero_grad(set_to_none=True)
        strategy._learned.zero_grad(set_to_none=True)
        strategy.episode_loss(strategy._readers[episode.task], episode).backward()
        found = {name: p.grad.clone() for name, p in self.encoder.named_parameters() if p.grad is not None}
        return found | {name: p.grad.clone() for name, p in strategy._learned.items() if p.grad is not None}


def make_world(folder, *, dtype=torch.float64, attention="sdpa", tasks=("topic",), **encoder) -> World:
    """A model for some tasks; the encoder is without dropout unless it is asked for."""
    config = EncoderConfig(name=str(folder), **{"max_length": 32, "dropout": 0.0, **encoder})
    loaded = load_encoder(config, folder, attention=attention)
    kinds, features = {}, {}
    for name in tasks:
        kinds[name], features[name] = make_kind(name, loaded.tokenizer)
    model = MultiTaskModel(loaded, kinds, lambda name: 0).to(dtype).train()
    return World(model, kinds, features, dtype)


def error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative error of a tensor; one that is next to nothing counts beside the largest of all."""
    assert found.keys() == expected.keys()
    found, expected = ({name: value.detach() for name, value in one.items()} for one in (found, expected))
    largest = max(float(value.norm()) for value in expected.values())
    assert largest > 0
    return max(float((found[name] - value).norm()) / max(float(value.norm()), 1e-3 * largest) for name, value in expected.items())


def labels_of(batch: Batch, episode: Episode) -> Tensor:
    """Places of the labels among the episode's classes."""
    labels = batch.parts[episode.task].columns["label"].tolist()
    return torch.tensor([episode.classes.index(label) for label in labels])


def plain_features(encoder, parameters, batch):
    (part,) = batch.parts.values()
    return normalize(functional_call(encoder, parameters, (batch.inputs,)).of(part.index).pooled, dim=-1)


def plain_loss(encoder, theta, batch, episode, scale):
    """The loss on rows, by one pass of the whole encoder."""
    own = {name: value for name, value in theta.items() if not name.startswith("head")}
    outputs = linear(scale * plain_features(encoder, own, batch), theta["head.weight"], theta["head.bias"])
    return cross_entropy(outputs, labels_of(batch, episode))


def plain_maml(encoder, names, episode, *, steps, rate, scale=10.0, rate_of=None, head=None):
    """The query loss after an inner loop as one writes it down, the graph of all of it kept.

    Args:
        encoder: With eager attention, which can be differentiated twice.
        names: What is adapted.
        episode: Of a classification task.
        steps: How many.
        rate: Inner rate.
        scale: Of features.
        rate_of: Gives the rate of a parameter at a step, if it is learned.
        head: Where the head starts, weight and bias. Default: at zeros.
    """
    like = next(encoder.parameters())
    ways = len(episode.classes)
    weight, bias = head or (like.new_zeros(ways, like.shape[-1]).requires_grad_(), like.new_zeros(ways).requires_grad_())
    parameters = dict(encoder.named_parameters())
    # Copies, so that what a head's start owes to the parameters is no part of a step's gradient.
    theta = {name: parameters[name].clone() for name in names} | {"head.weight": weight.clone(), "head.bias": bias.clone()}
    for step in range(steps):
        loss = plain_loss(encoder, theta, episode.support, episode, scale)
        found = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        theta = {
            name: value - (rate if rate_of is None else rate_of(name, step)) * gradient
            for (name, value), gradient in zip(theta.items(), found, strict=True)
        }
    return plain_loss(encoder, theta, episode.query, episode, scale)


def gradients_of(loss, named) -> dict[str, Tensor]:
    """The gradient of a loss by named tensors that it depends on."""
    named = dict(named)
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}
