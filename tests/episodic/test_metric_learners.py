"""ProtoNet, R2D2 and matching networks answer as their papers' equations do, and train the encoder by them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from episodic_setup import error, gradients_of, labels_of, make_world, plain_features
from torch.nn.functional import cross_entropy, mse_loss, nll_loss, normalize
from torch.testing import assert_close

from mtl.config import EpisodesConfig
from mtl.data.batches import collate
from mtl.errors import ConfigError
from mtl.meta.closed_form import matching
from mtl_plugins.matching import Matching
from mtl_plugins.matching_network import MatchingNetwork
from mtl_plugins.protonet import ProtoNet
from mtl_plugins.prototype import Prototype
from mtl_plugins.r2d2 import R2D2
from mtl_plugins.ridge import Ridge

ALL = [ProtoNet, R2D2, MatchingNetwork]


def read(encoder, episode):
    """Features and labels of support and queries, by one pass each."""
    support, query = (plain_features(encoder, {}, batch) for batch in (episode.support, episode.query))
    return support, labels_of(episode.support, episode), query, labels_of(episode.query, episode)


def means_of(features, labels, ways):
    return torch.stack([features[labels == way].mean(0) for way in range(ways)])


def compare(world, strategy, episode, loss, factors):
    """Check a strategy's loss and gradient against those of a loss written in the test."""
    found = world.gradients(strategy, episode)
    expected = gradients_of(loss, {**dict(world.encoder.named_parameters()), **factors})
    assert strategy.episode_loss(strategy._readers[episode.task], episode).item() == pytest.approx(loss.item(), rel=1e-7)
    assert error(found, expected) <= 1e-6


def logarithm(value):
    """As learned factors are kept; the strategy makes it in float32."""
    return torch.tensor(value).log().double().requires_grad_()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_protonet_compares_queries_with_means(encoder_folder, metric):
    world = make_world(encoder_folder)
    episode, scale = world.episode(), logarithm(8.0)
    support, labels, query, wanted = read(world.encoder, episode)
    means = means_of(support, labels, 3)
    near = query @ normalize(means, dim=-1).T if metric == "cosine" else -torch.cdist(query, means).pow(2)
    loss = cross_entropy(scale.exp() * near, wanted)
    compare(world, world.prepared(ProtoNet(metric=metric, scale=8.0)), episode, loss, {"scale": scale})


def test_r2d2_fits_a_ridge_regression_to_plus_and_minus_one(encoder_folder):
    world = make_world(encoder_folder)
    episode, scale, penalty = world.episode(), logarithm(5.0), logarithm(0.7)
    support, labels, query, wanted = read(world.encoder, episode)
    x = torch.cat([support, torch.ones(6, 1).double()], dim=1)
    targets = torch.where(labels[:, None] == torch.arange(3), 1.0, -1.0).double()
    # The normal equations, though there are fewer rows than features.
    weight = torch.linalg.solve(x.T @ x + penalty.exp() * torch.eye(33).double(), x.T @ targets)
    loss = cross_entropy(scale.exp() * (query @ weight[:-1] + weight[-1]), wanted)
    compare(world, world.prepared(R2D2(penalty=0.7, scale=5.0)), episode, loss, {"scale": scale, "penalty": penalty})


def test_r2d2_fits_values_without_a_scale(encoder_folder):
    world = make_world(encoder_folder, tasks=["rating"])
    episode = world.episode("rating", ways=None, shots=6, queries=5)
    strategy = world.prepared(R2D2(penalty=0.7))
    support, query = (plain_features(world.encoder, {}, batch) for batch in (episode.support, episode.query))
    y, wanted = (batch.parts["rating"].columns["label"] for batch in (episode.support, episode.query))
    x = torch.cat([support, torch.ones(6, 1).double()], dim=1)
    weight = torch.linalg.solve(x.T @ x + 0.7 * torch.eye(33).double(), x.T @ y)
    loss = strategy.episode_loss(strategy._readers["rating"], episode)
    assert_close(loss, mse_loss(query @ weight[:-1] + weight[-1], wanted), rtol=1e-6, atol=1e-6)


def test_matching_networks_attend_to_the_support(encoder_folder):
    world = make_world(encoder_folder)
    episode, scale = world.episode(), logarithm(6.0)
    support, labels, query, wanted = read(world.encoder, episode)
    attention = torch.softmax(scale.exp() * query @ support.T, dim=-1)
    shares = torch.stack([attention[:, labels == way].sum(1) for way in range(3)], dim=1)
    compare(world, world.prepared(MatchingNetwork(scale=6.0)), episode, nll_loss(shares.log(), wanted), {"scale": scale})


