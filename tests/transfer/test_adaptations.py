"""Adaptations: each learns what can be learned, and does what its source says."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import entity_rows, make_encoder, rating_rows, splits
from torch.nn.functional import normalize
from torch.testing import assert_close
from toys import apart, episode_of, given, load, load_tiny, pool_of, topic_splits

from mtl.components import Builder
from mtl.config import Choice, EncoderConfig, EpisodesConfig
from mtl.data.episodes import EpisodeRows
from mtl.errors import ConfigError, MissingExtraError, TrainingError
from mtl.meta.closed_form import Names
from mtl.model.encoder import load_encoder
from mtl.model.multitask import MultiTaskModel
from mtl.plugins import load_plugins
from mtl.training.weighting import TaskLoss
from mtl.transfer.beside import BesideUntouched
from mtl.transfer.measure import measure, trivial_of
from mtl.transfer.space import Space
from mtl_plugins.adapter_tuning import AdapterTuning
from mtl_plugins.contrastive import Contrastive, pair_loss
from mtl_plugins.full import FullFineTuning
from mtl_plugins.head_only import HeadOnly
from mtl_plugins.logistic import Logistic
from mtl_plugins.lora import LoRA
from mtl_plugins.lora_tuning import LoRATuning
from mtl_plugins.matching import Matching
from mtl_plugins.prototype import Prototype
from mtl_plugins.ridge import Ridge
from mtl_plugins.soft_k_means import SoftKMeans
from mtl_plugins.top_layers import TopLayers

OF_FEATURES = [Prototype(), Prototype(metric="euclidean"), Ridge(), Logistic(), Matching()]
TRANSDUCTIVE = [SoftKMeans()]
TUNING = [HeadOnly(), TopLayers(layers=1, rate=1e-3), FullFineTuning(rate=1e-3)]
PULLING = [Contrastive(rate=1e-3), Contrastive(rate=1e-3, layers=1)]


def name_of(adaptation):
    return type(adaptation).__name__.lower()


@pytest.fixture
def encoder(encoder_folder):
    return load_tiny(encoder_folder)


@pytest.fixture
def space(encoder):
    """Three classes; each text is mostly its label."""
    target = load(encoder, topic_splits())
    return Space(encoder, target, pool_of(target))


def random(rows, size, seed=0):
    return normalize(torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("adaptation", [*OF_FEATURES, *TRANSDUCTIVE], ids=name_of)
def test_classes_that_lie_apart_are_told_apart(space, adaptation):
    assert measure(apart(space), episode_of(space.target, 3), adaptation) == 1.0  # chance is 1/3


@pytest.mark.parametrize("adaptation", [*OF_FEATURES, *TRANSDUCTIVE, *TUNING, *PULLING], ids=name_of)
def test_texts_are_learned_from_five_rows_a_class(space, adaptation):
    assert measure(space, episode_of(space.target, 5), adaptation) >= 0.6  # chance is 1/3


@pytest.mark.parametrize("adaptation", [*OF_FEATURES, *TRANSDUCTIVE], ids=name_of)
def test_a_class_without_support_is_no_answer(space, adaptation):
    whole = episode_of(space.target, 5)
    answers = space.support(whole)[1].tolist()
    without = replace(whole, support=tuple(row for row, place in zip(whole.support, answers, strict=True) if place != 1))
    answered = adaptation.adapt(space, without)(without.query).argmax(-1)
    assert set(answered.tolist()) == {0, 2}


@pytest.mark.parametrize("adaptation", [*OF_FEATURES, *TRANSDUCTIVE, *TUNING, *PULLING], ids=name_of)
def test_an_episode_may_have_some_of_the_classes_in_any_order(space, adaptation):
    # Rows are cat, dog, bob in turn, and the labels are bob, cat, dog: dogs and bobs, dogs first.
    episode = EpisodeRows("topic", (2, 0), (1, 4, 7, 2, 5, 8), tuple(range(31, 42, 3)) + tuple(range(32, 42, 3)))
    outputs = adaptation.adapt(apart(space), episode)(episode.query)
    assert outputs.shape == (8, 2)
    if adaptation in [*OF_FEATURES, *TRANSDUCTIVE]:
        assert outputs.argmax(-1).tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    "adaptation", [Ridge(), Prototype(), Prototype(metric="euclidean"), SoftKMeans(), *TUNING, *PULLING], ids=repr
)
def test_entities_are_learned_from_words(encoder, adaptation):
    target = load(encoder, splits(entity_rows(40)), "token-classification")
    space = Space(encoder, target, pool_of(target))
    assert measure(space, episode_of(target, 4), adaptation) > 0.5  # a tagger of O alone has 0


@pytest.mark.parametrize("adaptation", [Ridge(penalty=0.1), Matching(scale=50), *TUNING], ids=name_of)
def test_values_are_learned(encoder, adaptation):
    target = load(encoder, splits(rating_rows(64)), "regression", metric="mae")
    space = Space(encoder, target, pool_of(target))
    if not isinstance(adaptation, (Ridge, Matching)):
        adaptation = type(adaptation)(steps=60, **{"layers": 1} if isinstance(adaptation, TopLayers) else {})
    assert measure(space, episode_of(target, 24), adaptation) < 0.8 * trivial_of(target, space.pool)


@pytest.mark.parametrize("adaptation", [Prototype(), Logistic(), Contrastive(), SoftKMeans()], ids=name_of)
def test_values_are_refused_where_classes_are_needed(encoder, adaptation):
    target = load(encoder, splits(rating_rows(32)), "regression")
    with pytest.raises(ConfigError, match="needs classes, and the target has values. Use ridge"):
        adaptation.adapt(Space(encoder, target, pool_of(target)), episode_of(target, 4))


def test_pairs_of_a_class_and_of_two_count_alike():
    features = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=-1)
    half = 0.5**0.5
    # One pair is of a class and is right. Of the five others two have cosine 0, and three have the half's.
    assert_close(pair_loss(features, torch.tensor([0, 0, 1, 2])), torch.tensor((0 + 3 * half**2 / 5) / 2))
    assert_close(pair_loss(features[[0, 2]], torch.tensor([0, 0])), torch.tensor(1.0))  # no pair of two classes
    assert pair_loss(features[:1], torch.tensor([0])) == 0  # no pair at all


def test_contrastive_tuning_draws_a_class_together(space):
    episode = episode_of(space.target, 4)
    answers = space.support(episode)[1]
    losses = []
    for steps in (1, 20):
        found = Contrastive(steps=steps, rate=1e-3).adapt(space, episode)
        losses.append(pair_loss(space.encode(episode.support, found.parameters, found.depth), answers))
    assert losses[1] < 0.8 * losses[0]


def test_contrastive_tuning_moves_the_last_layers(space):
    found = {layers: Contrastive(layers=layers).adapt(space, episode_of(space.target, 4)) for layers in (1, 2)}
    assert [found[layers].depth for layers in (1, 2)] == [1, 0]
    assert set(found[2].parameters) > set(found[1].parameters)
    with pytest.raises(ConfigError, match="the last 9 layers are asked for, but the encoder has 2"):
        Contrastive(layers=9).adapt(space, episode_of(space.target, 4))


@pytest.mark.parametrize(
    ("classes", "rows", "layers", "depth", "steps"),
    [(2, 8, 3, 1, 8), (2, 30, 3, 1, 12), (2, 8, 1, 0, 8), (3, 30, 3, 0, 12), (3, 120, 3, 0, 20)],
)
def test_contrastive_tuning_goes_by_the_classes_and_the_rows(tmp_path, monkeypatch, classes, rows, layers, depth, steps):
    encoder = load_tiny(make_encoder(tmp_path, layers=layers))
    target = load(encoder, splits([{"text": f"word {n}", "label": f"class {n % classes}"} for n in range(2 * rows)]))
    losses = []
    monkeypatch.setattr("mtl_plugins.contrastive.pair_loss", lambda *given: losses.append(pair_loss(*given)) or losses[-1])
    episode = EpisodeRows("topic", tuple(range(classes)), tuple(range(rows)), (0,))
    found = Contrastive().adapt(Space(encoder, target, pool_of(target)), episode)
    assert (found.depth, len(losses)) == (depth, steps)


@pytest.mark.parametrize(
    "strategy",
    ["maml", "fomaml", "anil", "reptile", "imaml", "meta-sgd", "kfo", "protomaml", "protonet", "matching", "r2d2"],
)
def test_what_a_strategy_has_practised_is_an_adaptation(encoder, space, strategy):
    build = Builder(load_plugins())
    rate = {"rate": 0.1} if strategy == "anil" else {}  # a rate of 1 goes too far where features are so alike
    made = build("strategy", Choice(name=strategy, **rate))
    made.setup([TaskLoss("topic", 1.0, 1.0)], build)
    made.prepare(MultiTaskModel(encoder, {"topic": space.kind}, lambda name: 0))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert measure(space, episode_of(space.target, 5), made.adaptation(EpisodesConfig())) >= 0.6
    assert_close(dict(encoder.state_dict()), before, rtol=0, atol=0)


def test_prototypes_are_means(space):
    features = torch.eye(32)[[0, 1, 0, 2, 1, 1]]
    pool = torch.cat([features, torch.ones(36, 32)])
    # cat, dog, bob, cat, dog, bob; the labels are bob, cat, dog.
    head = Prototype(scale=2.0).adapt(given(space, pool), EpisodeRows("topic", (1, 2), (0, 3, 1, 4), ())).head
    cat, dog = torch.zeros(32), torch.zeros(32)
    cat[0] = cat[2] = 0.5**0.5  # the mean of e0 and e2, with length 1
    dog[1] = 1.0
    assert_close(head.weight, 2 * torch.stack([cat, dog]))
    assert_close(head.bias, torch.zeros(2))


def test_a_name_counts_for_as_many_rows_as_its_weight(space):
    e = torch.eye(4)
    support, answers = e[[0, 1, 2]], torch.tensor([0, 0, 1])
    found = Prototype(name_weight=3.0, scale=1.0).fit(support, answers, 2, Names(e[[3, 0]], 3.0)).weight
    # Class 0: (e0 + e1 + 3 e3)/5; class 1: (e2 + 3 e0)/4. Of length 1.
    expected = normalize(torch.tensor([[1.0, 1.0, 0.0, 3.0], [3.0, 0.0, 1.0, 0.0]]), dim=-1)
    assert_close(found, expected)
    doubled = Prototype().fit(torch.cat([support, *[e[[3, 0]]] * 3]), torch.tensor([0, 0, 1, *[0, 1] * 3]), 2, None)
    assert_close(10 * found, doubled.weight)


@pytest.mark.parametrize("named", [Prototype(name_weight=1.0), Logistic(name_weight=1.0)], ids=name_of)
def test_names_alone_answer_with_no_shots(space, named):
    # The texts repeat their labels, so that the labels' names lie near.
    assert measure(space, EpisodeRows("topic", (0, 1, 2), (), tuple(range(30, 42))), named) > 0.6


def test_names_alone_are_the_prototypes(space):
    predictor = Prototype(name_weight=0.5, scale=1.0).adapt(space, EpisodeRows("topic", (2, 0), (), ()))
    assert_close(predictor.head.weight, space.names[[2, 0]])


@pytest.mark.parametrize("weight", [0.0, 2.0], ids=["no names", "names"])
@pytest.mark.parametrize("steps", [1, 4])
def test_soft_k_means_counts_each_query_for_every_class_by_its_share(space, steps, weight):
    episode = EpisodeRows("topic", (2, 0), (1, 4, 2), (31, 32, 34, 35, 37))  # two dogs and a bob
    found = SoftKMeans(scale=3.0, steps=steps, name_weight=weight).adapt(space, episode).head.weight
    names, (dog, again, bob), queries = space.names[[2, 0]], space.features[[1, 4, 2]], space.features[list(episode.query)]
    sums = torch.stack([dog + again + weight * names[0], bob + weight * names[1]])
    counts = torch.tensor([2.0, 1.0]) + weight
    means = sums / counts[:, None]
    for _ in range(steps):
        shares = torch.stack([torch.softmax(3 * normalize(means, dim=-1) @ query, 0) for query in queries])
        means = torch.stack([sums[n] + sum(s[n] * q for s, q in zip(shares, queries, strict=True)) for n in (0, 1)])
        means = means / (counts + shares.sum(0))[:, None]
    assert_close(found, 3 * normalize(means, dim=-1))


def test_soft_k_means_moves_the_border_to_where_the_queries_part(space):
    # A cat at 0° and a dog at 45°, so that the border is at 22.5°; those asked lie around 20° and around 80°.
    angles = torch.deg2rad(torch.tensor([0.0, 45, *(10, 20, 25, 30), *(60, 80, 90, 100)]))
    given(space, torch.stack([angles.cos(), angles.sin()], dim=-1))
    episode = EpisodeRows("topic", (1, 2), (0, 1), tuple(range(2, 10)))
    alone, together = (found.adapt(space, episode)(episode.query).argmax(-1).tolist() for found in (Prototype(), SoftKMeans()))
    assert alone == [0, 0, 1, 1, 1, 1, 1, 1]
    assert together == [0, 0, 0, 0, 1, 1, 1, 1]


def test_soft_k_means_leaves_out_what_is_no_word(encoder):
    target = load(encoder, splits(entity_rows(16)), "token-classification")
    space, episode = Space(encoder, target, pool_of(target)), episode_of(target, 2)
    found = SoftKMeans().adapt(space, episode).head.weight
    space.__dict__["features"] = torch.nn.functional.pad(space.features, (0, 0, 0, 50))  # places without a word
    assert_close(SoftKMeans().adapt(space, episode).head.weight, found)


def test_soft_k_means_needs_rows_that_it_is_asked(space):
    with pytest.raises(ConfigError, match="learns from the rows that it will be asked as well.* Take prototype"):
        SoftKMeans().adapt(space, EpisodeRows("topic", (2, 0), (1, 4, 2), ()))


@pytest.mark.parametrize("adaptation", [*OF_FEATURES, *TRANSDUCTIVE, *TUNING], ids=name_of)
def test_without_shots_and_names_there_is_nothing_to_learn_from(space, adaptation):
    with pytest.raises(ConfigError, match=r"'topic': with 0 shots there is nothing to learn from but the classes' names"):
        adaptation.adapt(space, EpisodeRows("topic", (0, 1, 2), (), (30,)))


def test_without_shots_an_inner_loop_has_nothing_to_learn_from(encoder, space):
    made = Builder(load_plugins())("strategy", Choice(name="maml"))
    made.prepare(MultiTaskModel(encoder, {"topic": space.kind}, lambda name: 0))
    with pytest.raises(ConfigError, match="0 shots"):
        made.adaptation(EpisodesConfig(names=True)).adapt(space, EpisodeRows("topic", (0, 1, 2), (), (30,)))


@pytest.mark.parametrize("named", [Prototype(name_weight=1.0), Logistic(name_weight=1.0)], ids=name_of)
def test_names_that_cannot_be_read_are_left_out_and_told_once(encoder, named, caplog):
    target = load(encoder, splits(entity_rows(16)), "token-classification")
    space, episode = Space(encoder, target, pool_of(target)), episode_of(target, 2)
    weights = [made.adapt(space, episode).head.weight for made in (named, replace(named, name_weight=0.0), named)]
    assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert [record.getMessage() for record in caplog.records] == [
        "target topic: names of classes are not read with rows of kind token-classification; it is learned without"
    ]


def test_names_that_cannot_be_read_are_not_said_to_be_left_out_where_there_is_nothing_else(encoder, caplog):
    target = load(encoder, splits(entity_rows(16)), "token-classification")
    space, episode = Space(encoder, target, pool_of(target)), episode_of(target, 2)
    with pytest.raises(ConfigError, match=r"'topic': with 0 shots .*names of classes cannot be read .*targets\.shots"):
        Prototype(name_weight=1.0).adapt(space, EpisodeRows("topic", episode.classes, (), episode.query))
    assert not caplog.records


def test_logistic_counts_a_name_for_as_many_rows_as_its_weight(space):
    features, answers, names = random(6, 8), torch.tensor([0, 1, 2, 0, 1, 1]), normalize(random(3, 8), dim=-1)
    found = Logistic(name_weight=2.0).fit(features, answers, 3, Names(names, 2.0))
    thrice = torch.cat([features, names, names]), torch.cat([answers, *[torch.arange(3)] * 2])
    expected = Logistic().fit(*thrice, 3, None)
    assert_close(found.weight, expected.weight, rtol=1e-3, atol=1e-3)
    assert_close(found.bias, expected.bias, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("rows", "size"), [(6, 40), (60, 5)], ids=["fewer rows than features", "fewer features than rows"])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 30.0])
def test_ridge_is_the_solution_of_the_normal_equations(rows, size, penalty):
    features, answers = random(rows, size), torch.arange(rows) % 3
    found = Ridge(penalty=penalty).fit(features, answers, 3, None)
    x = np.hstack([features.numpy(), np.ones((rows, 1))])
    y = np.where(answers.numpy()[:, None] == np.arange(3), 1.0, -1.0)
    expected = np.linalg.solve(x.T @ x + penalty * np.eye(size + 1), x.T @ y)
    np.testing.assert_allclose(found.weight.numpy(), expected[:-1].T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.bias.numpy(), expected[-1], rtol=1e-8, atol=1e-10)


def test_ridge_fits_values_as_they_are():
    features, values = random(8, 5), torch.linspace(-1, 2, 8, dtype=torch.float64)
    found = Ridge(penalty=0.5).fit(features, values, 1, None)
    x = np.hstack([features.numpy(), np.ones((8, 1))])
    expected = np.linalg.solve(x.T @ x + 0.5 * np.eye(6), x.T @ values.numpy())
    np.testing.assert_allclose(found.weight[0].numpy(), expected[:-1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 2], [1, 3], [0, 2, 3]], ids=str)
@pytest.mark.parametrize("inverse_penalty", [0.1, 10.0])
def test_logistic_answers_as_scikit_learn_does(classes, inverse_penalty):
    from sklearn.linear_model import LogisticRegression

    outputs = max(classes) + 1
    answers = torch.tensor(classes * 10)
    features, queries = random(len(answers), 6), random(50, 6, seed=1)
    found = Logistic(C=inverse_penalty).fit(features, answers, outputs, None)(queries)
    right = LogisticRegression(C=inverse_penalty, max_iter=200).fit(features.numpy(), answers.numpy())
    assert found.argmax(-1).tolist() == right.predict(queries.numpy()).tolist()
    probabilities = torch.softmax(found, dim=-1).numpy()
    np.testing.assert_allclose(probabilities[:, classes], right.predict_proba(queries.numpy()), rtol=1e-8, atol=1e-10)
    missing = [number for number in range(outputs) if number not in classes]
    assert not probabilities[:, missing].any()


def test_matching_is_a_softmax_over_the_support(space):
    pool = torch.eye(32)[[0, 1, 2, 0, 1, 2]].repeat(7, 1)
    pool[5] = torch.eye(32)[0] * 0.6 + torch.eye(32)[3] * 0.8
    episode = EpisodeRows("topic", (0, 1), (0, 3, 2), (5,))  # two cats at e0, a bob at e2
    outputs = Matching(scale=5.0).adapt(given(space, pool), episode)([5])
    # Cosines 0.6, 0.6 and 0.
    weights = np.exp([3.0, 3.0, 0.0]) / np.exp([3.0, 3.0, 0.0]).sum()
    assert_close(outputs.exp(), torch.tensor([[weights[2], weights[0] + weights[1]]], dtype=torch.float32))


@pytest.mark.parametrize("adaptation", TUNING, ids=name_of)
def test_fine_tuning_leaves_the_shared_encoder_as_it_was(encoder, space, adaptation):
    encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    features = space.features.clone()
    predictor = adaptation.adapt(space, episode_of(space.target, 3))
    assert_close(dict(encoder.state_dict()), before, rtol=0, atol=0)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.training
    assert_close(space.encode(range(len(space.pool))), features, rtol=1e-6, atol=1e-7)
    moved = {name for name, value in predictor.parameters.items() if not torch.equal(value, before[name])}
    assert moved == set(predictor.parameters)


def test_each_fine_tuning_moves_its_part_of_the_encoder(space):
    episode = episode_of(space.target, 2)
    head, top, full = (set(adaptation.adapt(space, episode).parameters) for adaptation in TUNING)
    assert not head
    assert all("layer.1." in name for name in top)
    assert any("LayerNorm" in name for name in top)
    assert top < full
    assert not any("embeddings" in name for name in full)


def test_fine_tuning_starts_from_prototypes(space):
    episode = episode_of(space.target, 4)
    start = Prototype(scale=10.0).adapt(space, episode)
    tuned = HeadOnly(steps=1, head_rate=1e-9).adapt(space, episode)
    assert_close(tuned.head.weight, start.head.weight, rtol=1e-5, atol=1e-6)


def test_fine_tuning_lowers_the_loss_of_the_support(space):
    episode = episode_of(space.target, 4)
    answers = space.support(episode)[1]
    losses = [
        torch.nn.functional.cross_entropy(FullFineTuning(steps=steps, rate=1e-3).adapt(space, episode)(episode.support), answers)
        for steps in (1, 20)
    ]
    assert losses[1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "adaptation",
    [
        HeadOnly(head_rate=3e37),
        FullFineTuning(rate=1e30),
        FullFineTuning(steps=1, rate=3e37),  # the loss of the one step is as it should be
    ],
    ids=["head", "full", "last step"],
)
def test_an_adaptation_that_answers_with_no_numbers_is_an_error_that_names_target_and_episode(space, adaptation):
    episode = episode_of(space.target, 3)
    rows = ", ".join(map(str, episode.support[:6]))
    with pytest.raises(
        TrainingError, match=rf"target 'topic' has diverged on an episode of 9 support rows \(numbers {rows}, … of its pool\)"
    ):
        adaptation.adapt(space, episode)


@pytest.mark.parametrize("adaptation", [*TUNING, *PULLING], ids=name_of)
def test_an_episode_without_rows_of_a_class_is_no_divergence(space, adaptation):
    episode = EpisodeRows("topic", (0, 1, 2), (0, 3, 1, 4), (30, 31))
    assert not adaptation.adapt(space, episode)(episode.query).isnan().any()


@pytest.mark.parametrize("adaptation", [*OF_FEATURES, *TUNING, *PULLING], ids=name_of)
def test_the_queries_are_not_looked_at(space, adaptation):
    episode = episode_of(space.target, 2)
    other = EpisodeRows("topic", episode.classes, episode.support, (0, 1, 2))
    found, again = (adaptation.adapt(space, one)([30, 33, 36]) for one in (episode, other))
    assert_close(found, again, rtol=0, atol=0)
    # And who is asked beside a query changes nothing; passes of other sizes round otherwise.
    predict = adaptation.adapt(space, episode)
    assert_close(torch.cat([predict([row]) for row in (30, 33, 36)]), found, rtol=1e-4, atol=1e-4)


def test_more_layers_than_there_are_are_refused(space):
    with pytest.raises(ConfigError, match="the last 3 layers are asked for, but the encoder has 2"):
        TopLayers(layers=3).adapt(space, episode_of(space.target, 2))


def test_adapter_moves_the_adapters_alone(encoder_folder):
    pytest.importorskip("peft", reason="needs the extra lora")
    config = EncoderConfig(name=str(encoder_folder), max_length=32)
    encoder = load_encoder(config, encoder_folder, attention="sdpa")
    encoder.put(LoRA(rank=2))
    target = load(encoder, topic_splits())
    space = Space(encoder, target, pool_of(target))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    predictor = AdapterTuning(rate=1e-2).adapt(space, episode_of(target, 5))
    assert space.measure(episode_of(target, 5), predictor(episode_of(target, 5).query)) >= 0.6  # chance is 1/3
    assert predictor.parameters
    assert all("lora_" in name for name in predictor.parameters)
    assert any(not torch.equal(value, before[name]) for name, value in predictor.parameters.items())
    assert_close(dict(encoder.state_dict()), before, rtol=0, atol=0)


def test_adapter_without_adapters_is_refused(space):
    for refuse in (AdapterTuning().check_encoder, lambda encoder: AdapterTuning().adapt(space, episode_of(space.target, 2))):
        with pytest.raises(ConfigError, match=r"adapter needs adapters in the encoder: set encoder\.adapter"):
            refuse(space.encoder)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside the untouched"])
def test_lora_moves_fresh_updates_alone(encoder, encoder_folder, beside):
    pytest.importorskip("peft", reason="needs the extra lora")
    if beside:
        encoder = BesideUntouched(encoder, load_tiny(encoder_folder))
    target = load(encoder, topic_splits())
    space, episode = Space(encoder, target, pool_of(target)), episode_of(target, 5)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    start = LoRATuning(rank=2, rate=1e-9, head_rate=1e-9).adapt(space, episode)
    assert_close(start(episode.query), HeadOnly(head_rate=1e-9).adapt(space, episode)(episode.query), rtol=1e-4, atol=1e-4)
    predictor = LoRATuning(rank=2, rate=1e-2).adapt(space, episode)
    assert space.measure(episode, predictor(episode.query)) >= 0.6  # chance is 1/3
    assert all(name.startswith("backbone.") and "lora_" in name for name in predictor.parameters)
    assert sum(value.numel() for value in predictor.parameters.values()) == 2 * 2 * 2 * 2 * 32  # layers, parts, A and B, rank
    again = LoRATuning(rank=2, rate=1e-2).adapt(space, episode)  # from the start, not from where the last episode ended
    assert_close(again(episode.query), predictor(episode.query), rtol=0, atol=0)
    assert_close(dict(encoder.state_dict()), before, rtol=0, atol=0)
    assert encoder.adapters is None


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (8.0, 2.0)])
def test_the_updates_of_lora_are_scaled_by_alpha_over_rank(space, alpha, scale):
    peft = pytest.importorskip("peft", reason="needs the extra lora")
    found = LoRATuning(rank=4, alpha=alpha).adapt(space, episode_of(space.target, 2)).space.encoder
    layers = [module for module in found.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    assert [layer.scaling["default"] for layer in layers] == [scale] * 4


def test_without_peft_lora_names_its_extra_before_the_tasks_are_read(encoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"'peft' is needed here.*mtl\[lora\]"):
        LoRATuning().check_encoder(encoder)


def test_lora_is_not_put_on_adapters(encoder):
    pytest.importorskip("peft", reason="needs the extra lora")
    encoder.put(LoRA(rank=2))
    target = load(encoder, topic_splits())
    space = Space(encoder, target, pool_of(target))
    for refuse in (LoRATuning().check_encoder, lambda encoder: LoRATuning().adapt(space, episode_of(target, 2))):
        with pytest.raises(ConfigError, match=r"has adapters of LoRA already.* Take the adaptation 'adapter', which trains"):
            refuse(encoder)


@pytest.mark.parametrize(
    ("adaptation", "told"),
    [
        (TopLayers(layers=3), "the last 3 layers are asked for, but the encoder has 2"),
        (Contrastive(layers=3), "the last 3 layers are asked for, but the encoder has 2"),
    ],
    ids=["top layers", "contrastive"],
)
def test_an_encoder_that_an_adaptation_cannot_work_with_is_refused_before_the_tasks_are_read(encoder, adaptation, told):
    with pytest.raises(ConfigError, match=told):
        adaptation.check_encoder(encoder)


@pytest.mark.parametrize("adaptation", [*OF_FEATURES, *TRANSDUCTIVE, *TUNING, *PULLING], ids=name_of)
def test_other_encoders_are_not_refused(encoder, adaptation):
    adaptation.check_encoder(encoder)


def test_contrastive_tuning_that_diverges_says_so(space):
    with pytest.raises(TrainingError, match=r"The adaptation to target 'topic' has diverged on an episode of 12 support rows"):
        Contrastive(rate=1e6, steps=30).adapt(space, episode_of(space.target, 4))
