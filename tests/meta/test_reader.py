"""The trunk runs once a sequence if it is frozen, and answers find their places among an episode's outputs."""

from __future__ import annotations

import pytest
import torch
from conftest import make_encoder
from episodic_setup import make_world
from torch.nn.functional import cross_entropy, pad
from torch.testing import assert_close

from mtl.data.batches import Batch, collate
from mtl.errors import ConfigError
from mtl.meta.reader import Reader, Trunk, places, spread


class Count:
    """Counts the sequences that reach the first layer."""

    def __init__(self, encoder):
        self.sequences = 0
        encoder.layers()[0].register_forward_pre_hook(self)

    def __call__(self, module, arguments):
        self.sequences += len(arguments[0])


def batch_of(world, rows, task="topic"):
    return collate({task: rows}, {task: world.features[task]}, {task: world.kinds[task]})


@pytest.mark.parametrize("depth", [1, 2])
def test_a_frozen_trunk_is_run_once_a_sequence_and_says_the_same(encoder_folder, depth):
    world = make_world(encoder_folder, freeze=depth, dropout=0.3)
    trunk, count = Trunk(world.encoder, depth), Count(world.encoder)
    assert trunk.frozen
    rows = [[0, 3, 4], [4, 9, 3, 1], [0, 1, 9], [2]]
    found = [trunk(batch_of(world, one)) for one in rows]
    assert count.sequences == 6  # 0, 1, 2, 3, 4 and 9, once each
    assert world.encoder.training
    world.encoder.eval()
    for one, states in zip(rows, found, strict=True):
        batch = batch_of(world, one)
        expected = world.encoder.trunk(batch.inputs, depth)
        mask = batch.inputs["attention_mask"].bool()
        assert states.shape == expected.shape
        assert_close(states[mask], expected[mask], rtol=1e-10, atol=1e-10)
        assert not states[~mask].any()
        assert not states.requires_grad


def test_short_sequences_of_the_cache_are_padded_to_a_long_new_one(encoder_folder):
    world = make_world(encoder_folder, freeze="all")
    lengths = world.features["topic"].lengths
    short, long = int(lengths.argmin()), int(lengths.argmax())
    trunk = Trunk(world.encoder, 2)
    trunk(batch_of(world, [short]))
    for rows in ([short, long], [long, short], [short]):
        batch = batch_of(world, rows)
        assert trunk(batch).shape[:2] == batch.inputs["input_ids"].shape
    wider = Batch({name: pad(value, (0, 2)) for name, value in batch.inputs.items()}, batch.parts)
    assert torch.equal(trunk(wider), pad(trunk(batch), (0, 0, 0, 2)))


def test_the_features_from_a_cached_trunk_are_those_of_the_whole_encoder(encoder_folder):
    world = make_world(encoder_folder, freeze=1, tasks=["topic", "places"])
    trunk = Trunk(world.encoder, 1)
    for task in ("topic", "places"):
        reader = Reader(world.encoder, world.kinds[task], world.model.head(task), trunk)
        for rows in ([0, 1, 2, 3], [3, 5, 0]):
            batch = batch_of(world, rows, task)
            found, expected = reader.features(batch, trunk(batch)), reader.features(batch)
            known = reader.answers(batch, tuple(range(reader.width))) >= 0
            assert_close(found[known], expected[known], rtol=1e-10, atol=1e-10)
            assert_close(found[known].norm(dim=-1), torch.ones(int(known.sum())).double())


def test_a_trunk_that_is_trained_is_run_every_time_and_has_a_gradient(encoder_folder):
    world = make_world(encoder_folder)
    trunk, count = Trunk(world.encoder, 1), Count(world.encoder)
    assert not trunk.frozen
    assert trunk(batch_of(world, [0, 1])).requires_grad
    assert not trunk(batch_of(world, [0, 1]), differentiable=False).requires_grad
    assert count.sequences == 4


def test_the_parameters_of_a_trunk_are_those_below_its_depth(encoder_folder):
    encoder = make_world(encoder_folder).encoder
    names = {id(p): name for name, p in encoder.named_parameters()}
    for depth, prefixes in ((0, ["embeddings"]), (1, ["embeddings", "encoder.layer.0"])):
        found = {names[id(p)] for p in Trunk(encoder, depth).parameters}
        assert found == {name for name in names.values() if name.startswith(tuple(f"backbone.{one}." for one in prefixes))}


