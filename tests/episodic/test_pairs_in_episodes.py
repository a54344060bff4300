"""Pairs of texts are learned in episodes too, read as one sequence or as two."""

from __future__ import annotations

import pytest
import torch
from episodic_setup import World, error, gradients_of, labels_of, make_world
from torch.func import functional_call
from torch.nn.functional import cosine_similarity, cross_entropy, linear, normalize

from mtl.data.features import featurize
from mtl.data.rows import Rows
from mtl.model.multitask import MultiTaskModel
from mtl.task import Task
from mtl_plugins.maml import MAML
from mtl_plugins.protonet import ProtoNet
from mtl_tasks.pair_classification import PairClassification

LABELS = ["apart", "like", "same"]
PAIRINGS = pytest.mark.parametrize("pairing", ["cross", "bi"])


def make_pairs(folder, pairing, attention="sdpa"):
    """Three classes; the second text is the first with another word, or without it, or as it is."""
    encoder = make_world(folder, attention=attention).encoder
    kind = PairClassification(Task(name="pairs", kind="pair-classification", data=[], options={"pairing": pairing}))
    texts = [f"the {('cat', 'dog', 'mat')[n % 3]} is {'very ' * (n % 4)}good" for n in range(24)]
    changed = [text.replace("good", ("bad", "fine good", "good")[n // 8]) for n, text in enumerate(texts)]
    columns = {"text": texts, "text_pair": changed, "label": [LABELS[n // 8] for n in range(24)]}
    rows = Rows(columns, "pairs", range(1, 25), "pairs")
    kind.fit(rows)
    model = MultiTaskModel(encoder, {"pairs": kind}, lambda name: 0).to(torch.float64).train()
    return World(model, {"pairs": kind}, {"pairs": featurize(kind, rows, encoder.tokenizer)}, torch.float64)


def features_of(encoder, own, batch, pairing):
    """Features of length 1: the vector of both texts, or half of u and of v, |u − v|, u · v and cos(u, v)."""
    (part,) = batch.parts.values()
    pooled = normalize(functional_call(encoder, own, (batch.inputs,)).of(part.index).pooled, dim=-1)
    if pairing == "cross":
        return pooled
    u, v = pooled[0::2], pooled[1::2]
    return normalize(torch.cat([u / 2, v / 2, (u - v).abs(), u * v, cosine_similarity(u, v).unsqueeze(-1)], dim=-1), dim=-1)


@PAIRINGS
def test_protonet_compares_pairs_with_the_means_of_pairs(encoder_folder, pairing):
    world = make_pairs(encoder_folder, pairing)
    episode = world.episode("pairs")
    assert world.kinds["pairs"].sequences == {"cross": 1, "bi": 2}[pairing]
    support, query = (features_of(world.encoder, {}, batch, pairing) for batch in (episode.support, episode.query))
    labels = labels_of(episode.support, episode)
    means = torch.stack([support[labels == way].mean(0) for way in range(3)])
    loss = cross_entropy(8.0 * query @ normalize(means, dim=-1).T, labels_of(episode.query, episode))
    strategy = world.prepared(ProtoNet(scale=8.0))
    found = world.gradients(strategy, episode)
    found.pop("scale")
    assert strategy.episode_loss(strategy._readers["pairs"], episode).item() == pytest.approx(loss.item(), rel=1e-6)
    assert error(found, gradients_of(loss, world.encoder.named_parameters())) <= 1e-6


@PAIRINGS
def test_maml_on_pairs_has_the_meta_gradient_of_a_plain_loop(encoder_folder, pairing):
    world, other = (make_pairs(encoder_folder, pairing, attention) for attention in ("sdpa", "eager"))
    episode = world.episode("pairs")
    strategy = world.prepared(MAML(steps=3, rate=0.05, clip=None))
    parameters = dict(other.encoder.named_parameters())
    size = 32 if pairing == "cross" else 4 * 32 + 1
    head = {"head.weight": torch.zeros(3, size).double(), "head.bias": torch.zeros(3).double()}
    theta = {name: parameters[name] for name in strategy.adapted} | {name: zeros.requires_grad_() for name, zeros in head.items()}

    def loss_on(batch):
        own = {name: value for name, value in theta.items() if name in parameters}
        outputs = linear(10.0 * features_of(other.encoder, own, batch, pairing), theta["head.weight"], theta["head.bias"])
        return cross_entropy(outputs, labels_of(batch, episode))

    for _ in range(3):
        slopes = torch.autograd.grad(loss_on(episode.support), list(theta.values()), create_graph=True)
        theta = {name: value - 0.05 * slope for (name, value), slope in zip(theta.items(), slopes, strict=True)}
    expected = gradients_of(loss_on(episode.query), parameters)
    assert error(world.gradients(strategy, episode), expected) <= 1e-6
