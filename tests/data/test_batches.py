from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mtl.data.batches import by_length, collate, cut
from mtl.data.features import Features, Ragged, Tokenized, featurize
from mtl.data.rows import Rows
from mtl.data.tokenizer import Tokenizer
from mtl.model.multitask import MultiTaskModel
from mtl.task import Task
from mtl_tasks.classification import Classification
from mtl_tasks.pair_classification import PairClassification
from mtl_tasks.token_classification import TokenClassification

TEXTS = ["the cat sat on the mat", "bob", "anna flew to paris"]


@pytest.fixture(scope="module")
def encoder(encoder_folder):
    from mtl.config import EncoderConfig
    from mtl.model.encoder import load_encoder

    return load_encoder(
        EncoderConfig(name=str(encoder_folder), max_length=32, precision="fp32"), encoder_folder, attention="sdpa"
    )


@pytest.fixture(scope="module")
def work(encoder):
    """Two tasks that read the same texts, one of words and one of pairs: kinds and features."""
    columns = {
        "mood": (Classification, {"text": TEXTS, "label": ["x", "y", "x"]}, {}),
        "topic": (Classification, {"text": TEXTS[::-1], "label": ["p", "q", "p"]}, {}),
        "places": (TokenClassification, {"tokens": [t.split() for t in TEXTS], "tags": [_tags(t) for t in TEXTS]}, {}),
        "same": (
            PairClassification,
            {"text": TEXTS, "text_pair": ["bob", "bob", "the dog"], "label": ["n", "y", "n"]},
            {"options": {"pairing": "bi"}},
        ),
    }
    kinds, features = {}, {}
    for name, (cls, given, task) in columns.items():
        kinds[name] = cls(Task(**{"name": name, "kind": "k", "data": []} | task))
        rows = Rows(given, name, range(1, 4), name)
        kinds[name].fit(rows)
        features[name] = featurize(kinds[name], rows, encoder.tokenizer)
    return kinds, features


def _tags(text):
    return ["B-place" if word == "paris" else "O" for word in text.split()]


def lengths_only(lengths, sequences=1):
    """Features of rows of given lengths; longer lengths of a row's sequences come first."""
    nothing = Ragged.of([])
    tokens = Ragged.of([[7] * int(length) for length in lengths for _ in range(sequences)], "int32")
    tokenized = Tokenized(tokens, None, nothing, nothing)
    return Features(tokenized, sequences, {}, Rows({}, "made", range(1, len(lengths) + 1)))


def test_sequences_are_padded_to_the_longest_of_the_batch(work):
    kinds, features = work
    batch = collate({"mood": [1, 2]}, features, kinds)
    # [CLS] bob [SEP] and [CLS] anna flew to paris [SEP]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    assert batch.inputs["input_ids"][0, 3:].tolist() == [features["mood"].tokenized.input_ids.fill] * 3
    assert batch.inputs["input_ids"][1].tolist() == features["mood"].tokenized[2][0].tolist()
    assert batch.parts["mood"].columns["label"].tolist() == [1, 0]
    assert batch.parts["mood"].index is None


def test_padding_is_the_tokenizers_own(encoder_folder):
    from transformers import AutoTokenizer

    backend = AutoTokenizer.from_pretrained(encoder_folder, local_files_only=True)
    backend.pad_token = "[MASK]"
    kind = Classification(Task(name="t", kind="k", data=[]))
    rows = Rows({"text": TEXTS}, "input", range(1, 4))
    features = featurize(kind, rows, Tokenizer(backend, 16), with_targets=False)
    batch = collate({"t": [0, 1]}, {"t": features}, {"t": kind})
    assert batch.inputs["input_ids"][1, 3:].unique().tolist() == [backend.convert_tokens_to_ids("[MASK]")]


def test_a_sequence_that_two_tasks_share_is_encoded_once(work):
    kinds, features = work
    batch = collate({"mood": [0, 1], "topic": [0, 1, 2]}, features, kinds)
    # mood: mat, bob. topic, upside down: paris, bob, mat. Three texts in all.
    assert batch.inputs["input_ids"].shape[0] == 3
    assert batch.parts["mood"].index.tolist() == [0, 1]
    assert batch.parts["topic"].index.tolist() == [2, 1, 0]
    assert batch.rows == 5


def test_a_text_and_its_words_share_their_sequence(work):
    kinds, features = work
    batch = collate({"mood": [0, 1, 2], "places": [0, 1, 2]}, features, kinds)
    assert batch.inputs["input_ids"].shape[0] == 3
    assert batch.parts["mood"].index is None
    assert batch.parts["places"].units == 6 + 1 + 4  # words


def test_a_mixed_batch_gives_what_each_task_gets_alone(work, encoder):
    kinds, features = work
    model = MultiTaskModel(encoder, kinds, lambda name: 0).eval()
    rows = {"mood": [2, 0], "topic": [1, 0, 2], "places": [1, 2], "same": [0, 1, 2]}
    with torch.inference_mode():
        together = model(collate(rows, features, kinds))
        for name, ids in rows.items():
            for place, row in enumerate(ids):
                alone = model(collate({name: [row]}, features, kinds))[name][0]
                mixed = together[name][place]
                assert_close(mixed[: len(alone)] if name == "places" else mixed, alone)


