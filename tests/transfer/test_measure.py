"""Measuring transfer: figures of every episode, and what is looked at over all of them."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from conftest import splits
from toys import load, load_tiny, pool_of, topic_splits

import mtl
from mtl.data.episodes import EpisodeRows
from mtl.transfer.measure import TransferEvaluator, episodes_of_validation, transfer
from mtl.transfer.protocol import Manifest
from mtl.transfer.space import Space


@pytest.fixture
def space(encoder_folder):
    """Three classes; rows are cat, dog, bob in turn, and the labels are bob, cat, dog."""
    encoder = load_tiny(encoder_folder)
    target = load(encoder, topic_splits())
    return Space(encoder, target, pool_of(target))


class FirstClass:
    """Says the first class of an episode whatever it is asked."""

    def adapt(self, space, episode):
        def answer(query):
            outputs = torch.zeros(len(query), len(episode.classes))
            outputs[:, 0] = 1.0
            return outputs

        return answer


def manifest(**episodes):
    return Manifest("topic", 0, {}, "", {int(shots[1:]): found for shots, found in episodes.items()})


def test_confusion_is_that_of_the_most_shots_over_all_episodes(space):
    one = [EpisodeRows("topic", (1, 2), (0, 1), (3, 4))]
    five = [EpisodeRows("topic", (1, 2), (0, 1), (3, 4, 7)), EpisodeRows("topic", (0, 2), (2, 1), (5, 8, 4))]
    figures, looked_at = transfer(space, manifest(k5=five, k1=one), FirstClass())
    assert figures == {"5": [pytest.approx(1 / 3), pytest.approx(2 / 3)], "1": [0.5]}
    # All answers of the first episode are cat, of the second bob; asked were cat, dog, dog and bob, bob, dog.
    assert looked_at["confusion_matrix"] == {"labels": ["bob", "cat", "dog"], "counts": [[2, 0, 0], [0, 1, 0], [1, 2, 0]]}
    # A label's curve is of the queries of episodes that have it, which all give it one score. Bob's episode alone would make
    # cat's curve rise before it goes right: its rows have no score of cat.
    assert looked_at["roc_curve"] == dict.fromkeys(["bob", "cat", "dog"], [[0.0, 0.0], [1.0, 1.0]])


def test_meta_validation_is_a_mean_over_numbers_of_shots(space):
    right = [EpisodeRows("topic", (1, 2), (0, 1), (3,))]  # a cat: all answers are cat
    wrong = [EpisodeRows("topic", (1, 2), (0, 1), (4, 7))]  # two dogs
    look = TransferEvaluator([(space.target, space.pool, right), (space.target, space.pool, wrong)], size=8)
    metrics, skills = look(space.encoder, lambda kind: FirstClass())
    assert metrics == {"topic": {"accuracy": 0.5}}
    assert skills["topic"] == pytest.approx((0.5 - 1 / 3) / (1 - 1 / 3))


def test_an_undefined_episode_is_left_out_of_meta_validation(space, monkeypatch):
    figures = iter([math.nan, 0.8, 0.6])
    monkeypatch.setattr("mtl.transfer.measure.measure", lambda *_: next(figures))
    episodes = [EpisodeRows("topic", (1, 2), (0, 1), (3,))] * 3
    metrics, _ = TransferEvaluator([(space.target, space.pool, episodes)], size=8)(space.encoder, lambda kind: FirstClass())
    assert metrics == {"topic": {"accuracy": pytest.approx(0.7)}}


def test_rows_of_classes_too_rare_for_an_episode_are_not_asked_in_validation(encoder_folder):
    data = topic_splits()
    data["train"] = [row for n, row in enumerate(data["train"]) if row["label"] != "bob" or n < 3]  # one bob, ten of the others
    target = load(load_tiny(encoder_folder), data)
    _, pool, episodes = episodes_of_validation(target, 2, np.random.default_rng(0))
    bob = target.kind.labels.index("bob")
    asked = target.kind.classes_of(pool)
    assert target.kind.classes_of(target.splits["validation"]).count((bob,)) == 2
    for episode in episodes:
        assert bob not in episode.classes
        assert len(episode.query) == 4
        assert all(bob not in asked[row] for row in episode.query)


def test_a_run_with_undefined_figures_ends_and_says_how_many(experiment_values):
    """Most ratings are alike, so that a rank correlation with an episode's five is often not defined."""
    rows = [{"text": f"{'very ' * (n % 4)}good {n}", "label": float(n % 10 == 0)} for n in range(60)]
    mood, *_ = experiment_values["tasks"]
    experiment_values |= {
        "strategy": "none",
        "tasks": [mood, {"name": "rate", "kind": "regression", "data": splits(rows)}],
        "targets": {
            "tasks": ["rate"],
            "shots": [4],
            "adaptation": ["ridge"],
            "protocol": {"name": "episodic", "episodes": 20, "queries": 5},
        },
    }
    finished = mtl.Experiment.of(**experiment_values).run()
    (figures,) = finished.runs[0]["results"]["targets"]["none"]["figures"]["rate"]["ridge"].values()
    undefined = figures.count(None)
    assert 0 < undefined < 20
    told = re.search(r"(\d+) figures are not defined", (finished.folder / "results.md").read_text(encoding="utf-8"))
    assert int(told[1]) >= undefined  # of all encoders


def test_a_label_that_all_episodes_have_is_judged_on_all_their_queries(space):
    episodes = [EpisodeRows("topic", (0, 1, 2), (0, 1, 2), (3, 4, 5)), EpisodeRows("topic", (0, 1, 2), (0, 1, 2), (6, 7))]
    _, looked_at = transfer(space, manifest(k1=episodes), FirstClass())
    assert set(looked_at["roc_curve"]) == {"bob", "cat", "dog"}
    assert looked_at["roc_curve"]["cat"] == [[0.0, 0.0], [1.0, 1.0]]  # one score for all
