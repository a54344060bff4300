"""What a training and a target share is found however it is written, and known again from what a bundle keeps."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from toys import load, load_tiny, topic_rows, topic_splits, with_shared_texts

from mtl.errors import DataError
from mtl.model.trained import load_trained, save_trained
from mtl.transfer.overlap import also_trained_on, count_trained, shared_classes, shared_texts, trained_on, without_overlaps


@pytest.fixture
def encoder(encoder_folder):
    return load_tiny(encoder_folder)


def test_a_text_is_shared_whatever_its_case_and_spaces(encoder):
    source = load(encoder, with_shared_texts())
    target = load(encoder, topic_splits())
    assert shared_texts(source.splits["train"], [target.splits["train"], target.splits["test"]]) == [2, 3]
    assert shared_texts(source.splits["train"], [target.splits["train"]]) == [2]
    assert shared_texts(source.splits["test"], target.splits.values()) == []


def test_a_pair_is_shared_if_both_its_texts_are_however_it_is_encoded(encoder):
    rows = [{"text": "the cat", "text_pair": other, "label": label} for other, label in (("sat", "a"), ("ran", "b"))]
    others = [{**rows[0], "text_pair": "flew"}, rows[1]]

    def pairs(rows, pairing):
        data = {"train": rows, "validation": rows, "test": rows}
        return load(encoder, data, "pair-classification", options={"pairing": pairing}).splits["train"]

    for first, second in (("bi", "bi"), ("bi", "cross"), ("cross", "bi"), ("cross", "cross")):
        assert shared_texts(pairs(rows, first), [pairs(others, second)]) == [1]


def test_shared_texts_are_an_error_or_left_out_or_allowed(encoder):
    source, target = load(encoder, with_shared_texts(), name="mood"), load(encoder, topic_splits())
    pools = {"topic": target.splits["train"], "again": target.splits["test"]}
    with pytest.raises(DataError, match=r"rows of train, row 3: .* of source 'mood' is also in target 'topic' \(1 rows"):
        without_overlaps(source, pools, "error")
    kept, counts = without_overlaps(source, pools, "drop")
    assert counts == {"topic": 1, "again": 1}
    train = source.splits["train"]
    assert kept.splits["train"].requests == [text for row, text in enumerate(train.requests) if row not in (2, 3)]
    assert kept.splits["test"] is source.splits["test"]
    assert len(train) == 32
    same, counts = without_overlaps(source, pools, "allow")
    assert same is source
    assert counts == {"topic": 1, "again": 1}


def test_what_an_earlier_check_has_left_out_is_still_counted(encoder):
    source = replace(load(encoder, with_shared_texts(), name="mood"), dropped={"train": 3})
    kept, _ = without_overlaps(source, {"topic": load(encoder, topic_splits()).splits["train"]}, "drop")
    assert kept.dropped == {"train": 3}


def test_a_source_of_which_nothing_is_left_is_refused(encoder):
    source = load(encoder, topic_splits(), name="again")
    with pytest.raises(DataError, match=r"Task 'again': every row of .* is also in a target"):
        without_overlaps(source, {"topic": source.splits["train"]}, "drop")


@pytest.mark.parametrize("name", ["card arrival", "Card  Arrival", "card_arrival", "CARD-ARRIVAL", "CardArrival", "card/arrival"])
def test_a_class_is_the_same_whatever_its_case_spaces_hyphens_and_underscores(name):
    assert shared_classes(["lost card", name], ["card_arrival", "top up"]) == [(name, "card_arrival")]


@pytest.mark.parametrize(("one", "other"), [("card arrival", "cardarrival"), ("C", "C++"), ("_", "-"), ("card", "cards")])
def test_other_classes_are_not_the_same(one, other):
    assert shared_classes([one], [other]) == []
    assert shared_classes([one], [one]) == [(one, one)]


def test_a_bundle_keeps_a_hash_of_every_training_text_once_and_in_order(encoder):
    rows = topic_splits()
    rows["train"][3] = {**rows["train"][0], "text": rows["train"][0]["text"].upper()}
    seen = trained_on(load(encoder, rows))
    assert seen.classes == ("bob", "cat", "dog")
    assert seen.texts.dtype == np.int64
    assert len(seen.texts) == 29  # of 30 rows two are the same
    assert np.all(np.diff(seen.texts) > 0)


def test_texts_are_known_again_by_their_hashes_as_by_themselves(encoder):
    target = load(encoder, topic_splits())
    trained = {"mood": trained_on(load(encoder, with_shared_texts()))}
    pools = {split: target.splits[split] for split in ("train", "test", "validation")}
    found = {split: count_trained(trained, "topic", pool, "allow") for split, pool in pools.items()}
    assert found == {"train": {"mood": 1}, "test": {"mood": 1}, "validation": {}}  # rows 0 of train and 5 of test
    for what in ("error", "drop"):  # nothing can be left out of a training that is over
        told = r"row 6: 'bob bob to 305' of target 'topic' was a training text of source 'mood' of the bundle \(1 rows"
        with pytest.raises(DataError, match=told):
            count_trained(trained, "topic", pools["test"], what)
        assert count_trained(trained, "topic", pools["validation"], what) == {}


def test_of_texts_that_stay_on_disk_no_hashes_are_kept_and_a_warning_says_so(encoder, tmp_path, caplog):
    rows = with_shared_texts()
    for split, own in rows.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    source = load(encoder, {"files": str(tmp_path / "{split}.jsonl"), "stream": True})
    seen = trained_on(source)
    assert seen.classes == ("bad", "good")
    assert seen.texts is None
    with caplog.at_level(logging.WARNING, "mtl.transfer.overlap"):
        assert count_trained({"mood": seen}, "topic", load(encoder, topic_splits()).splits["test"], "error") == {}
    (message,) = caplog.messages
    assert message.startswith("source mood of the bundle: its texts stayed on disk")
    assert load_trained(tmp_path, save_trained(tmp_path, {"mood": seen})) == {"mood": seen}


def test_what_is_learned_later_is_added_to_what_was(encoder):
    def rows(*labels, start):
        return load(encoder, {split: topic_rows(6, labels, start) for split in ("train", "validation", "test")})

    before = {"topic": trained_on(rows("cat", "dog", start=0)), "mood": trained_on(load(encoder, with_shared_texts()))}
    found = also_trained_on(before, rows("cat", "bob", start=4))
    assert found["mood"] is before["mood"]
    assert found["topic"].classes == ("cat", "dog", "bob")
    assert len(found["topic"].texts) == 11  # six of each, and "cat cat was 4" is of both
    assert set(before["topic"].texts) <= set(found["topic"].texts)


def test_rows_of_a_source_s_validation_are_compared_too_as_they_choose_the_weights(encoder):
    moods, target = with_shared_texts(), topic_splits()
    moods = {**moods, "train": moods["train"][4:], "validation": [*moods["validation"], {**target["test"][0], "label": "good"}]}
    source, pools = load(encoder, moods, name="mood"), {"topic": load(encoder, target).splits["test"]}
    with pytest.raises(DataError, match=r"rows of validation, row 9: .* of source 'mood' is also in target 'topic' \(1 rows"):
        without_overlaps(source, pools, "error")
    kept, counts = without_overlaps(source, pools, "drop")
    assert (counts, len(kept.splits["validation"])) == ({"topic": 1}, 8)


def test_a_long_text_is_cut_within_its_quotes(encoder):
    words = "the cat sat on the mat " * 8
    source = load(
        encoder,
        {split: [{"text": words, "label": "a"}, {"text": "bob", "label": "b"}] for split in ("train", "validation", "test")},
    )
    with pytest.raises(DataError, match=r"row 1: 'the cat sat on [a-z ]*…' of source"):
        without_overlaps(source, {"topic": source.splits["train"]}, "error")