def test_an_encoder_whose_embeddings_are_adapted_has_no_trunk(encoder_folder):
    world = make_world(encoder_folder)
    assert Trunk(world.encoder, -1)(batch_of(world, [0, 1])) is None


def test_what_does_not_fit_into_the_cache_is_run_again(encoder_folder, monkeypatch):
    monkeypatch.setattr("mtl.meta.reader._CACHE_BYTES", 0)
    world = make_world(encoder_folder, freeze=1)
    trunk, count = Trunk(world.encoder, 1), Count(world.encoder)
    first, second = trunk(batch_of(world, [0, 1])), trunk(batch_of(world, [0, 1]))
    assert count.sequences == 4
    assert torch.equal(first, second)


def test_a_deep_frozen_trunk_is_right_for_more_layers_than_two(tmp_path):
    world = make_world(make_encoder(tmp_path, hidden=8, layers=4), freeze=3)
    trunk = Trunk(world.encoder, 3)
    batch = batch_of(world, range(8))
    mask = batch.inputs["attention_mask"].bool()
    found = world.encoder(batch.inputs, trunk(batch), 3).states
    assert_close(found[mask], world.encoder(batch.inputs).states[mask], rtol=1e-10, atol=1e-10)


def test_a_kind_with_another_head_is_refused(encoder_folder):
    world = make_world(encoder_folder)
    with pytest.raises(ConfigError, match=r"Task 'topic' is of kind 'classification', which cannot be learned in episodes"):
        Reader(world.encoder, world.kinds["topic"], torch.nn.Linear(2, 2), Trunk(world.encoder, -1))


def test_answers_are_numbered_by_their_place_among_the_outputs():
    answers = torch.tensor([[4, 1, -100], [0, 4, 0]])
    assert places(answers, (4, 0), 5).tolist() == [[0, -100, -100], [1, 0, 1]]
    assert places(torch.tensor([-1.5, 2.0]), (0,), 1).tolist() == [-1.5, 2.0]


def test_outputs_are_spread_among_all_of_the_kind():
    found = spread(torch.tensor([[1.0, 2.0]]), (3, 1), 4)
    assert found.tolist() == [[-torch.inf, 2.0, -torch.inf, 1.0]]
    outputs = torch.randn(2, 3)
    assert spread(outputs, (0, 1, 2), 3) is outputs


def test_answers_and_outputs_are_inverse():
    outputs, chosen = torch.randn(5, 3), (6, 0, 4)
    labels = torch.tensor([4, 6, 0, 0, 4])
    found = cross_entropy(spread(outputs, chosen, 7), labels)
    assert_close(found, cross_entropy(outputs, places(labels, chosen, 7)))


def test_classes_that_are_not_in_the_episode_leave_loss_and_both_derivatives_finite():
    torch.manual_seed(0)
    outputs = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    labels, local = torch.tensor([5, 1, 1, 5]), torch.tensor([1, 0, 0, 1])

    def derivatives(loss):
        (first,) = torch.autograd.grad(loss, outputs, create_graph=True)
        (second,) = torch.autograd.grad((first * torch.arange(8).view(4, 2)).sum(), outputs)
        return loss.detach(), first.detach(), second

    found = derivatives(cross_entropy(spread(outputs, (1, 5), 7), labels))
    assert all(bool(value.isfinite().all()) for value in found)
    assert_close(found, derivatives(cross_entropy(outputs, local)))


def test_ignored_words_leave_loss_and_both_derivatives_finite(encoder_folder):
    world = make_world(encoder_folder, tasks=["places"])
    episode = world.episode("places", ways=1)
    reader = Reader(world.encoder, world.kinds["places"], world.model.head("places"), Trunk(world.encoder, -1))
    assert len(episode.outputs) < reader.width
    tags = world.kinds["places"].answers(reader.part(episode.support).columns)
    assert bool((tags == -100).any())  # padding
    outputs = torch.randn(*tags.shape, len(episode.outputs), dtype=torch.float64, requires_grad=True)
    loss = reader.loss(outputs, episode.support, episode.outputs)
    (first,) = torch.autograd.grad(loss, outputs, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), outputs)
    for value in (loss, first, second):
        assert bool(value.isfinite().all())
    known = tags != -100
    expected = cross_entropy(outputs[known], reader.answers(episode.support, episode.outputs)[known])
    assert_close(loss, expected)
