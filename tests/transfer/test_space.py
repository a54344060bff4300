"""A space: features of length 1, answers among an episode's outputs, and the figure of an episode."""

from __future__ import annotations

import pytest
import torch
from conftest import entity_rows, rating_rows, splits
from torch.nn.functional import normalize
from torch.testing import assert_close
from toys import ANIMALS, episode_of, given, load, load_tiny, pool_of, topic_rows, topic_splits

from mtl.data.episodes import EpisodeRows
from mtl.errors import ConfigError, TrainingError
from mtl.transfer.space import Space

PAIRS = [{**row, "text_pair": f"{row['text']} on the mat"} for row in topic_rows(12)]


@pytest.fixture
def encoder(encoder_folder):
    return load_tiny(encoder_folder)


def space_of(encoder, data=None, kind="classification", **values):
    target = load(encoder, data or topic_splits(), kind, **values)
    return Space(encoder, target, pool_of(target), size=8)


def pooled(encoder, texts):
    """The encoder's own vectors of texts, one pass each, dropout off."""
    tokens = [encoder.tokenizer.uncached([text], words=False).input_ids[0] for text in texts]
    ids = [torch.tensor(found.tolist()).unsqueeze(0) for found in tokens]
    encoder.eval()
    with torch.no_grad():
        return torch.cat([encoder({"input_ids": one, "attention_mask": torch.ones_like(one)}).pooled for one in ids])


def test_features_are_the_pooled_vectors_of_the_rows_with_length_1(encoder):
    space = space_of(encoder)
    assert_close(
        space.features, normalize(pooled(encoder, [text for (text,) in space.pool.requests]), dim=-1), rtol=1e-4, atol=1e-5
    )
    assert_close(space.features.norm(dim=-1), torch.ones(42), rtol=1e-5, atol=1e-5)


def test_features_can_be_learned_from(encoder):
    weight = torch.zeros(32, requires_grad=True)
    (space_of(encoder).features @ weight).sum().backward()  # tensors of inference_mode would raise here
    assert weight.grad is not None


def test_an_encoder_that_gives_no_numbers_is_an_error_that_names_the_target(encoder):
    with torch.no_grad():
        next(iter(encoder.layers()[0].parameters())).fill_(float("nan"))
    space = space_of(encoder)
    with pytest.raises(TrainingError, match=rf"target '{space.target.name}'.* no number .* has diverged"):
        _ = space.features


def test_every_row_is_encoded_once_however_many_episodes_it_is_in(encoder, monkeypatch):
    space, seen = space_of(encoder), []
    forward = encoder.backbone.forward
    monkeypatch.setattr(encoder.backbone, "forward", lambda **inputs: seen.append(len(inputs["input_ids"])) or forward(**inputs))
    for shots in (1, 2, 3):
        space.support(episode_of(space.target, shots))
    assert sum(seen) == len(space.pool) == 42


@pytest.mark.parametrize("depth", [0, 1])
def test_adapted_layers_are_run_for_every_episode_and_those_below_once(encoder, depth):
    space = space_of(encoder)
    runs = [0] * len(encoder.layers())

    def counting(number):
        def count(module, arguments):
            runs[number] += len(arguments[0])

        return count

    for number, layer in enumerate(encoder.layers()):
        layer.intermediate.register_forward_pre_hook(counting(number))  # not called where the layer is passed over
    parameters = {name: p for name, p in encoder.named_parameters() if f"layer.{depth}." in name}
    found = [space.encode([3, 5, 4], parameters, depth) for _ in range(4)]
    # Layers below the adapted ones see 3 rows in all; those above see them in each of 4 episodes.
    assert runs == [3 if number < depth else 12 for number in range(2)]
    for features in found:
        assert_close(features, space.features[[3, 5, 4]], rtol=1e-5, atol=1e-6)


def test_dropout_is_off_while_it_reads_and_as_before_afterwards(encoder):
    space = space_of(encoder)
    encoder.train()
    assert_close(space.encode([0, 1]), space.encode([0, 1]), rtol=0, atol=0)
    assert encoder.training
    encoder.eval()
    space.encode([0])
    assert not encoder.training


def test_rows_come_in_the_order_asked_for(encoder):
    space = space_of(encoder)
    rows = [17, 3, 40, 3]
    assert_close(space.encode(rows), space.features[rows], rtol=1e-5, atol=1e-6)
    assert space.encode([]).shape == (0, 32)


def test_other_parameters_stand_in_for_the_encoder_s_own(encoder):
    space = space_of(encoder)
    own = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    assert_close(space.encode([0, 1], own), space.features[:2], rtol=1e-5, atol=1e-6)
    name = next(name for name in own if "layer.1" in name and name.endswith("output.dense.weight"))
    moved = space.encode([0, 1], {name: own[name].flip(0)})
    assert not torch.allclose(moved, space.features[:2], atol=1e-3)
    assert_close(space.encode([0, 1]), space.features[:2], rtol=1e-5, atol=1e-6)


