"""Episodes: their classes, their rows, and that a stream of them goes on where it was left."""

from __future__ import annotations

import json
import logging
from collections import Counter

import numpy as np
import pytest
from episodic_setup import make_world

from mtl.config import EpisodesConfig, validate
from mtl.data.episodes import EpisodeRows, Pool, collate_episode, draw_episode, pools_of
from mtl.errors import DataError
from mtl.model.inference import TaskData
from mtl.training.draws import Episodes
from mtl_plugins.uniform import Uniform


@pytest.fixture(scope="module")
def world(encoder_folder):
    return make_world(encoder_folder, tasks=["topic", "rating", "places"])


def draw(world, task="topic", count=40, **config):
    """So many episodes' rows."""
    config = EpisodesConfig(**{"ways": 3, "shots": 2, "queries": 1, **config})
    pool = pools_of({task: world.features[task]}, {task: world.kinds[task]}, config)[task]
    rng = np.random.default_rng(0)
    return [draw_episode(rng, task, pool, config) for _ in range(count)]


def classes_of(world, rows, task="topic"):
    found = world.kinds[task].classes_of(world.features[task])
    return [found[row] for row in rows]


@pytest.mark.parametrize(("ways", "shots", "queries"), [(2, 1, 1), (4, 3, 3), (3, 2, 1)])
def test_fixed_ways_and_shots_are_what_an_episode_has(world, ways, shots, queries):
    for episode in draw(world, ways=ways, shots=shots, queries=queries):
        assert len(set(episode.classes)) == len(episode.classes) == ways
        expected = [(number,) for number in episode.classes]
        assert classes_of(world, episode.support) == [one for one in expected for _ in range(shots)]
        assert classes_of(world, episode.query) == [one for one in expected for _ in range(queries)]


def test_classes_come_in_every_order(world):
    assert len({episode.classes for episode in draw(world, ways=2, count=200)}) == 12  # 4 · 3


