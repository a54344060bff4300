from __future__ import annotations

import numpy as np
import pytest

from mtl.data.features import Ragged, Tokenized, featurize
from mtl.data.rows import Rows
from mtl.data.tokenizer import Tokenizer
from mtl.task import Task
from mtl_tasks.classification import Classification

REQUESTS = ["the cat sat", "Anna flew to Berlin!", "bob"]


@pytest.fixture(scope="module")
def backend(encoder_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder_folder, local_files_only=True)


@pytest.fixture
def calls(monkeypatch):
    """Counts how often texts are really tokenised."""
    made = []
    uncached = Tokenizer.uncached

    def count(self, requests, words, stride):
        made.append(len(requests))
        return uncached(self, requests, words)

    monkeypatch.setattr(Tokenizer, "uncached", count)
    return made


def columns_of(tokenized: Tokenized):
    named = ("input_ids", "token_type_ids", "first_token", "word_chars")
    return {name: column for name in named if (column := getattr(tokenized, name)) is not None}


def assert_same(one: Tokenized, other: Tokenized):
    assert columns_of(one).keys() == columns_of(other).keys()
    for name, column in columns_of(one).items():
        again = columns_of(other)[name]
        np.testing.assert_array_equal(column.values, again.values, err_msg=name)
        np.testing.assert_array_equal(column.offsets, again.offsets, err_msg=name)
        assert (column.values.dtype, column.fill) == (again.values.dtype, again.fill)
    assert one.truncated == other.truncated


def test_ragged_lists_come_back_and_are_padded_to_the_longest_asked_for():
    ragged = Ragged.of([[1, 2, 3], [], [4]], fill=-1)
    assert [ragged[index].tolist() for index in range(3)] == [[1, 2, 3], [], [4]]
    assert ragged.lengths.tolist() == [3, 0, 1]
    assert ragged.padded([2, 0]).tolist() == [[4, -1, -1], [1, 2, 3]]
    assert ragged.padded([1, 2]).tolist() == [[-1], [4]]


def test_ragged_of_nothing_has_no_lists():
    assert len(Ragged.of([])) == 0
    assert Ragged.of([[], []]).padded([0, 1]).shape == (2, 0)


def test_a_cache_hit_gives_the_same_arrays_without_tokenising(backend, tmp_path, calls):
    first = Tokenizer(backend, 6, tmp_path)(REQUESTS, words=True)
    second = Tokenizer(backend, 6, tmp_path)(REQUESTS, words=True)
    assert calls == [3]
    assert first.truncated == 1
    assert_same(first, second)
    assert_same(first, Tokenizer(backend, 6)(REQUESTS, words=True))


@pytest.mark.parametrize("tear", ["empty", "half", "noise", "missing array"])
def test_a_torn_cache_file_is_made_again(backend, tmp_path, calls, tear):
    from safetensors.numpy import load_file, save_file

    first = Tokenizer(backend, 16, tmp_path)(REQUESTS, words=True)
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    if tear == "missing array":
        arrays = load_file(path)
        del arrays["first_token"]
        save_file(arrays, path)
    else:
        path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "noise": b"\xff" * len(whole)}[tear])
    assert_same(first, Tokenizer(backend, 16, tmp_path)(REQUESTS, words=True))
    assert calls == [3, 3]
    assert path.read_bytes() == whole


def test_the_cache_leaves_nothing_but_whole_files(backend, tmp_path):
    Tokenizer(backend, 16, tmp_path)(REQUESTS)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_the_cache_tells_apart_what_gives_other_sequences(backend, tmp_path, calls):
    tokenizer = Tokenizer(backend, 16, tmp_path)
    tokenizer(["the cat"])
    tokenizer(["the cat"], words=True)
    tokenizer([["the", "cat"]])
    tokenizer([("the", "cat")])
    tokenizer(["the", "cat"])
    tokenizer(["the cat "])
    Tokenizer(backend, 8, tmp_path)(["the cat"])
    assert len(calls) == 7
    tokenizer(["the cat"])
    assert len(calls) == 7


def test_no_requests_give_no_sequences(backend, tmp_path):
    tokenizer = Tokenizer(backend, 16, tmp_path)
    assert len(tokenizer([], words=True)) == 0
    assert len(tokenizer([], words=True)) == 0  # from the cache


def test_sequences_are_cut_at_the_longest_length_and_counted(backend):
    tokenized = Tokenizer(backend, 5)(["the cat sat", "the cat sat on", "the cat sat on the mat"])
    # With [CLS] and [SEP]: 5, 6 and 8 tokens.
    assert tokenized.input_ids.lengths.tolist() == [5, 5, 5]
    assert tokenized.truncated == 2


def test_words_of_a_text_have_their_first_token_and_characters(backend):
    tokenized = Tokenizer(backend, 16)(["Anna, to  Rio"], words=True)
    # [CLS] anna , to r ##i ##o [SEP]; words Anna 0–4, "," 4–5, to 6–8, Rio 10–13.
    assert tokenized.first_token[0].tolist() == [1, 2, 3, 4]
    assert tokenized.word_chars[0].reshape(-1, 2).tolist() == [[0, 4], [4, 5], [6, 8], [10, 13]]


def test_words_of_a_list_stay_as_many_as_they_are(backend):
    tokenized = Tokenizer(backend, 6)([["anna", "o'neil", "sat"], ["bob"]], words=True)
    # [CLS] anna o ' n [SEP]: o'neil is one word although the tokenizer splits it; sat is cut off.
    assert [tokenized.first_token[index].tolist() for index in range(2)] == [[1, 2, -1], [1]]


def test_chunks_do_not_show(backend, monkeypatch):
    whole = Tokenizer(backend, 16)(REQUESTS, words=True)
    monkeypatch.setattr("mtl.data.tokenizer._CHUNK", 2)
    assert_same(whole, Tokenizer(backend, 16)(REQUESTS, words=True))


def test_features_without_targets_need_no_labels(backend):
    kind = Classification(Task(name="t", kind="classification", data=[]))
    features = featurize(kind, Rows({"text": REQUESTS}, "input", range(1, 4)), Tokenizer(backend, 16), with_targets=False)
    assert len(features) == 3
    assert dict(features.columns) == {}
    assert features.requests == [[request] for request in REQUESTS]


def test_the_length_of_a_row_is_that_of_its_longest_sequence(backend):
    tokenized = Tokenizer(backend, 16)(["the", "the cat sat", "bob sat", "bob"])
    from mtl.data.features import Features

    features = Features(tokenized, 2, {}, Rows({}, "input", range(1, 3)))
    assert len(features) == 2
    assert features.lengths.tolist() == [5, 4]  # with [CLS] and [SEP]
    assert features.lengths_of(np.array([1, 0, 1])).tolist() == [4, 5, 4]


def test_the_length_of_a_row_of_any_number_of_sequences_is_that_of_its_longest(backend):
    from mtl.data.features import Features

    tokenized = Tokenizer(backend, 16)(["the", "the cat sat", "bob sat", "bob", "bob sat on"])
    features = Features(tokenized, np.array([2, 1, 2]), {}, Rows({}, "input", range(1, 4)))
    assert features.lengths.tolist() == [5, 4, 5]
    assert features.lengths_of(np.array([2, 1])).tolist() == [5, 4]
