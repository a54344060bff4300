"""Protocols and manifests: which rows are learned from and asked, drawn once for every method."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import pytest
from conftest import entity_rows, rating_rows, splits
from toys import ANIMALS, load, load_tiny, topic_rows, topic_splits

from mtl.data.features import featurize
from mtl.data.rows import Rows
from mtl.errors import CheckpointError, DataError
from mtl.transfer.protocol import identity_of, make_manifest, read_manifest
from mtl_plugins.domain import Domain
from mtl_plugins.episodic import Episodic
from mtl_plugins.supports import Supports


@pytest.fixture(scope="module")
def encoder(encoder_folder):
    return load_tiny(encoder_folder)


@pytest.fixture(scope="module")
def target(encoder):
    """Three classes; 30 training, 6 validation and 12 test rows."""
    return load(encoder, topic_splits())


@dataclass
class Counting(Domain):
    """Counts how often it draws."""

    drawn: int = 0

    def draw(self, target, shots, seed):
        self.drawn += 1
        return super().draw(target, shots, seed)


def manifest_of(path, protocol, target, shots=(1, 2), seed=0):
    return make_manifest(path, protocol, {"name": "its"}, target, protocol.pool(target), shots, seed)


def labels_of(target, protocol, rows):
    found = target.kind.classes_of(protocol.pool(target))
    return [found[row][0] for row in rows]


def test_a_manifest_is_written_once_and_then_read(target, tmp_path):
    protocol, path = Counting(draws=3), tmp_path / "manifest.json"
    first = manifest_of(path, protocol, target)
    assert protocol.drawn == 2  # for 1 and for 2 shots
    written = path.read_bytes()
    again = manifest_of(path, protocol, target, seed=99)
    assert protocol.drawn == 2
    assert again == first == read_manifest(path)
    assert path.read_bytes() == written
    assert {shots: len(episodes) for shots, episodes in again.episodes.items()} == {1: 3, 2: 3}
    assert (again.target, again.seed, again.protocol) == ("topic", 0, {"name": "its"})


def test_a_manifest_carries_the_hash_of_what_it_says(target, tmp_path):
    path = tmp_path / "manifest.json"
    manifest_of(path, Domain(draws=1), target)
    body = json.loads(path.read_text())
    found = body.pop("hash")
    assert found == hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"support": [', '"support": [29, '),
        ('"seed": 0', '"seed": 1'),
        ('"query": "30-41"', '"query": "30-40"'),
        ('"version": 1', '"version": 2'),
        ('"hash": "', '"hash": "0'),
        ('"hash": "', '"hsah": "'),
    ],
)
def test_a_manifest_that_was_changed_is_refused(target, tmp_path, old, new):
    path = tmp_path / "manifest.json"
    manifest_of(path, Domain(draws=1), target)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CheckpointError, match=r"manifest\.json is not a manifest of episodes, or was changed by hand"):
        manifest_of(path, Domain(draws=1), target)


@pytest.mark.parametrize("text", ["", "[]", "{}", "5", '{"hash": null}'])
def test_what_is_no_manifest_is_refused(target, tmp_path, text):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        manifest_of(path, Domain(draws=1), target)


def test_a_manifest_of_other_rows_is_refused(encoder, target, tmp_path):
    path = tmp_path / "manifest.json"
    manifest_of(path, Domain(draws=1), target)
    with pytest.raises(DataError, match=r"'topic': its rows have changed since .*manifest\.json was written"):
        manifest_of(path, Domain(draws=1), load(encoder, topic_splits(train=33)))


def test_the_same_rows_with_other_classes_or_other_rows_of_them_are_another_pool(encoder, target):
    """Numbers of a manifest are places of rows and classes: they mean something else when these change."""
    protocol = Domain(draws=1)

    def identity(found):
        return identity_of(found, protocol.pool(found))

    same = [load(encoder, topic_splits()) for _ in range(2)]
    assert identity(same[0]) == identity(same[1])
    turned = load(encoder, topic_splits(), labels=tuple(reversed(target.kind.class_names)))
    assert turned.splits["train"].rows.fingerprint == target.splits["train"].rows.fingerprint
    assert identity(turned) != identity(target)
    fewer = replace(target, splits={**target.splits, "train": target.splits["train"].take(range(1, 30))})
    assert fewer.splits["train"].rows.fingerprint == target.splits["train"].rows.fingerprint
    assert identity(fewer) != identity(target)


def test_the_whole_test_split_is_written_short(target, tmp_path):
    path = tmp_path / "manifest.json"
    manifest = manifest_of(path, Domain(draws=2), target, shots=(1,))
    assert [entry["query"] for entry in json.loads(path.read_text())["episodes"]["1"]] == ["30-41"] * 2
    assert [episode.query for episode in manifest.episodes[1]] == [tuple(range(30, 42))] * 2
    manifest_of(tmp_path / "other.json", Episodic(ways=2, queries=1, episodes=1), target, shots=(1,))
    (entry,) = json.loads((tmp_path / "other.json").read_text())["episodes"]["1"]
    assert len(entry["query"]) == 2


def test_by_domain_some_training_rows_of_every_class_are_learned_from_and_all_test_rows_asked(target):
    protocol = Domain(draws=5)
    episodes = protocol.draw(target, 4, 0)
    assert len(episodes) == 5
    for episode in episodes:
        assert episode.classes == (0, 1, 2)
        assert labels_of(target, protocol, episode.support) == [0] * 4 + [1] * 4 + [2] * 4
        assert len(set(episode.support)) == 12
        assert max(episode.support) < 30
        assert episode.query == tuple(range(30, 42))
    assert len({episode.support for episode in episodes}) == 5
    assert [protocol.pool(target).rows.where(row) for row in (0, 30)][0].endswith("row 1")


def test_by_domain_a_target_of_values_has_so_many_rows_in_all(encoder):
    target = load(encoder, splits(rating_rows(32)), "regression")
    (episode,) = Domain(draws=1).draw(target, 5, 0)
    assert (len(set(episode.support)), episode.classes, episode.query) == (5, (), tuple(range(16, 24)))


def test_in_episodes_support_and_queries_have_no_row_in_common(target):
    protocol = Episodic(ways=2, queries=3, episodes=20)
    episodes = protocol.draw(target, 4, 0)
    assert len(episodes) == 20
    for episode in episodes:
        assert not set(episode.support) & set(episode.query)
        first, second = episode.classes
        assert labels_of(target, protocol, episode.support) == [first] * 4 + [second] * 4
        assert labels_of(target, protocol, episode.query) == [first] * 3 + [second] * 3
        assert len(set(episode.support + episode.query)) == 14
    assert {frozenset(episode.classes) for episode in episodes} == {frozenset(pair) for pair in ((0, 1), (0, 2), (1, 2))}
    assert max(row for episode in episodes for row in episode.query) >= 36  # rows of all splits are drawn


def test_in_episodes_of_words_no_row_is_in_support_and_query(encoder):
    target = load(encoder, splits(entity_rows(40)), "token-classification")  # every row has a person and a place
    for episode in Episodic(ways=2, queries=2, episodes=10).draw(target, 3, 0):
        assert len(set(episode.support + episode.query)) == len(episode.support) + len(episode.query) == 10


@pytest.mark.parametrize("protocol", [Domain(draws=3), Episodic(ways=2, queries=2, episodes=3)], ids=["domain", "episodic"])
def test_a_seed_gives_the_same_episodes_and_another_seed_others(protocol, target):
    assert protocol.draw(target, 2, 0) == protocol.draw(target, 2, 0)
    assert protocol.draw(target, 2, 0) != protocol.draw(target, 2, 1)


def test_a_class_with_too_few_rows_is_never_drawn(encoder):
    rows = [*topic_rows(20, ANIMALS[:2]), *topic_rows(3, ("paris",), 50)]
    target = load(encoder, {"train": rows, "validation": rows, "test": rows})  # 9 rows of paris
    rare = target.kind.labels.index("paris")
    assert all(rare not in episode.classes for episode in Episodic(ways=2, queries=5, episodes=20).draw(target, 5, 0))
    with pytest.raises(DataError, match="3 ways needs 3 classes with at least 10 rows each"):
        Episodic(ways=3, queries=5, episodes=1).draw(target, 5, 0)


def with_supports(encoder, supports, **values):
    """A target with three classes and files of supports: split → its rows."""
    target = load(encoder, topic_splits(), **values)
    for name, rows in supports.items():
        columns = {role: [row[role] for row in rows] for role in ("text", "label")}
        found = Rows(columns, f"{name}.jsonl", range(1, len(rows) + 1), name)
        target.splits[f"support/{name}"] = featurize(target.kind, found, encoder.tokenizer)
    return target


def test_given_supports_are_read_from_the_paths_of_task_shots_and_split():
    protocol = Supports("data/{task}/train_{split}_{shots}.json", splits=3, skip=("airline/4/1",))
    assert protocol.files("leopard/airline", [4, 8]) == {
        "support/4/0": "data/airline/train_0_4.json",
        "support/4/2": "data/airline/train_2_4.json",
        "support/8/0": "data/airline/train_0_8.json",
        "support/8/1": "data/airline/train_1_8.json",
        "support/8/2": "data/airline/train_2_8.json",
    }


def test_given_supports_are_learned_from_as_they_are_and_all_test_rows_asked(encoder):
    given = {"1/0": topic_rows(3, start=100), "1/1": topic_rows(4, start=110), "2/0": topic_rows(6, start=120)}
    target, protocol = with_supports(encoder, given), Supports("{task}/{shots}/{split}")
    texts = [text for (text,) in protocol.pool(target).requests]
    episodes = protocol.draw(target, 1, 0)
    assert [[texts[row] for row in episode.support] for episode in episodes] == [
        [row["text"] for row in given[name]] for name in ("1/0", "1/1")
    ]
    (episode,) = protocol.draw(target, 2, 0)
    assert [texts[row] for row in episode.support] == [row["text"] for row in given["2/0"]]
    test = [row["text"] for row in topic_splits()["test"]]
    for found in (*episodes, episode):
        assert found.classes == (0, 1, 2)
        assert [texts[row] for row in found.query] == test
        assert not set(found.support) & set(found.query)


def test_fewer_test_rows_are_drawn_once_for_all_supports(encoder):
    given = {"1/0": topic_rows(3, start=100), "1/1": topic_rows(3, start=110)}
    first, second = Supports("{task}/{shots}/{split}", test_rows=5).draw(with_supports(encoder, given), 1, 0)
    assert first.query == second.query
    assert len(set(first.query)) == 5
    assert max(first.query) < 12


def test_a_support_without_a_class_is_refused(encoder):
    with pytest.raises(DataError, match=r"the support 1/0\.jsonl has no row of class 'bob'"):
        Supports("{task}/{shots}/{split}").draw(with_supports(encoder, {"1/0": topic_rows(4, ("cat", "dog"))}), 1, 0)


def test_by_domain_a_class_that_only_test_rows_have_is_refused(encoder):
    data = topic_splits()
    data["test"] = [*data["test"], {"text": "anna anna is here", "label": "anna"}]
    target = load(encoder, data, labels=["anna", "bob", "cat", "dog"])
    with pytest.raises(DataError, match=r"Target 'topic': class 'anna' is in 1 of 13 test rows and in no training row"):
        Domain(draws=2).draw(target, 2, 0)


def test_by_domain_without_support_there_is_one_episode(target):
    assert [len(episode.support) for episode in Domain(draws=7).draw(target, 0, 0)] == [0]