def test_names_are_the_labels_as_words_or_their_descriptions(encoder):
    labels = ("the_cat", "veryGood", "dog")
    space = space_of(encoder, topic_splits(labels=labels), descriptions={"dog": "bob ran"})
    assert space.kind.labels == ("dog", "the_cat", "veryGood")
    expected = normalize(pooled(encoder, ["bob ran", "the cat", "very good"]), dim=-1)
    assert_close(space.names, expected, rtol=1e-4, atol=1e-5)


def test_kinds_whose_names_are_not_read_as_rows_are_have_none(encoder):
    assert space_of(encoder, splits(entity_rows(16)), "token-classification").names is None
    assert space_of(encoder, splits(rating_rows(16)), "regression").names is None
    assert space_of(encoder, splits(PAIRS), "pair-classification", options={"pairing": "bi"}).names is None
    assert space_of(encoder, splits(PAIRS), "pair-classification", options={"pairing": "cross"}).names is not None


def test_a_pair_of_sequences_has_features_of_both_with_length_1(encoder):
    space = space_of(encoder, splits(PAIRS), "pair-classification", options={"pairing": "bi"})
    assert space.features.shape == (9, 4 * 32 + 1)
    assert_close(space.features.norm(dim=-1), torch.ones(9), rtol=1e-5, atol=1e-5)
    first, second = (normalize(pooled(encoder, texts), dim=-1) for texts in zip(*space.pool.requests, strict=True))
    parts = torch.cat(
        [first / 2, second / 2, (first - second).abs(), first * second, (first * second).sum(-1, keepdim=True)], dim=-1
    )
    assert_close(space.features, normalize(parts, dim=-1), rtol=1e-3, atol=1e-5)


def test_answers_are_places_among_the_episode_s_classes(encoder):
    space = space_of(encoder)  # rows are cat, dog, bob in turn; the labels are bob, cat, dog
    assert space.kind.labels == ("bob", "cat", "dog")
    features, answers = space.support(EpisodeRows("topic", (2, 0), (1, 4, 2), (5,)))
    assert answers.tolist() == [0, 0, 1]  # dog, dog, bob
    assert_close(features, space.features[[1, 4, 2]])


def test_the_figure_of_an_episode_counts_its_queries(encoder):
    space = space_of(encoder)
    episode = EpisodeRows("topic", (2, 0), (1, 2), (4, 5, 7, 8))  # dog, bob, dog, bob
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert space.measure(episode, sure) == 1.0
    assert space.measure(episode, -sure) == 0.0
    assert space.measure(episode, sure[[0, 1, 3, 2]]) == 0.5


def test_words_have_features_of_their_own_and_tokens_of_no_answer_are_left_out(encoder):
    rows = [
        {"tokens": ["anna", "flew", "to", "paris"], "tags": ["B-person", "O", "O", "B-place"]},
        {"tokens": ["bob", "ran"], "tags": ["B-person", "O"]},
        {"tokens": ["cat", "to", "london"], "tags": ["B-animal", "O", "B-place"]},
    ]
    space = space_of(encoder, {"train": rows, "validation": rows, "test": rows}, "token-classification")
    assert space.features.shape == (6, 4, 32)
    assert space.kind.class_names == ("animal", "person", "place")
    # Outputs of the episode are O, B-place, I-place; persons are outside. Rows 0 and 1 have 4 + 2 words.
    features, answers = space.support(EpisodeRows("topic", (2,), (0, 1), (5,)))
    assert answers.tolist() == [0, 0, 0, 1, 0, 0]
    assert_close(features, torch.cat([space.features[0, :4], space.features[1, :2]]))
    outputs = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
    assert space.measure(EpisodeRows("topic", (2,), (0,), (5,)), outputs) == 1.0  # O O B-place; the animal is outside


def test_values_are_measured_on_their_own_scale(encoder):
    data = {
        split: [{"text": f"good {n}", "label": float(n)} for n in range(10, 20, 3)] for split in ("train", "validation", "test")
    }
    space = space_of(encoder, data, "regression", metric="mae")  # 10, 13, 16, 19: mean 14.5, sd √11.25 = 3.354
    episode = EpisodeRows("topic", (), (0, 1), (4, 5, 6, 7))
    assert space.measure(episode, torch.zeros(4, 1)) == pytest.approx((4.5 + 1.5 + 1.5 + 4.5) / 4)
    right = (torch.tensor([10.0, 13.0, 16.0, 19.0]) - 14.5) / 11.25**0.5
    assert space.measure(episode, right.unsqueeze(-1)) == pytest.approx(0, abs=1e-5)
    assert_close(space.support(episode)[1], right[:2])


def test_a_kind_that_cannot_be_learned_in_episodes_is_refused(encoder):
    rows = [{"text": f"cat {n}", "label": [ANIMALS[n % 2]]} for n in range(8)]
    target = load(encoder, splits(rows), "multilabel")
    with pytest.raises(ConfigError, match=r"'topic' is of kind 'multilabel', which cannot be learned in episodes"):
        Space(encoder, target, pool_of(target))


def test_features_given_by_hand_are_used(encoder):
    space = given(space_of(encoder), torch.arange(42 * 32.0).reshape(42, 32) + 1)
    assert_close(space.support(EpisodeRows("topic", (0, 1), (1,), ()))[0], torch.empty(0, 32))  # a dog is of neither class