def test_a_name_counts_as_a_support_row_of_protonet(encoder_folder):
    world = make_world(encoder_folder)
    # Names are sequences like others: here the first row of each class stands for its name.
    rows = {number: row for row, (number,) in reversed(list(enumerate(world.kinds["topic"].classes_of(world.features["topic"]))))}
    episode = world.episode(shots=1)
    names = collate({"topic": [rows[number] for number in episode.classes]}, world.features)
    strategy = world.prepared(ProtoNet(scale=8.0, name_weight=3.0))
    support, labels, query, wanted = read(world.encoder, episode)
    means = means_of(support, labels, 3) + 3 * plain_features(world.encoder, {}, names)
    expected = cross_entropy(8 * query @ normalize(means, dim=-1).T, wanted)
    loss = strategy.episode_loss(strategy._readers["topic"], replace(episode, names=names))
    assert_close(loss, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize("task", ["topic", "places"])
def test_a_part_of_the_classes_gives_finite_gradients_of_all_that_is_trained(encoder_folder, task, strategy):
    world = make_world(encoder_folder, dtype=torch.float32, tasks=[task])
    prepared = world.prepared(strategy())
    found = world.gradients(prepared, world.episode(task, ways=2))
    assert found.keys() == dict(world.encoder.named_parameters()).keys() | prepared._learned.keys()
    assert all(bool(value.isfinite().all()) for value in found.values())


def test_words_of_token_classification_are_rows_of_a_support(encoder_folder):
    world = make_world(encoder_folder, tasks=["places"])
    episode, strategy = world.episode("places", ways=2), world.prepared(ProtoNet(scale=8.0))
    reader = strategy._readers["places"]
    outputs = list(episode.outputs)

    def words(batch):
        tags = batch.parts["places"].columns["tags"]
        first = batch.parts["places"].columns["words"]
        states = normalize(world.encoder(batch.inputs).of(batch.parts["places"].index).states, dim=-1)
        picked = [states[row, first[row, word]] for row, word in (tags >= 0).nonzero().tolist()]
        return torch.stack(picked), torch.tensor([outputs.index(tag) for tag in tags[tags >= 0].tolist()])

    (support, labels), (query, wanted) = words(episode.support), words(episode.query)
    # I- tags are outputs of the episode without a word of the support: all is as far from them as can be.
    means = torch.stack([support[labels == place].sum(0) / max(1, int((labels == place).sum())) for place in range(5)])
    cosines = torch.where(means.any(-1), query @ normalize(means, dim=-1).T, -1.0)
    assert not means.any(-1).all()
    expected = cross_entropy(8 * cosines, wanted)
    assert_close(strategy.episode_loss(reader, episode), expected, rtol=1e-6, atol=1e-6)


def test_protonet_needs_classes(encoder_folder):
    with pytest.raises(ConfigError, match=r"Task 'rating': kind 'regression' has no classes, which protonet needs"):
        ProtoNet().prepare(make_world(encoder_folder, tasks=["rating"]).model)


@pytest.mark.parametrize(
    "strategy",
    [ProtoNet(scale=8.0), ProtoNet(metric="euclidean", scale=8.0), R2D2(penalty=0.5, scale=5.0), MatchingNetwork(scale=8.0)],
)
def test_a_target_is_answered_with_the_probabilities_that_were_trained(encoder_folder, strategy):
    world = make_world(encoder_folder)
    prepared, episode = world.prepared(strategy), world.episode()
    for value in prepared.parameters():
        value.data += 0.7  # as training moves it
    reader = prepared._readers["topic"]
    with torch.no_grad():
        reading = reader.read(episode)
        trained = prepared.answer(reading, reading.query, 3).softmax(-1)
    adaptation = prepared.adaptation(EpisodesConfig())
    if isinstance(adaptation, Matching):
        answered = matching(reading.support, reading.answers, 3, reading.query, adaptation.scale)
    else:
        answered = adaptation.fit(reading.support, reading.answers, 3, None)(reading.query)
    assert_close(answered.softmax(-1), trained, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("strategy", ALL)
def test_learned_factors_come_back_and_stay_the_optimiser_s(encoder_folder, strategy):
    world = make_world(encoder_folder)
    one, again = world.prepared(strategy()), world.prepared(strategy())
    for value in one.parameters():
        value.data += 0.5
    before = [id(parameter) for parameter in again.parameters()]
    again.load_state_dict(one.state_dict())
    assert [id(parameter) for parameter in again.parameters()] == before
    assert [value.item() for value in again.parameters()] == [value.item() for value in one.parameters()]


def test_targets_are_learned_as_was_practised(encoder_folder):
    world, episodes = make_world(encoder_folder), EpisodesConfig(names=True)
    by_name = world.prepared(ProtoNet(metric="euclidean", name_weight=2.0)).adaptation(episodes)
    assert by_name == Prototype(metric="euclidean", scale=pytest.approx(10.0), name_weight=2.0)
    assert world.prepared(ProtoNet(scale=7.0)).adaptation(EpisodesConfig()) == Prototype(
        scale=pytest.approx(7.0), name_weight=0.0
    )
    ridge, matching = world.prepared(R2D2(penalty=0.5)), world.prepared(MatchingNetwork(scale=4.0))
    assert isinstance(ridge.adaptation(episodes), Ridge)
    assert ridge.adaptation(episodes).penalty == pytest.approx(0.5)
    assert isinstance(matching.adaptation(episodes), Matching)
    assert matching.adaptation(episodes).scale == pytest.approx(4.0)


@pytest.mark.parametrize("strategy", ALL)
def test_training_lowers_the_loss(encoder_folder, strategy):
    world = make_world(encoder_folder, dtype=torch.float32)
    prepared = world.prepared(strategy())
    optimizer = torch.optim.AdamW([*world.encoder.parameters(), *prepared.parameters()], lr=3e-3)
    losses = []
    for seed in range(15):
        report = prepared.fill_gradients(world.model, [world.episode(seed=seed)])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(report.losses["topic"]))
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