def test_the_sequences_of_a_pair_stay_side_by_side(work):
    kinds, features = work
    batch = collate({"same": [2, 1]}, features, kinds)
    # paris, dog; bob, bob: the last two are one sequence.
    assert batch.parts["same"].index.tolist() == [0, 1, 2, 2]
    assert batch.parts["same"].rows == 2


def test_sequences_of_other_segments_are_not_taken_for_one_another(work):
    _, features = work
    kind = Classification(Task(name="t", kind="k", data=[]))
    split = replace(features["mood"], columns={})
    types = split.tokenized.token_type_ids
    other = replace(split, tokenized=replace(split.tokenized, token_type_ids=replace(types, values=1 - types.values)))
    batch = collate({"a": [0], "b": [0]}, {"a": split, "b": other}, {"a": kind, "b": kind})
    assert batch.inputs["token_type_ids"].tolist() == [[0] * 8, [1] * 8]


def test_encoders_without_segments_get_none():
    kind = Classification(Task(name="t", kind="k", data=[]))
    batch = collate({"t": [0, 1]}, {"t": lengths_only([2, 3])}, {"t": kind})
    assert set(batch.inputs) == {"input_ids", "attention_mask"}


def test_a_batch_on_another_device_is_the_same(work):
    kinds, features = work
    batch = collate({"mood": [0, 1], "topic": [1]}, features, kinds)
    moved = batch.to(torch.device("meta"))
    assert {value.device.type for value in moved.inputs.values()} == {"meta"}
    assert moved.parts["topic"].index.device.type == "meta"
    assert moved.parts["mood"].columns["label"].device.type == "meta"
    assert moved.rows == batch.rows
    assert batch.to(torch.device("cpu")) is batch


def test_rows_are_cut_at_the_size_and_the_tokens_whichever_is_reached_first():
    lengths = np.array([2, 2, 2, 5, 5, 1])
    # Padding counted: 3 · 2 is the size; 2 · 5 is 10 tokens, a third row would be 15.
    assert list(cut(range(6), lengths, 1, size=3, max_tokens=10)) == [[0, 1, 2], [3, 4], [5]]


def test_every_sequence_of_a_row_counts_against_the_tokens():
    # Padding counted: rows 0 and 1 have 2 + 1 sequences of 5 tokens; with row 2 it would be 4 of 5.
    lengths, sequences = np.array([4, 5, 5, 5]), np.array([2, 1, 1, 2])
    assert list(cut(range(4), lengths, sequences, size=8, max_tokens=15)) == [[0, 1], [2, 3]]


def test_a_row_longer_than_the_tokens_allowed_is_a_batch_of_its_own():
    lengths = np.array([3, 50, 3])
    assert list(cut(range(3), lengths, 1, size=8, max_tokens=10)) == [[0], [1], [2]]


@pytest.mark.parametrize("sequences", [1, 2])
def test_no_evaluation_batch_has_more_tokens_than_allowed(sequences):
    lengths = np.random.default_rng(0).integers(1, 40, 200)
    split = lengths_only(lengths, sequences)
    batches = list(by_length(split, size=16, max_tokens=160))
    assert sorted(row for batch in batches for row in batch) == list(range(200))
    for batch in batches:
        assert len(batch) <= 16
        assert sequences * len(batch) * lengths[batch].max() <= 160 or len(batch) == 1


def test_evaluation_batches_have_rows_of_like_length_longest_first():
    lengths = np.array([4, 9, 4, 7, 9, 1])
    assert list(by_length(lengths_only(lengths), size=2, max_tokens=100)) == [[1, 4], [3, 0], [2, 5]]


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cuda:1", True), ("mps", False), ("xpu", False)])
def test_only_copies_to_cuda_devices_are_pinned_and_not_waited_for(work, monkeypatch, device, pinned):
    pins, copies = [], []

    def pin(tensor):
        pins.append(tensor)
        return tensor.clone()

    def to(tensor, target, *, non_blocking=False):
        copies.append((tensor, str(target), non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    kinds, features = work
    batch = collate({name: [1, 0] for name in features}, features, kinds)
    batch.to(torch.device(device))
    tensors = [*batch.inputs.values(), *(value for part in batch.parts.values() for value in part.columns.values())]
    tensors += [part.index for part in batch.parts.values() if part.index is not None]
    assert len(copies) == len(tensors)
    assert {(target, waited) for _, target, waited in copies} == {(device, pinned)}
    assert {id(tensor) for tensor in pins} == ({id(tensor) for tensor in tensors} if pinned else set())
    # What is copied is what was pinned, not what it was made of.
    assert all((id(tensor) in {id(own) for own in tensors}) is not pinned for tensor, *_ in copies)
