from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import splits
from kind_setup import backend, fitted, kind_of, loss_of, model_of, part, rows_of  # noqa: F401

import mtl
from mtl.data.episodes import Pool, collate_episode
from mtl.data.features import featurize
from mtl.data.tokenizer import Tokenizer
from mtl.errors import DataError
from mtl_tasks.smlmt import SMLMT

#: In rows: the 4, cat 3, dog 2, mat 2, bob 1. With 2 to 3 of 5 rows, classes are cat, dog, mat.
TEXTS = {"text": ["The cat sat", "the dog, the Cat", "the mat", "The mat is a cat mat", "bob and dog"]}
OPTIONS = {"options": {"fewest": 2, "most": 0.6}}


def test_classes_are_words_of_enough_rows_and_not_too_many(backend):
    kind, _ = fitted(SMLMT, TEXTS, backend, **OPTIONS)
    assert kind.labels == ("cat", "dog", "mat")


def test_the_most_frequent_classes_are_kept(backend):
    kind, _ = fitted(SMLMT, TEXTS, backend, options={"fewest": 2, "most": 0.6, "classes": 2})
    assert kind.labels == ("cat", "dog")


def test_a_text_hides_the_rarest_of_its_classes_everywhere(backend):
    kind, features = fitted(SMLMT, TEXTS, backend, **OPTIONS)
    assert [texts[0] for texts in features.requests] == [
        "The [MASK] sat",
        "the [MASK], the Cat",
        "the [MASK]",
        "The [MASK] is a cat [MASK]",
        "bob and [MASK]",
    ]
    assert kind.gold(features) == ["cat", "dog", "mat", "mat", "dog"]
    tokens = backend.convert_ids_to_tokens(features.tokenized.input_ids[0].tolist())
    assert tokens == ["[CLS]", "the", "[MASK]", "sat", "[SEP]"]


def test_a_row_that_hides_nothing_counts_nowhere(backend, encoder_folder):
    kind, _ = fitted(SMLMT, TEXTS, backend, **OPTIONS)
    features = featurize(kind, rows_of({"text": ["bob ran", "the cat"]}), Tokenizer(backend, 32))
    assert kind.gold(features) == [None, "cat"]
    assert [part(kind, features, [row]).units for row in (0, 1)] == [0, 1]
    model = model_of(kind, encoder_folder)
    assert loss_of(kind, model, features, [0]) == 0.0
    assert loss_of(kind, model, features) == pytest.approx(loss_of(kind, model, features, [1]), rel=1e-4)
    assert kind.primary_metric(kind.outcome(features, ["dog", "cat"], None)) == 1.0
    assert list(kind.classes_of(features)) == [(), (0,)]


def test_the_loss_is_the_cross_entropy_of_the_hidden_word(backend):
    kind, features = fitted(SMLMT, TEXTS, backend, **OPTIONS)
    assert kind.loss(torch.zeros(5, 3), part(kind, features).columns).item() == pytest.approx(math.log(3))


def test_an_episode_has_as_many_words_as_ways(backend):
    kind, features = fitted(SMLMT, TEXTS, backend, **OPTIONS)
    pool = Pool(features, kind, 2)  # dog and mat stand for two rows each
    episode = collate_episode(pool.draw(np.random.default_rng(0), "t", 2, 1, 1), features, kind)
    assert sorted(kind.labels[number] for number in episode.classes) == ["dog", "mat"]
    assert (episode.support.rows, episode.query.rows) == (2, 2)


def test_too_few_words_are_an_error(backend):
    with pytest.raises(DataError, match=r"given.csv has 0 words that are in 20 to 0.25 of its 5 rows; two are needed"):
        fitted(SMLMT, TEXTS, backend)


def test_an_empty_text_is_named(backend):
    with pytest.raises(DataError, match=r"given.csv, row 2: column 'text' is empty"):
        fitted(SMLMT, {"text": ["the cat", ""]}, backend, **OPTIONS)


@pytest.mark.parametrize("strategy", ["protonet", "fomaml", "reptile"])
def test_episodes_of_unlabelled_text_train_any_episodic_strategy(experiment_values, strategy):
    texts = [{"text": f"the {'cat' if number % 2 else 'dog'} sat on the mat {number}"} for number in range(40)]
    values = {
        **experiment_values,
        "tasks": [{"name": "cloze", "kind": "smlmt", "data": splits(texts), "options": {"fewest": 2, "most": 0.6}}],
        "strategy": strategy,
        "episodes": {"ways": 2, "shots": 1, "queries": 1},
        "budget": {"examples_per_task": 8},
        "evaluation": {"times": 0},
    }
    results = mtl.Experiment.of(**values).run().runs[0]["results"]
    assert results["models"]


def test_a_text_with_a_mask_of_its_own_is_read_as_it_is(backend):
    kind = kind_of(SMLMT, backend, **OPTIONS)
    kind.load_state({"labels": ["cat", "dog"], "majority": "cat"})
    assert kind.requests(rows_of({"text": ["the [MASK] and the cat"]})) == ["the [MASK] and the cat"]