def test_ways_and_shots_are_drawn_from_their_spans(world):
    episodes = draw(world, ways=(2, 4), shots=(1, 3), count=200)
    seen = Counter((len(one.classes), len(one.support) // len(one.classes)) for one in episodes)
    assert set(seen) == {(ways, shots) for ways in (2, 3, 4) for shots in (1, 2, 3)}
    for episode in episodes:  # of one episode all classes have the same number
        assert len(set(Counter(classes_of(world, episode.support)).values())) == 1


def test_imbalanced_classes_have_numbers_of_their_own(world):
    episodes = draw(world, shots=(1, 4), imbalanced=True)
    counts = [Counter(classes_of(world, episode.support)) for episode in episodes]
    assert {number for count in counts for number in count.values()} == {1, 2, 3, 4}
    assert any(len(set(count.values())) > 1 for count in counts)
    for episode in episodes:
        assert set(Counter(classes_of(world, episode.query)).values()) == {1}


def test_more_ways_than_there_are_classes_are_cut_where_fewer_will_do(world):
    assert {len(episode.classes) for episode in draw(world, ways=(3, 99))} == {3, 4}


@pytest.mark.parametrize("task", ["topic", "places", "rating"])
def test_support_and_queries_are_disjoint(world, task):
    for episode in draw(world, task, ways=2, count=100):
        rows = [*episode.support, *episode.query]
        assert len(set(rows)) == len(rows)


def test_more_ways_than_classes_are_an_error(world):
    with pytest.raises(DataError, match=r"Task 'topic': an episode of 5 ways needs 5 classes .* but topic has 4\. Ask for fewer"):
        draw(world, ways=5)


def test_classes_with_too_few_rows_do_not_count(world):
    # Six rows a class.
    assert len(draw(world, shots=5, queries=1)) == 40
    with pytest.raises(DataError, match=r"needs 3 classes with at least 7 rows each \(shots and queries\), but topic has 0"):
        draw(world, shots=5, queries=2)


def test_too_few_rows_without_classes_are_an_error(world):
    with pytest.raises(DataError, match=r"Task 'rating': an episode needs 30 rows, but rating has 24"):
        draw(world, "rating", shots=20, queries=10)


def test_a_class_with_fewer_rows_than_shots_is_named(world):
    pool = Pool(world.features["topic"], world.kinds["topic"], 0)
    pool.check_shots("topic", 6)
    with pytest.raises(DataError, match=r"Target 'topic': class 'cat' has 6 training rows, fewer than the 7 shots"):
        pool.check_shots("topic", 7)


def test_an_episode_of_values_has_rows_and_no_classes(world):
    for episode in draw(world, "rating", shots=(3, 5), queries=4):
        assert episode.classes == ()
        assert 3 <= len(episode.support) <= 5
        assert len(episode.query) == 4
    ready = collate_episode(episode, world.features["rating"], world.kinds["rating"])
    assert ready.outputs == (0,)
    assert (ready.support.rows, ready.query.rows) == (len(episode.support), 4)


def test_the_rows_of_an_episode_are_those_of_the_pool_in_order(world):
    (rows,) = draw(world, count=1)
    episode = collate_episode(rows, world.features["topic"], world.kinds["topic"])
    assert episode.outputs == rows.classes
    for batch, ids in ((episode.support, rows.support), (episode.query, rows.query)):
        assert [(label,) for label in batch.parts["topic"].columns["label"].tolist()] == classes_of(world, ids)
        for place, row in enumerate(ids):
            index = batch.parts["topic"].index
            tokens = batch.inputs["input_ids"][place if index is None else int(index[place])]
            tokens = tokens[tokens != 0].tolist()
            assert tokens == world.features["topic"].tokenized[row][0].tolist()
    assert episode.rows == 9
    assert episode.rows_by_task == {"topic": 9}


def test_entities_of_other_types_are_outside_in_an_episode(world):
    kind, features = world.kinds["places"], world.features["places"]
    assert kind.class_names == ("animal", "person", "place")
    person = 1
    rows = EpisodeRows("places", (person,), (0, 3), (12,))  # rows 0 and 12 have a person and a place, row 3 a person
    episode = collate_episode(rows, features, kind)
    assert episode.outputs == (0, 1 + 2 * person, 2 + 2 * person)
    assert [kind.labels[output] for output in episode.outputs] == ["O", "B-person", "I-person"]
    tags = episode.support.parts["places"].columns["tags"]
    # "bob is good london" and "bob is very very very good fine"
    assert tags.tolist() == [[3, 0, 0, 0, -100, -100, -100], [3, 0, 0, 0, 0, 0, 0]]
    assert episode.query.parts["places"].columns["tags"].tolist() == [[3, 0, 0, 0]]
    assert episode.support.parts["places"].units == 4 + 7
    place = kind.labels.index("B-place")
    assert features.columns["tags"][0].tolist() == [3, 0, 0, place]  # the pool is as it was


def test_a_row_can_stand_for_each_of_its_types(world):
    kind, features = world.kinds["places"], world.features["places"]
    pool = Pool(features, kind, 1)
    assert kind.classes_of(features)[:5] == [[1, 2], [2], [0], [1], [2]]
    assert 0 in pool.by_class[1]
    assert 0 in pool.by_class[2]
    assert pool.overlaps
    assert not Pool(world.features["topic"], world.kinds["topic"], 1).overlaps


@pytest.mark.parametrize("seed", range(30))
def test_where_rows_stand_for_several_classes_every_class_has_rows_of_its_own(world, seed):
    features, kind = world.features["places"].take(list(range(16))), world.kinds["places"]
    pool = Pool(features, kind, 5)
    found = kind.classes_of(features)
    rows = pool.draw(np.random.default_rng(seed), "places", 3, 1, 4)
    assert len(rows.support) == 3
    assert len(set(rows.support + rows.query)) == 15
    for place, number in enumerate(rows.classes):
        assert number in found[rows.support[place]]
        assert all(number in found[row] for row in rows.query[4 * place : 4 * place + 4])


def test_more_rows_than_several_classes_have_between_them_are_an_error(world):
    features, kind = world.features["places"].take([0, 12]), world.kinds["places"]
    pool = Pool(features, kind, 2)
    assert [len(rows) for rows in pool.by_class.values()] == [2, 2]  # a person and a place in each of the two rows
    with pytest.raises(DataError, match=r"Task 'places': rows of places stand for several classes each, and in 100 draws some"):
        pool.draw(np.random.default_rng(0), "places", None, 2, 0)


def test_tasks_are_mixed_as_the_sampler_says(world):
    class Mostly(Uniform):
        def shares(self, sizes, progress):
            return {task: 0.8 if task == "topic" else 0.1 for task in sizes}

    counts = Counter(episode.task for one in stream(world, 3000, sampler=Mostly()) for episode in one)
    assert counts["topic"] / counts.total() == pytest.approx(0.8, abs=0.08)


def stream(world, examples=200, sampler=None, **episodes):
    values = {
        "encoder": "minilm",
        "tasks": [{"name": name, "kind": "classification", "data": "x.jsonl"} for name in world.kinds],
        "budget": {"epochs": 1},
        "episodes": {"ways": (2, 3), "shots": (1, 2), "queries": 1, "per_step": 2, **episodes},
    }
    data = {name: TaskData(name, kind, {"train": world.features[name]}) for name, kind in world.kinds.items()}
    return Episodes(data, sampler or Uniform(), validate(values, "test"), examples)


def shown(draws):
    """What can be compared of draws."""
    return [
        [
            (one.task, one.classes, *(value.tolist() for batch in one.batches for value in batch.inputs.values()))
            for one in episodes
        ]
        for episodes in draws
    ]


def test_a_stream_of_episodes_ends_with_the_budget_and_repeats_itself(world):
    draws = list(stream(world))
    used = [sum(episode.rows for episode in one) for one in draws]
    assert sum(used) >= 200 > sum(used[:-1])
    assert all(len(one) == 2 for one in draws)
    assert {episode.task for one in draws for episode in one} == set(world.kinds)
    assert shown(draws) == shown(stream(world))


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_a_stream_goes_on_from_its_state(world, stop):
    whole = shown(stream(world))
    first = stream(world)
    for _ in range(stop):
        next(first)
    again = stream(world)
    next(again)  # wherever it was
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert shown(again) == whole[stop:]


def test_classes_that_are_in_no_episode_are_named_once(world, caplog):
    kind, features = world.kinds["topic"], world.features["topic"]
    classes = [found for (found,) in kind.classes_of(features)]
    # Of the first two classes two rows are left, of the others all.
    left = [row for row, number in enumerate(classes) if number > 1 or classes[:row].count(number) < 2]
    config = EpisodesConfig(ways=2, shots=2, queries=1)
    with caplog.at_level(logging.WARNING, logger="mtl.data"):
        pool = pools_of({"topic": features.take(left)}, {"topic": kind}, config)["topic"]
        draw_episode(np.random.default_rng(0), "topic", pool, config)
    (record,) = caplog.records
    assert record.getMessage().startswith("task topic: 2 of 4 classes have fewer than the 3 rows that an episode needs of each")
    assert record.getMessage().endswith(f"the first: {kind.class_names[0]!r}, which has 2")


def test_nothing_is_said_where_every_class_has_enough_rows_or_another_says_it(world, caplog):
    features, kinds = {"topic": world.features["topic"]}, {"topic": world.kinds["topic"]}
    all_rows = EpisodesConfig(ways=2, shots=len(features["topic"]) // 4 - 1, queries=1)  # of each of the four classes
    with caplog.at_level(logging.WARNING, logger="mtl.data"):
        assert len(pools_of(features, kinds, all_rows)["topic"].by_class) == 4
        few = {"topic": features["topic"].take(range(len(features["topic"]) - 1))}
        assert len(pools_of(few, kinds, all_rows, tell=False)["topic"].by_class) == 3
    assert caplog.records == []
